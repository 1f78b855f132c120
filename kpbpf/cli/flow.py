"""`kpbpf flow`: the connections that the programs remember.

Reads the flow table; changes nothing.
"""

import argparse
import time

from kpbpf.cli import options
from kpbpf.cli.output import Column, Row, add_output, age, rows

COLUMNS = (
    Column("PROTOCOL", "protocol"),
    Column("CLIENT", "client"),
    Column("DESTINATION", "destination"),
    Column("BACKEND", "backend"),
    Column("SERVICE", "service"),
    Column("STATE", "state"),
    Column("AGE", "age_sec", age),
    Column("IDLE", "idle_sec", age),
    Column("EXPIRES", "expires_sec", age, wide=True),
    Column("CLIENT IFINDEX", "client_ifindex", wide=True),
    Column("BACKEND IFINDEX", "backend_ifindex", wide=True),
)

_EXAMPLES = """
kpbpf flow ls
kpbpf flow ls --service default/web
kpbpf flow ls --client 10.42.0.2 --state tcp_established
kpbpf flow ls -o json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    ls = options.verb(verbs, "ls", "list connections, by client", _ls, _EXAMPLES)
    ls.add_argument("--service", metavar="NAME", help="only to this Service: namespace/name")
    ls.add_argument("--client", metavar="IP", help="only from this address")
    ls.add_argument("--state", metavar="STATE", help="only in this state, such as udp_stream")
    add_output(ls)


def _ls(arguments: argparse.Namespace) -> int:
    from maps import show
    from maps.abi import State
    from maps.table import open_tables

    client = with_state = None
    if arguments.client:
        client = options.ip_text(arguments.client)
    if arguments.state:
        with_state = options.one_of(arguments.state, [state.short for state in State], "--state")
    with open_tables(options.home(arguments)) as tables:
        found = [
            row
            for row in show.flows(tables, time.monotonic_ns())
            if (client is None or _host(row) == client)
            and (with_state is None or row["state"] == with_state)
            and (not arguments.service or options.names(arguments.service, row["service"]))
        ]
    rows(arguments.output, COLUMNS, found)
    return 0


def _host(row: Row) -> str:
    """The client's address without its port."""
    client: str = row["client"]
    return client.rpartition(":")[0].strip("[]")
