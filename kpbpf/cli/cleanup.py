"""`kpbpf cleanup`: takes everything of kpbpf off this node, and nothing of anybody else.

Goes by what is found, step by step, so that it also works where half of it is missing or
broken. Pods stay; they only lose their Services. What stands before it where another proxy takes
over, --keep-connections, is in hand_over.py.
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
kpbpf cleanup --keep-connections
kpbpf cleanup --keep-connections --wait 600 --yes
"""

_KEEP_HELP = (
    "for a node on which another proxy runs already: leave new connections to Services to it, go "
    "on translating those that there are, and take nothing off yet"
)
_LOSES = "Its pods lose their Services; connections through them break."
_HANDS_OVER = (
    "This leaves new connections to Services to another proxy on this node.\n"
    "Where there is none, they fail."
)
_WAIT_HELP = "with --keep-connections: wait until none is left, at most so long (exit code 1)"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add --yes, --keep-connections and --wait."""
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    parser.add_argument("--keep-connections", action="store_true", help=_KEEP_HELP)
    parser.add_argument("--wait", metavar="SEC", type=_seconds, help=_WAIT_HELP)
    options.command(
        parser,
        "Take all programs, maps and files of kpbpf off this node. Services stop working for "
        "its pods.",
        _call,
        _EXAMPLES,
    )


def _call(arguments: argparse.Namespace) -> int:
    home = options.home(arguments)
    if not arguments.keep_connections:
        if arguments.wait is not None:
            raise Usage("--wait waits for connections: it goes with --keep-connections")
        return take_off(home, arguments.yes)
    _require_no_daemon(home)
    if not arguments.yes and not _agreed(_HANDS_OVER):
        print("nothing was done")
        return 1
    from kpbpf.cli.hand_over import keep_connections

    return keep_connections(home, arguments.wait or 0.0)


def take_off(home: Home, agreed: bool) -> int:
    """Clean a node and return the exit code; asks first unless `agreed`."""
    _require_no_daemon(home)
    if not home.pins.exists() and not home.run.exists():
        print(f"nothing to do: there is neither {home.pins} nor {home.run}")
        return 0
    takes_off = f"This takes kpbpf off this node: programs, {home.pins}, {home.run}.\n{_LOSES}"
    if not agreed and not _agreed(takes_off):
        print("nothing was done")
        return 1
    wrong = list(clean(home))
    for line in wrong:
        print(f"kpbpf: {line}", file=sys.stderr)
    return 1 if wrong else 0


def clean(home: Home) -> Iterator[str]:
    """Take everything off, say on standard output what was done, and yield what was not.

    Sockets come first: whoever connects meanwhile meets the programs that are still there.
    """
    from kpbpf.datapath import attach, cgroup

    try:
        if cgroup.detach(home):
            print("programs taken off the node's sockets")
    except (OSError, KpbpfError) as error:
        yield f"not every program could be taken off the node's sockets: {error}"
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


def _require_no_daemon(home: Home) -> None:
    daemon = daemon_pid(home)
    if daemon:
        raise KpbpfError(f"the daemon runs, as process {daemon}: stop it first (kill {daemon})")


def _agreed(words: str) -> bool:
    if not sys.stdin.isatty():
        raise Usage("nobody is there to ask: say --yes to go on without")
    print(words)
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")


def _seconds(text: str) -> float:
    if not (text.isascii() and text.isdecimal() and len(text) < 8):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds")
    return float(text)
