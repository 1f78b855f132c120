"""`kpbpf node`: this node as the programs see it: uplinks, addresses, masquerade, sockets.

Reads the maps and pins, so it works while no daemon runs; a running one adds why an interface is
an uplink, and what is in its way. Changes nothing.
"""

import argparse
from typing import Any

from kpbpf.cli import options
from kpbpf.cli.output import Column, add_output, document, facts, listed, rows, yes_no
from kpbpf.home import Home

UPLINKS = (
    Column("UPLINK", "name"),
    Column("IFINDEX", "ifindex"),
    Column("KIND", "kind"),
    Column("PROGRAMS", "programs", listed),
    Column("ADDRESSES", "addresses", listed),
    Column("MASQUERADE", "masquerade", listed),
    Column("WHY", "why"),
    Column("NOT ATTACHED", "why_not"),
    Column("MAC", "mac", wide=True),
)
ADDRESSES = (
    Column("ADDRESS", "address"),
    Column("OF THIS NODE", "node", yes_no),
    Column("NODEPORTS", "node_ports", yes_no),
)
MASQUERADE = (
    Column("BACKEND", "backend"),
    Column("PROTOCOL", "protocol"),
    Column("SEEN AS", "address"),
    Column("PORTS", "used"),
    Column("OF", "limit"),
    Column("PRESSURE", "percent", lambda percent: f"{percent}%"),
)

TOP = 10
"""Backends whose masquerade ports are shown to people; machines get all."""

SOCKET_LB = {
    "off": "off: processes of this node are served packet by packet",
    "host": "host: processes of this node get their backend when they connect",
    "all": "all: processes of this node and of pods get their backend when they connect",
}
DETECT_LOCAL = {
    "off": "off: no client is told apart as a pod of this node",
    "interface": "by interface: what comes from a pod that the programs are attached to",
    "range": "by address",
}

_EXAMPLES = """
kpbpf node
kpbpf node -o wide
kpbpf node -o json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add -o."""
    add_output(parser)
    options.command(
        parser,
        "Show this node as the programs see it: uplinks, addresses, masquerade, socket programs.",
        _call,
        _EXAMPLES,
    )


def _call(arguments: argparse.Namespace) -> int:
    from kpbpf.cli import asking

    home = options.home(arguments)
    found = collect(home, asking.ask(home, "node") or {})
    if arguments.output in ("json", "yaml"):
        document(arguments.output, found)
    else:
        _tell(arguments.output, found)
    return 0


def collect(home: Home, told: dict[str, Any]) -> dict[str, Any]:
    """Gather what maps and pins say of this node, and what the daemon `told` of its uplinks."""
    from maps import show_node
    from maps.table import open_tables

    with open_tables(home) as tables:
        return {
            "node": told.get("node"),
            "config": show_node.configuration(tables),
            "uplinks": uplinks(show_node.uplinks(tables), _attached(home), told),
            "addresses": show_node.addresses(tables),
            "sockets": _socket_programs(home),
            "masquerade": show_node.masquerade(tables),
        }


def uplinks(
    found: list[Any], attached: dict[int, list[str]], told: dict[str, Any]
) -> list[dict[str, Any]]:
    """Put maps, pins and the daemon's account together; it may know of more than are served."""
    said = {one["ifname"]: one for one in told.get("uplinks", ())}
    unknown: dict[str, Any] = {"kind": None, "addresses": [], "why": None, "why_not": None}
    together = [
        {
            **row,
            "programs": attached.get(row["ifindex"], []),
            **{key: one[key] or row.get(key) for key in unknown},
        }
        for row in found
        for one in (said.pop(row["name"], None) or unknown,)
    ]
    missing: dict[str, Any] = {"ifindex": None, "mac": None, "masquerade": [], "programs": []}
    together += [
        {"name": name, **missing, **{key: one[key] for key in unknown}}
        for name, one in said.items()
    ]
    return sorted(together, key=lambda row: (row["name"] or "", row["ifindex"] or 0))


def _attached(home: Home) -> dict[int, list[str]]:
    """Our programs in force, by interface."""
    from kpbpf.datapath import attach

    found: dict[int, list[str]] = {}
    for one in attach.attachments(home):
        if one.program_id:
            found.setdefault(one.ifindex, []).append(one.program)
    return found


def _tell(output: str, found: dict[str, Any]) -> None:
    config = found["config"]
    first, last = config["masquerade_ports"]
    facts(
        [
            *([("Node", found["node"])] if found["node"] else []),
            ("Node addresses", listed(config["node_addresses"])),
            ("Route by", config["uplink"] or "-"),
            ("NodePorts in use", "-".join(map(str, config["node_ports"])) or "none"),
            ("Masquerade ports", f"{first}-{last}"),
            ("Socket programs", SOCKET_LB[config["socket_lb"]]),
            *_sockets(config, found["sockets"]),
            ("Local pods are told", _detect_local(config)),
            ("Cluster IPs", listed(config["service_ranges"])),
            ("Hairpin addresses", listed(config["hairpin_addresses"])),
            ("Flags", listed(config["flags"])),
        ]
    )
    for columns, table in (
        (UPLINKS, found["uplinks"]),
        (ADDRESSES, found["addresses"]),
        (MASQUERADE, found["masquerade"][:TOP]),
    ):
        if table:
            print()
            rows(output, [one for one in columns if _said(one, table)], table)


def _said(column: Column, table: list[Any]) -> bool:
    """Reasons are shown only where there are any."""
    return column.key not in ("why", "why_not") or any(row[column.key] for row in table)


def _detect_local(config: dict[str, Any]) -> str:
    ranges = f": {listed(config['pod_ranges'])}" if config["detect_local"] == "range" else ""
    return DETECT_LOCAL[config["detect_local"]] + ranges


def _sockets(config: dict[str, Any], state: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the socket programs are attached, and what is in their way."""
    wanted = config["socket_lb"] != "off"
    count = len(state["attached"])
    pairs = []
    if count:
        pairs.append(("  attached", f"{count} at cgroup {state['cgroup']}, by {state['how']}"))
    if wanted and state["missing"]:
        pairs.append(("  not attached", listed(state["missing"])))
    if wanted and state["why"]:
        pairs.append(("  because", " ".join(state["why"].split())))
    return pairs


def _socket_programs(home: Home) -> dict[str, Any]:
    from kpbpf.datapath import cgroup

    return cgroup.state(home)
