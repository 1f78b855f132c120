"""`kpbpf ep`: endpoints, the pods of this node that kpbpf serves.

Listing reads the maps, and of pods that could not be attached what the daemon last said.
Attaching and detaching goes through `controllers.endpoints`, as the daemon's own work does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kpbpf.cli import options
from kpbpf.cli.output import Column, Row, add_output, listed, rows
from kpbpf.errors import NotFound, Usage
from kpbpf.home import Home

COLUMNS = (
    Column("ID", "id"),
    Column("POD", "pod"),
    Column("IP", "ips", listed),
    Column("HOST", "host"),
    Column("FOUND", "found"),
    Column("IFINDEX", "ifindex"),
    Column("POD MAC", "pod_mac"),
    Column("NODE MAC", "node_mac"),
    Column("MODE", "mode"),
    Column("NAME", "name", wide=True),
)
WHY_NOT = Column("NOT ATTACHED", "why_not")
"""Only where there is such a pod."""

_LS = "kpbpf ep ls\nkpbpf ep ls -o wide\nkpbpf ep ls -o json"
_ADD = """
kpbpf ep add --ifname=eth0 --netns=/run/netns/pod-a
kpbpf ep add --ifname=eth0 --netns=/proc/4711/ns/net --pod=default/client
"""
_RM = """
kpbpf ep rm 3
kpbpf ep rm 10.42.0.2
kpbpf ep rm veth-a
kpbpf ep rm --ifname=eth0 --netns=/run/netns/pod-a
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    about = "list endpoints, by id, and the pods that could not be attached"
    add_output(options.verb(verbs, "ls", about, _ls, _LS))
    add = options.verb(verbs, "add", "serve a pod: attach the programs to it", _add, _ADD)
    add.add_argument("--ifname", required=True, help="the interface inside the pod, such as eth0")
    add.add_argument("--netns", metavar="PATH", required=True, help="the pod's network namespace")
    add.add_argument("--pod", metavar="NAMESPACE/NAME", help="what to call it")
    rm = options.verb(verbs, "rm", "leave a pod alone: take the programs off", _rm, _RM)
    rm.add_argument("endpoint", metavar="ID|IP|HOST", nargs="?", help="as `kpbpf ep ls` shows it")
    rm.add_argument("--ifname", help="the interface inside the pod")
    rm.add_argument("--netns", metavar="PATH", help="the pod's network namespace")


def _ls(arguments: argparse.Namespace) -> int:
    from maps import show
    from maps.table import open_tables

    home = options.home(arguments)
    with open_tables(home) as tables:
        attached = [_with_origin(row) for row in show.endpoints(tables)]
    missing = _missing(home, attached)
    rows(arguments.output, (*COLUMNS, WHY_NOT) if missing else COLUMNS, [*attached, *missing])
    return 0


def _with_origin(row: Row) -> dict[str, Any]:
    """Add how an endpoint was found ("by hand", "route", ...) and its pod, from its name."""
    from controllers import origin

    how, pod = origin.of(row["name"])
    return {**row, "pod": pod or None, "found": how or None, "why_not": None}


def _missing(home: Home, attached: Sequence[Row]) -> list[dict[str, Any]]:
    """The pods that the daemon could not attach, as it last knew, unless they are by now."""
    from kpbpf import status

    last = status.read(home)
    served = {ip for row in attached for ip in row["ips"]}
    empty = dict.fromkeys(("id", "name", "host", "ifindex", "pod_mac", "node_mac", "mode", "found"))
    return [
        empty | {"ips": pod["addresses"], "pod": pod["pod"], "why_not": pod["why_not"]}
        for pod in (last.pods if last else ())
        if pod["why_not"] and not (pod["addresses"] and served.issuperset(pod["addresses"]))
    ]


def _add(arguments: argparse.Namespace) -> int:
    from kpbpf.cli import ready
    from kpbpf.datapath.netns import find_host_end

    name = found_name(arguments.netns, arguments.ifname, arguments.pod)
    link = find_host_end(arguments.ifname, arguments.netns)
    with ready.endpoints(options.home(arguments)) as endpoints:
        pod = endpoints.add(link, name)
    ips = ", ".join(map(_ip, pod.addresses))
    print(f"endpoint {pod.id}: {ips} behind {link.host_ifname} (interface {link.ifindex})")
    return 0


def _rm(arguments: argparse.Namespace) -> int:
    from controllers.endpoints import Endpoints
    from controllers.hooks import KernelHooks
    from maps import show
    from maps.table import open_tables

    home = options.home(arguments)
    with open_tables(home) as tables:
        row = choose(show.endpoints(tables), _asked(arguments))
        # What is taken off needs no program that could be put on.
        pod = Endpoints(home, tables, KernelHooks(home, {})).remove(row["id"])
    print(f"endpoint {pod.id} removed: {', '.join(map(_ip, pod.addresses))}")
    return 0


def found_name(netns: str, ifname: str, pod: str | None) -> str:
    """Name an endpoint by how it was found: "netns=/run/netns/a ifname=eth0 pod=default/a"."""
    parts = {"netns": str(Path(netns).absolute()), "ifname": ifname, "pod": pod}
    for flag, value in parts.items():
        if value is not None and (not value or any(c.isspace() for c in value)):
            raise Usage(f"--{flag} {value!r}: blanks, or nothing at all, cannot be a name")
    return " ".join(f"{flag}={value}" for flag, value in parts.items() if value)


def choose(endpoints: Sequence[Row], asked: str) -> Row:
    """Find the one endpoint that an id, an address, a host interface or a name means."""
    found = [row for row in endpoints if asked in _handles(row)]
    if not found:
        raise NotFound(f"there is no endpoint {asked}; `kpbpf ep ls` lists those there are")
    if len(found) > 1:
        ids = ", ".join(str(row["id"]) for row in found)
        raise Usage(f"{asked} may mean several endpoints ({ids}): say which by its id")
    return found[0]


def _handles(row: Row) -> set[str]:
    """All that people may call it by; pods also by name alone, namespaces by their file's name."""
    words = dict(word.split("=", 1) for word in row["name"].split() if "=" in word)
    pod, netns = words.get("pod", ""), words.get("netns", "")
    found = f"netns={netns} ifname={words.get('ifname')}"
    return {
        str(row["id"]),
        *row["ips"],
        row["host"] or "",
        row["name"],
        *(word for word in (pod, pod.rpartition("/")[2], Path(netns).name, found) if word),
    }


def _asked(arguments: argparse.Namespace) -> str:
    by_place = arguments.netns, arguments.ifname
    if arguments.endpoint and not any(by_place):
        ip = options.ip_or_none(arguments.endpoint)
        return _ip(ip) if ip else str(arguments.endpoint)
    if all(by_place) and not arguments.endpoint:
        return found_name(arguments.netns, arguments.ifname, None)
    raise Usage(
        "name the endpoint by its id, address or host interface, or by --netns and --ifname"
    )


def _ip(addr: bytes) -> str:
    from kpbpf.address import to_text

    return to_text(addr)
