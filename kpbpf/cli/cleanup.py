"""`kpbpf cleanup`: takes everything of kpbpf off this node, and nothing of anybody else.

Goes by what is found, step by step, so that it also works where half of it is missing or
broken. Pods stay; they only lose their Services.
"""

import argparse
import errno
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from kpbpf.cli import options
from kpbpf.errors import KpbpfError, NotRoot, Usage
from kpbpf.home import Home
from kpbpf.status import daemon_pid

_MOUNTED = (errno.EBUSY, errno.EROFS)
"""What rmdir(2) says of a mount point; the second one where the root around it is read-only."""

_EXAMPLES = """
kpbpf cleanup
kpbpf cleanup --yes
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add --yes."""
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    options.command(
        parser,
        "Take all programs, maps and files of kpbpf off this node. Services stop working for "
        "its pods.",
        _call,
        _EXAMPLES,
    )


def _call(arguments: argparse.Namespace) -> int:
    return take_off(options.home(arguments), arguments.yes)


def take_off(home: Home, agreed: bool) -> int:
    """Clean a node and return the exit code; asks first unless `agreed`."""
    daemon = daemon_pid(home)
    if daemon:
        raise KpbpfError(f"the daemon runs, as process {daemon}: stop it first (kill {daemon})")
    if not home.pins.exists() and not home.run.exists():
        print(f"nothing to do: there is neither {home.pins} nor {home.run}")
        return 0
    if not agreed and not _agreed(home):
        print("nothing was done")
        return 1
    wrong = list(clean(home))
    for line in wrong:
        print(f"kpbpf: {line}", file=sys.stderr)
    return 1 if wrong else 0


def clean(home: Home) -> Iterator[str]:
    """Take everything off, say on standard output what was done, and yield what was not."""
    from kpbpf.datapath import attach

    try:
        attached = sorted({one.ifindex for one in attach.attachments(home)})
        for ifindex in attached:
            attach.detach(home, ifindex)
    except (OSError, KpbpfError) as error:
        yield f"not every program could be taken off: {error}"
    else:
        print(f"programs taken off {len(attached)} interface{'s' * (len(attached) != 1)}")
    for directory, what in ((home.pins, "maps and programs"), (home.run, "files")):
        if directory.exists():
            shutil.rmtree(directory, onerror=_explain)
            print(f"{what} removed: {directory}")


def _explain(_call: object, path: str, problem: tuple[object, BaseException, object]) -> None:
    """Turn the first path that cannot be removed into an error that says so."""
    error = problem[1]
    if isinstance(error, FileNotFoundError):
        return
    if isinstance(error, OSError) and error.errno in _MOUNTED and _is_empty(Path(path)):
        return  # the node's directory, mounted into a container: being empty is all it can be
    if isinstance(error, PermissionError):
        raise NotRoot(f"remove {path}") from None
    raise KpbpfError(f"{path} could not be removed: {error}") from None


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _agreed(home: Home) -> bool:
    if not sys.stdin.isatty():
        raise Usage("nobody is there to ask: say --yes to take everything off this node")
    print(f"This takes kpbpf off this node: programs, {home.pins}, {home.run}.")
    print("Its pods lose their Services; connections through them break.")
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")
