"""`kpbpf svc`: Services, as the programs see them; and Services made by hand.

Listing reads the maps. Adding and removing writes a manifest, which a running daemon applies;
without one, it is applied here, in the same way.
"""

import argparse
from typing import TYPE_CHECKING

from kpbpf.cli import options
from kpbpf.cli.output import Column, add_output, age, document, facts, rows
from kpbpf.errors import NotFound

if TYPE_CHECKING:
    from maps import show

COLUMNS = (
    Column("NAME", "name"),
    Column("ADDRESS", "address"),
    Column("PORT", "port"),
    Column("PROTOCOL", "protocol"),
    Column("ENDPOINTS", "endpoints"),
    Column("LOCAL", "local_endpoints"),
    Column("AFFINITY", "affinity_sec", age),
    Column("TRAFFIC POLICY", "internal_traffic_policy", wide=True),
    Column("ID", "id", wide=True),
)
BACKENDS = (Column("BACKEND", "backend"), Column("LOCAL", "local"), Column("POD", "pod"))

_LS = """
kpbpf svc ls
kpbpf svc ls -o wide
kpbpf svc ls -o json
"""
_GET = """
kpbpf svc get default/web
kpbpf svc get 10.96.0.100:5201
kpbpf svc get default/web -o yaml
"""
_ADD = """
kpbpf svc add --service=10.96.0.100:5201 --backend=192.168.10.10:5201
kpbpf svc add --service=10.96.0.53:53 --protocol udp --backend=10.42.0.2:53 --backend=10.42.0.3:53
kpbpf svc add --service=[fd00::1]:80 --backend=[fd42::2]:8080 --affinity 600 --name default/web
"""
_RM = """
kpbpf svc rm 10.96.0.100:5201
kpbpf svc rm default/web
kpbpf svc rm --service=10.96.0.53:53 --protocol udp
"""
_NAMED = "name (namespace/name) or address (10.96.0.10:80) of a Service"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    add_output(options.verb(verbs, "ls", "list Services, by name", _ls, _LS))
    get = options.verb(verbs, "get", "show a Service and its backends", _get, _GET)
    get.add_argument("service", metavar="NAME|ADDRESS:PORT", help=_NAMED)
    add_output(get)
    add = options.verb(verbs, "add", "make a Service by hand, or change one", _add, _ADD)
    add.add_argument(
        "--service", metavar="ADDRESS:PORT", required=True, help="where clients reach it"
    )
    add.add_argument(
        "--backend",
        metavar="ADDRESS:PORT",
        action="append",
        default=[],
        help="where it leads; repeat it for several, leave it out for a Service that refuses",
    )
    add.add_argument(
        "--protocol", choices=options.PROTOCOLS, default="tcp", type=str.lower, help="(tcp)"
    )
    add.add_argument(
        "--affinity",
        metavar="SECONDS",
        nargs="?",
        const=options.AFFINITY_SEC,
        default=0,
        type=options.affinity,
        help=f"keep a client on its backend for so long ({options.AFFINITY_SEC})",
    )
    add.add_argument("--name", metavar="NAMESPACE/NAME", help="what to call it")
    rm = options.verb(verbs, "rm", "remove a Service that was made by hand", _rm, _RM)
    which = rm.add_mutually_exclusive_group(required=True)
    which.add_argument("service", metavar="NAME|ADDRESS:PORT", nargs="?", help=_NAMED)
    which.add_argument(
        "--service", metavar="ADDRESS:PORT", dest="address", help="the address, as for svc add"
    )
    rm.add_argument("--protocol", choices=options.PROTOCOLS, type=str.lower, help="(any)")


def _ls(arguments: argparse.Namespace) -> int:
    from maps import show
    from maps.table import open_tables

    with open_tables(options.home(arguments)) as tables:
        rows(arguments.output, COLUMNS, show.services(tables))
    return 0


def _get(arguments: argparse.Namespace) -> int:
    from kpbpf.address import with_port
    from maps import show
    from maps.table import open_tables

    asked = arguments.service
    place = options.ip_and_port_or_none(asked)
    address = with_port(*place) if place else ""
    with open_tables(options.home(arguments)) as tables:
        names = {
            row["name"]
            for row in show.services(tables)
            if (_address(row) == address if place else options.names(asked, row["name"]))
        }
        found = [row for name in sorted(names) for row in show.services(tables, name, True)]
        pods = {ip: row["name"] for row in show.endpoints(tables) for ip in row["ips"]}
    if not found:
        raise NotFound(f"there is no Service {asked}; `kpbpf svc ls` lists those there are")
    if arguments.output in ("json", "yaml"):
        document(arguments.output, found)
        return 0
    for number, row in enumerate(found):
        print(end="\n" if number else "")
        _show(arguments.output, row, pods)
    return 0


def _show(output: str, row: "show.ServiceRow", pods: dict[str, str]) -> None:
    """Print one served address: what is said of it, then its backends."""
    affinity = f"client address, {age(row['affinity_sec'])}" if row["affinity_sec"] else "none"
    facts(
        [
            ("Name", row["name"]),
            ("Address", _address(row)),
            ("Protocol", row["protocol"]),
            ("Affinity", affinity),
            ("Traffic policy", row["internal_traffic_policy"]),
            ("Endpoints", f"{row['endpoints']}, {row['local_endpoints']} of them on this node"),
        ]
    )
    backends = [
        {
            "backend": backend,
            "local": "yes" if backend in row["local_backends"] else "no",
            "pod": pods.get(backend.rpartition(":")[0].strip("[]")),
        }
        for backend in dict.fromkeys([*row["backends"], *row["local_backends"]])
    ]
    if backends:
        print()
        rows(output, BACKENDS, backends)


def _address(row: "show.ServiceRow") -> str:
    host = f"[{row['address']}]" if ":" in row["address"] else row["address"]
    return f"{host}:{row['port']}"


def _add(arguments: argparse.Namespace) -> int:
    from kpbpf.cli import svc_change

    return svc_change.add(options.home(arguments), svc_change.asked_for(arguments))


def _rm(arguments: argparse.Namespace) -> int:
    from kpbpf.cli import svc_change

    asked = arguments.service or arguments.address
    return svc_change.remove(options.home(arguments), asked, arguments.protocol)
