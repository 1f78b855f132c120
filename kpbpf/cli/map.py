"""`kpbpf map`: the kernel maps, and how full they are.

Reads every map; changes nothing.
"""

import argparse

from kpbpf.cli import options
from kpbpf.cli.output import Column, add_output, rows

COLUMNS = (
    Column("NAME", "name"),
    Column("KIND", "kind"),
    Column("ENTRIES", "entries"),
    Column("CAPACITY", "limit"),
    Column("PRESSURE", "percent", lambda percent: f"{percent}%"),
    Column("KEY BYTES", "key_size", wide=True),
    Column("VALUE BYTES", "value_size", wide=True),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    examples = "kpbpf map ls\nkpbpf map ls -o json"
    ls = options.verb(verbs, "ls", "list maps and how full they are", _ls, examples)
    add_output(ls)


def _ls(arguments: argparse.Namespace) -> int:
    from maps import show
    from maps.layout import MapKind
    from maps.table import open_tables

    with open_tables(options.home(arguments)) as tables:
        found = show.map_usage(tables)
    arrays = {kind.name.lower() for kind in MapKind if kind.is_array}
    # Every slot of an array is there from the start: that is no pressure.
    told = [row | {"percent": None if row["kind"] in arrays else row["percent"]} for row in found]
    rows(arguments.output, COLUMNS, sorted(told, key=lambda row: str(row["name"])))
    return 0
