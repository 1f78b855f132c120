"""`kpbpf socket`: sockets of processes that were given a backend when they connected.

Reads the table of the socket programs, which forgets the oldest when it is full; changes nothing.
Packets of these sockets go to the backend directly, and are no flows of ours.
"""

import argparse
import time

from kpbpf.cli import options
from kpbpf.cli.output import Column, add_output, age, rows

COLUMNS = (
    Column("PROTOCOL", "protocol"),
    Column("DESTINATION", "destination"),
    Column("BACKEND", "backend"),
    Column("SERVICE", "service"),
    Column("IDLE", "idle_sec", age),
    Column("COOKIE", "cookie", wide=True),
    Column("NETNS COOKIE", "netns", wide=True),
)

_EXAMPLES = """
kpbpf socket ls
kpbpf socket ls --service kube-system/kube-dns
kpbpf socket ls --backend 10.42.1.7 -o wide
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    about = "list sockets and the backend each one was given, by Service"
    ls = options.verb(verbs, "ls", about, _ls, _EXAMPLES)
    ls.add_argument("--service", metavar="NAME", help="only to this Service: namespace/name")
    ls.add_argument("--backend", metavar="IP", help="only to a backend with this address")
    add_output(ls)


def _ls(arguments: argparse.Namespace) -> int:
    from maps import show_node
    from maps.table import open_tables

    backend = options.ip_text(arguments.backend) if arguments.backend else None
    with open_tables(options.home(arguments)) as tables:
        found = [
            row
            for row in show_node.sockets(tables, time.monotonic_ns())
            if (backend is None or options.host_of(row["backend"]) == backend)
            and (not arguments.service or options.names(arguments.service, row["service"]))
        ]
    rows(arguments.output, COLUMNS, found)
    return 0
