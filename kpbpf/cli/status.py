"""`kpbpf status`: is everything well? Exit code 0 if so, 1 if anything is not.

Looks at what the daemon wrote down and at the pins, and forms its own opinion: a daemon that
hangs cannot answer for itself. Changes nothing.
"""

import argparse
import time
from typing import Any

from kpbpf.cli import options
from kpbpf.cli.output import add_output, age, document, facts
from kpbpf.home import Home
from kpbpf.status import Status, daemon_pid, read

SILENT_SEC = 30.0
"""A daemon that has not written its status for so long is stuck."""

FULL_PERCENT = 90.0
"""From here on a map is told of; flow tables forget the oldest and may well be full."""

FULLEST = 10
"""Backends whose masquerade ports are looked at: those that hold the most."""


_HANDING_OVER = "yes: new connections to Services are left to another proxy, known ones go on"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add -o."""
    add_output(parser)
    options.command(
        parser,
        "Tell whether everything is well: daemon, objects, maps, programs. Exit code 1 if not.",
        _call,
        "kpbpf status\nkpbpf status -o json\nkpbpf status >/dev/null || echo 'look at kpbpf'",
    )


def _call(arguments: argparse.Namespace) -> int:
    found = collect(options.home(arguments), time.time())
    if arguments.output in ("json", "yaml"):
        document(arguments.output, found)
    else:
        _tell(found)
    return 0 if found["healthy"] else 1


def collect(home: Home, now: float) -> dict[str, Any]:
    """Gather what there is to know; `wrong` says in words what is not well."""
    pid = daemon_pid(home)
    status = read(home)
    found: dict[str, Any] = {
        "healthy": True,
        "wrong": _wrong_with_daemon(pid, status, now),
        "daemon": {"pid": pid or None}
        | (status._asdict() | {"pid": pid} if status and pid else {}),
        "problems": status.problems if status else [],
        **_kernel_side(home),
    }
    problems = len(found["problems"])
    if problems:
        found["wrong"].append(f"{problems} problem{'s'[: problems > 1]} with objects, see below")
    found["wrong"] += found.pop("wrong_in_kernel")
    found["healthy"] = not found["wrong"]
    return found


def _wrong_with_daemon(pid: int, status: Status | None, now: float) -> list[str]:
    if not pid:
        return ["no daemon runs: nothing follows changes (traffic goes on); start `kpbpf run`"]
    if status is None or status.pid != pid:
        return ["the daemon is still starting"]
    wrong = [f"{what}: {why}" for what, why in status.failures.items()]
    if not status.synced:
        wrong.append("the daemon has not written what its sources say yet")
    lost = sum(1 for pod in status.pods if pod["why_not"])
    if lost:
        wrong.append(f"pods of this node that are not attached: {lost} (`kpbpf ep ls` says why)")
    if now - status.written > SILENT_SEC:
        wrong.append(f"the daemon has been silent for {age(now - status.written)}: restart it")
    return wrong


def _kernel_side(home: Home) -> dict[str, Any]:
    """What maps and pins say by themselves, without the daemon."""
    from kpbpf.cli import prog
    from kpbpf.datapath import cgroup
    from kpbpf.errors import NotFound
    from maps import show, show_node, show_services
    from maps.layout import MapKind
    from maps.table import open_tables

    try:
        with open_tables(home) as tables:
            services = len(show_services.services(tables))
            endpoints = show.endpoints(tables)
            usage = show.map_usage(tables)
            node: dict[str, Any] = {
                "config": show_node.configuration(tables),
                "uplinks": show_node.uplinks(tables),
                "masquerade": show_node.masquerade(tables, FULLEST),
            }
    except NotFound as error:
        nothing: dict[str, Any] = {"services": 0, "endpoints": 0, "maps": [], "programs": []}
        nothing |= {"config": None, "uplinks": [], "masquerade": [], "sockets": {}}
        return nothing | {"wrong_in_kernel": [str(error)]}
    arrays = {kind.name.lower() for kind in MapKind if kind.is_array}
    node["sockets"] = cgroup.state(home)
    programs = prog.collect(home)
    attached = {ifindex for row in programs for ifindex in row["ifindexes"]}
    limited = arrays | {kind.name.lower() for kind in MapKind if kind.is_lru}
    wrong = [
        f"map {row['name']} is {row['percent']}% full: new entries may be refused"
        for row in usage
        if row["percent"] >= FULL_PERCENT and row["kind"] not in limited
    ]
    wrong += [
        f"endpoint {row['id']} ({', '.join(row['ips'])}) has no programs attached"
        for row in endpoints
        if row["ifindex"] not in attached
    ]
    return {
        "services": services,
        "endpoints": len(endpoints),
        **node,
        "maps": [row for row in usage if row["kind"] not in arrays],
        "programs": programs,
        "wrong_in_kernel": wrong + _wrong_with_node(node, attached),
    }


def _wrong_with_node(node: dict[str, Any], attached: set[int]) -> list[str]:
    """What clients outside, or backends elsewhere, would notice."""
    wrong = [
        f"uplink {row['name'] or row['ifindex']} has no programs attached: Services do not work "
        "for what comes and goes by it"
        for row in node["uplinks"]
        if row["ifindex"] not in attached
    ]
    missing = node["sockets"]["missing"]
    if missing and node["config"]["socket_lb"] != "off":
        why = " ".join(node["sockets"]["why"].split()) or "a running daemon attaches them again"
        wrong.append(f"socket programs are not attached ({', '.join(missing)}): {why}")
    return wrong + [
        f"masquerade: {row['backend']} has {row['used']:,} of {row['limit']:,} source ports of "
        f"{row['address']} in use: new connections may be dropped (no_port)"
        for row in node["masquerade"]
        if row["percent"] >= FULL_PERCENT
    ]


def _tell(found: dict[str, Any]) -> None:
    daemon = found["daemon"]
    pairs = [("Healthy", "yes" if found["healthy"] else "no")]
    if daemon.get("started"):
        since = age(time.time() - daemon["started"])
        pairs.append(("Daemon", f"process {daemon['pid']}, up {since}, node {daemon['node']}"))
        pairs += _sources(daemon)
        synced = daemon["synced"]
        ago = f"{age(time.time() - daemon['last_sync'])} ago" if synced else "not yet"
        pairs.append(("Last sync", ago))
    else:
        pairs.append(("Daemon", f"process {daemon['pid']}" if daemon["pid"] else "not running"))
    waiting = f", {daemon['pending']} Services wait to be written" if daemon.get("pending") else ""
    pairs.append(("Services", f"{found['services']} addresses served{waiting}"))
    pairs.append(("Endpoints", f"{found['endpoints']} pods"))
    pairs += _node(found)
    pairs += [
        (
            f"Program {row['name']}",
            f"{row['instructions']} instructions, {row['where'] or 'attached nowhere'}",
        )
        for row in found["programs"]
    ]
    pairs += [
        (f"Map {row['name']}", f"{row['entries']} of {row['limit']} ({row['percent']}%)")
        for row in found["maps"]
        if row["entries"]
    ]
    facts(pairs)
    for title, lines in (
        ("Not well", found["wrong"]),
        ("Problems with objects", [_problem(problem) for problem in found["problems"]]),
    ):
        if lines:
            print(f"\n{title}:")
            print("\n".join(f"  {line}" for line in lines))


def _node(found: dict[str, Any]) -> list[tuple[str, str]]:
    """A line each about uplinks, sockets and masquerade; `kpbpf node` tells more."""
    config, fullest = found["config"], found["masquerade"][:1]
    if config is None:
        return []
    names = [str(row["name"] or row["ifindex"]) for row in found["uplinks"]]
    first, last = config["masquerade_ports"]
    held = [
        f"at most {row['used']} in use, by {row['backend']} ({row['percent']}%)" for row in fullest
    ]
    return [
        ("Uplinks", ", ".join(names) or "none: only pods of this node are served"),
        ("Socket LB", config["socket_lb"]),
        *([("Handing over", _HANDING_OVER)] if "hand_over" in config["flags"] else []),
        ("Masquerade ports", f"{first}-{last}, {', '.join(held) or 'none in use'}"),
    ]


def _sources(daemon: dict[str, Any]) -> list[tuple[str, str]]:
    """Where objects come from, and how many of each resource."""
    pairs = []
    if daemon["api"]:
        read = ", ".join(
            f"{one['objects']} {one['resource']}" if one["synced"] else f"{one['resource']} not yet"
            for one in daemon["reflectors"]
        )
        pairs.append(("API server", f"{daemon['api']} ({read})"))
    if daemon["manifests"]:
        pairs.append(("Manifests", ", ".join(daemon["manifests"])))
    return pairs


def _problem(problem: dict[str, str]) -> str:
    from kpbpf.errors import Problem

    return str(Problem(**problem))
