"""`kpbpf flow`: the connections that the programs remember.

Reads the flow table; changes nothing.
"""

import argparse
import time
from collections.abc import Callable

from kpbpf.cli import options
from kpbpf.cli.output import Column, Row, add_output, age, rows, yes_no

COLUMNS = (
    Column("PROTOCOL", "protocol"),
    Column("CLIENT", "client"),
    Column("DESTINATION", "destination"),
    Column("MASQUERADE", "masquerade"),
    Column("BACKEND", "backend"),
    Column("SERVICE", "service"),
    Column("STATE", "state"),
    Column("AGE", "age_sec", age),
    Column("IDLE", "idle_sec", age),
    Column("FROM NODE", "from_node", yes_no, wide=True),
    Column("EXPIRES", "expires_sec", age, wide=True),
    Column("CLIENT IFINDEX", "client_ifindex", wide=True),
    Column("BACKEND IFINDEX", "backend_ifindex", wide=True),
)

_EXAMPLES = """
kpbpf flow ls
kpbpf flow ls --service default/web
kpbpf flow ls --client 10.42.0.2 --state tcp_established
kpbpf flow ls --masqueraded --backend 10.42.1.7
kpbpf flow ls --from-node -o wide
kpbpf flow ls -o json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    ls = options.verb(verbs, "ls", "list connections, by client", _ls, _EXAMPLES)
    ls.add_argument("--service", metavar="NAME", help="only to this Service: namespace/name")
    ls.add_argument("--client", metavar="IP", help="only from this address")
    ls.add_argument("--backend", metavar="IP", help="only to a backend with this address")
    ls.add_argument(
        "--masqueraded", action="store_true", help="only those whose backend sees this node"
    )
    ls.add_argument("--from-node", action="store_true", help="only of this node's own processes")
    ls.add_argument(
        "--transit",
        action="store_true",
        help="what is remembered of masqueraded packets on their way through the node's stack",
    )
    ls.add_argument("--state", metavar="STATE", help="only in this state, such as udp_stream")
    add_output(ls)


def _ls(arguments: argparse.Namespace) -> int:
    from maps import show
    from maps.table import open_tables

    wanted = _filter(arguments)
    with open_tables(options.home(arguments)) as tables:
        found = show.flows(tables, time.monotonic_ns(), arguments.transit)
    rows(arguments.output, COLUMNS, [row for row in found if wanted(row)])
    return 0


def _filter(arguments: argparse.Namespace) -> Callable[[Row], bool]:
    """Read the flags that choose rows; Usage for those that mean nothing."""
    from maps.abi import State

    client = options.ip_text(arguments.client) if arguments.client else None
    backend = options.ip_text(arguments.backend) if arguments.backend else None
    state = arguments.state
    if state:
        options.one_of(state, [one.short for one in State], "--state")

    def wanted(row: Row) -> bool:
        return (
            (client is None or options.host_of(row["client"]) == client)
            and (backend is None or options.host_of(row["backend"] or "") == backend)
            and (not state or row["state"] == state)
            and (not arguments.service or options.names(arguments.service, row["service"]))
            and (not arguments.masqueraded or row["masquerade"] is not None)
            and (not arguments.from_node or row["from_node"])
        )

    return wanted
