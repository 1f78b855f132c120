"""`kpbpf prog`: the loaded programs, and where they are attached.

Reads pins and what the kernel says of them; changes nothing.
"""

import argparse
from typing import Any

from kpbpf.cli import options
from kpbpf.cli.output import Column, add_output, listed, rows
from kpbpf.home import Home

COLUMNS = (
    Column("HOOK", "name"),
    Column("ID", "id"),
    Column("TAG", "tag"),
    Column("INSTRUCTIONS", "instructions"),
    Column("VERIFIED", "verified"),
    Column("WHERE", "where"),
    Column("BYTES", "jited_bytes", wide=True),
    Column("MECHANISM", "mechanisms", listed, wide=True),
    Column("HASH", "hash", wide=True),
)

_INSTRUCTION_BYTES = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    examples = "kpbpf prog ls\nkpbpf prog ls -o wide\nkpbpf prog ls -o json"
    add_output(options.verb(verbs, "ls", "list programs, by hook", _ls, examples))


def _ls(arguments: argparse.Namespace) -> int:
    from maps.table import open_tables

    home = options.home(arguments)
    open_tables(home).close()  # says what is wrong where kpbpf was never set up
    rows(arguments.output, COLUMNS, collect(home))
    return 0


def collect(home: Home) -> list[dict[str, Any]]:
    """One row for each pinned program; `where` names its interfaces in short, or its cgroup."""
    from kpbpf.datapath import attach, cgroup, programs
    from maps.show import interface_name

    attached = attach.attachments(home)
    sockets = cgroup.state(home)
    found = []
    for program in programs.present(home):
        here = [one for one in attached if one.program_id == program.info.id]
        interfaces = [interface_name(one.ifindex) or str(one.ifindex) for one in here]
        at_cgroup = sockets["attached"].get(program.name) == program.info.id
        found.append(
            {
                "name": program.name,
                "id": program.info.id,
                "tag": program.info.tag,
                "instructions": program.info.xlated_size // _INSTRUCTION_BYTES,
                "verified": program.info.verified_insns or None,
                "jited_bytes": program.info.jited_size,
                "hash": program.hash,
                "where": f"cgroup {sockets['cgroup']}" if at_cgroup else _shortened(interfaces),
                "interfaces": interfaces,
                "ifindexes": [one.ifindex for one in here],
                "mechanisms": [sockets["how"]]
                if at_cgroup
                else sorted({one.mechanism for one in here}),
            }
        )
    return found


def _shortened(names: list[str], shown: int = 4) -> str | None:
    """Name a few of many."""
    more = len(names) - shown
    return (",".join(names[:shown]) + (f" and {more} more" if more > 0 else "")) or None
