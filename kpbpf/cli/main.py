"""`kpbpf OBJECT VERB`: finds the command, runs it, and turns errors into words and exit codes.

Exit codes: 0 fine, 1 not found, not healthy or failed, 2 wrong usage. Only the module of the
object that was asked for is imported: that keeps `kpbpf svc ls` under 150 ms.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from kpbpf.errors import KpbpfError, NotRoot, Usage

COMMANDS = {
    "run": "follow a cluster or manifests, and serve this node: the daemon",
    "svc": "Services: list, look at, add and remove by hand",
    "ep": "endpoints, the pods of this node: list, attach, detach",
    "node": "this node as the programs see it: uplinks, addresses, masquerade",
    "flow": "connections that are remembered",
    "socket": "sockets of processes that were given a backend when they connected",
    "drop": "packets that were dropped or refused, and why",
    "map": "kernel maps and how full they are",
    "prog": "programs: where attached, how large",
    "status": "is everything well?",
    "trace": "send one packet through the live programs, and tell what happened",
    "cleanup": "take everything of kpbpf off this node",
    "completion": "print a completion script for bash, zsh or fish",
    "version": "print the version",
}
"""Every object, or command without an object; each has a module of its name in this package."""

_EXAMPLES = """examples:
  kpbpf run --manifests /etc/kpbpf/manifests
  kpbpf svc add --service=10.96.0.100:5201 --backend=192.168.10.10:5201
  kpbpf ep add --ifname=eth0 --netns=/run/netns/pod-a
  kpbpf svc ls
  kpbpf trace pod-a 10.96.0.100 5201
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            arguments = build_parser(words).parse_args(words)
            return int(arguments.call(arguments))
        finally:
            sys.stdout.flush()  # here, not at the exit of Python, which would complain
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`head`, `less`) has seen enough; keep the exit of Python quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Usage as error:
        return _complain(error, 2)
    except KpbpfError as error:
        return _complain(error, 1)
    except PermissionError as error:
        return _complain(NotRoot(f"open {error.filename}" if error.filename else "do that"), 1)
    except OSError as error:
        return _complain(KpbpfError(f"unexpected: {error}"), 1)


def build_parser(words: Sequence[str] = (), everything: bool = False) -> argparse.ArgumentParser:
    """Build the parser, complete only for the object that `words` name, or for all."""
    parser = Parser(
        "kpbpf",
        description="Kubernetes Services in eBPF for the pods of this node.",
        epilog=_EXAMPLES,
    )
    objects = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, purpose in COMMANDS.items():
        command = objects.add_parser(name, help=purpose, description=_sentence(purpose))
        if everything or name == wanted:
            importlib.import_module(f"kpbpf.cli.{name}").configure(command)
    return parser


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors also say what to do, and which keeps examples as written."""

    def __init__(self, *args: object, **settings: object) -> None:
        settings.setdefault("formatter_class", _Help)
        settings.setdefault("allow_abbrev", False)
        super().__init__(*args, **settings)  # type: ignore[arg-type]  # passed through unseen

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what nobody knows here, where it can be said what may have been meant."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._closest(unknown[0])}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit code 2."""
        self.exit(2, f"{self.prog}: {message}\nTry `{self.prog} --help`.\n")

    def _closest(self, flag: str) -> str:
        import difflib

        known = [word for action in self._actions for word in action.option_strings]
        close = difflib.get_close_matches(flag.partition("=")[0], known, n=1)
        return f" (did you mean {close[0]}?)" if close else ""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with room for our longest word in front."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _complain(error: KpbpfError, code: int) -> int:
    sys.stdout.flush()
    print(f"kpbpf: {error}", file=sys.stderr)
    return code
