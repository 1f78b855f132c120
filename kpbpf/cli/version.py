"""`kpbpf version`: of the package, and of the maps' layout."""

import argparse

from kpbpf.cli import options
from kpbpf.cli.output import add_output, document, facts


def configure(parser: argparse.ArgumentParser) -> None:
    """Add -o."""
    add_output(parser)
    options.command(
        parser,
        "Print the version of kpbpf and of the layout of its maps.",
        _call,
        "kpbpf version\nkpbpf version -o json",
    )


def _call(arguments: argparse.Namespace) -> int:
    from kpbpf.status import own_version
    from maps.abi import ABI_VERSION

    if arguments.output in ("json", "yaml"):
        document(arguments.output, {"version": own_version(), "abi": ABI_VERSION})
    else:
        facts([("kpbpf", own_version()), ("Layout of maps", str(ABI_VERSION))])
    return 0
