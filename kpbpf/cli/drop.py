"""`kpbpf drop`: packets that were dropped or refused: whose, why, and when last.

Reads what the programs remember of drops, and their counters; changes nothing.
"""

import argparse
import time

from kpbpf.cli import options
from kpbpf.cli.output import Column, add_output, age, rows

COLUMNS = (
    Column("REASON", "verdict"),
    Column("PROTOCOL", "protocol"),
    Column("SOURCE", "source"),
    Column("DESTINATION", "destination"),
    Column("PACKETS", "packets"),
    Column("LAST", "age_sec", age),
    Column("HOOK", "hook"),
    Column("WHY", "why"),
    Column("IFINDEX", "ifindex", wide=True),
)
TOTALS = (
    Column("HOOK", "hook"),
    Column("VERDICT", "verdict"),
    Column("PACKETS", "packets"),
    Column("BYTES", "bytes"),
    Column("WHY", "why"),
)

_EXAMPLES = """
kpbpf drop ls
kpbpf drop ls --reason no_backend
kpbpf drop ls --totals
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    ls = options.verb(verbs, "ls", "list dropped and refused packets", _ls, _EXAMPLES)
    ls.add_argument("--reason", metavar="VERDICT", help="only for this reason, such as no_backend")
    ls.add_argument(
        "--totals", action="store_true", help="count packets by hook and verdict, passed ones too"
    )
    add_output(ls)


def _ls(arguments: argparse.Namespace) -> int:
    from maps import show
    from maps.abi import Verdict
    from maps.table import open_tables

    reason = arguments.reason
    if reason:
        options.one_of(reason, [verdict.short for verdict in Verdict], "--reason")
    with open_tables(options.home(arguments)) as tables:
        if arguments.totals:
            totals = show.counters(tables)
            rows(arguments.output, TOTALS, [r for r in totals if reason in (None, r["verdict"])])
        else:
            drops = show.drops(tables, time.monotonic_ns())
            rows(arguments.output, COLUMNS, [r for r in drops if reason in (None, r["verdict"])])
    return 0
