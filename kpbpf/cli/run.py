"""`kpbpf run`: the daemon in the foreground, with kube-proxy's flags and ours.

Makes a parser of the table in kpbpf.settings, finds the settings out, and starts `kpbpf.daemon`;
everything else is there.
"""

import argparse
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kpbpf.cli import options
from kpbpf.errors import KpbpfError, NotRoot
from kpbpf.settings import Asked, Settings, flags, read
from kpbpf.settings.schema import Field, Group, Reason

_EXAMPLES = """
kpbpf run --kubeconfig /etc/kpbpf/kubeconfig --master https://10.0.0.1:6443
kpbpf run --config /var/lib/kube-proxy/config.conf -v 4
kpbpf run --manifests /etc/kpbpf/manifests
kpbpf run --manifests ./services --node worker-1 --metrics-bind-address ''
kpbpf run --write-config-to /etc/kpbpf/config.yaml
"""

_DESCRIPTION = (
    "Follow a cluster's API server, or manifests, and serve this node. Takes kube-proxy's flags "
    "and file.\nEnds orderly on SIGTERM and when its file changes; traffic goes on without it."
)
_HELP_WIDTH = 92

_ALIASES = {"hostname-override": ("--node",), "v": ("-v",)}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the daemon's flags: those of the table, and those that are no field of a file."""
    parser.usage = "%(prog)s [FLAGS]"  # all of them in one paragraph would help nobody
    _add_file(parser)
    groups = {group: parser.add_argument_group(group.value) for group in Group}
    _add_master(groups[Group.SOURCES])
    idle: dict[Reason, list[str]] = {}
    for name, fields in flags.by_name().items():
        reason = fields[0].reason
        if reason is None:
            _add(groups[fields[0].group], name, fields[0], fields[0].about)
        else:
            _add(parser, name, fields[0], argparse.SUPPRESS)
            idle.setdefault(reason, []).append(name)
    _add_ports(groups[Group.HEALTH])
    parser.add_argument_group("accepted for compatibility, without effect", _listed(idle))
    options.command(parser, _DESCRIPTION, _call, _EXAMPLES)


def _add_file(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="KubeProxyConfiguration, with our own section `kpbpf`; as with kube-proxy, only "
        "--hostname-override, --master, logging and what is only ours then count as flags",
    )
    group.add_argument(
        "--write-config-to",
        metavar="FILE",
        type=Path,
        help="write what follows from the other flags as such a file, and end",
    )
    _add_switch(group, "init-only", "do what needs most privileges (maps, programs), and end")
    _add_switch(group, "cleanup", "take kpbpf off this node like `kpbpf cleanup --yes`, and end")


def _add_switch(group: "argparse._ActionsContainer", name: str, about: str) -> None:
    group.add_argument(
        f"--{name}", nargs="?", const=True, default=False, type=_switch, help=about, metavar="BOOL"
    )


def _add_master(group: "argparse._ActionsContainer") -> None:
    group.add_argument(
        "--master",
        metavar="URL",
        action="append",
        type=_url,
        default=[],
        help="the API server, in place of the kubeconfig's; of several, the first that answers",
    )


def _add(group: "argparse._ActionsContainer", name: str, field: Field, about: str) -> None:
    """Add a flag that sets a field; it is in the namespace only when it was given."""
    more: dict[str, Any] = {"metavar": field.kind.metavar}
    if field.kind.empty is False:
        more = {"metavar": "BOOL", "nargs": "?", "const": True}
    elif isinstance(field.kind.empty, list):
        more["action"] = "extend"
    group.add_argument(
        *_ALIASES.get(name, ()),
        f"--{name}",
        dest=name,
        default=argparse.SUPPRESS,
        type=_typed(flags.reader(name)),
        help=about,
        **more,
    )


def _add_ports(group: "argparse._ActionsContainer") -> None:
    for name in flags.PORTS:
        group.add_argument(
            f"--{name}",
            dest=name,
            metavar="PORT",
            default=argparse.SUPPRESS,
            type=_typed(flags.reader(name)),
            help="deprecated: the port of this address alone; 0: nowhere",
        )


def _listed(idle: dict[Reason, list[str]]) -> str:
    """The flags that do nothing, by the reason why."""
    lines = []
    for reason, names in idle.items():
        words = " ".join(f"--{name}" for name in names)
        lines += [
            f"{reason.text}:",
            *textwrap.wrap(
                words,
                _HELP_WIDTH,
                initial_indent="  ",
                subsequent_indent="  ",
                break_on_hyphens=False,
            ),
        ]
    return "\n".join(lines)


# ---- words --------------------------------------------------------------------------------


def _typed(reader: Callable[[str], Any]) -> Callable[[str], Any]:
    def typed(text: str) -> Any:
        try:
            return reader(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@]+/?[^\s]*", text):
        raise argparse.ArgumentTypeError(
            f"expected a URL such as https://10.0.0.1:6443, got {text!r}"
        )
    return text.rstrip("/")


def asked(arguments: argparse.Namespace) -> Asked:
    """What a command line asks for."""
    given = vars(arguments)
    return Asked(
        arguments.config.absolute() if arguments.config else None,
        tuple(arguments.master),
        tuple((name, given[name]) for name in (*flags.by_name(), *flags.PORTS) if name in given),
    )


# ---- what is done -------------------------------------------------------------------------


def _call(arguments: argparse.Namespace) -> int:
    home = options.home(arguments)
    if arguments.cleanup:
        from kpbpf.cli import cleanup

        return cleanup.take_off(home, agreed=True)
    settings = read(asked(arguments), needs_source=not _ends_early(arguments))
    if arguments.write_config_to:
        return _write(arguments.write_config_to, settings)
    return _start(arguments, settings)


def _ends_early(arguments: argparse.Namespace) -> bool:
    return bool(arguments.write_config_to or arguments.init_only)


def _start(arguments: argparse.Namespace, settings: Settings) -> int:
    from kpbpf import daemon, log

    log.start(settings.log_level, settings.log_format)
    for line in settings.warnings:
        log.get(__name__).warning("%s", line)
    home = options.home(arguments)
    if arguments.init_only:
        daemon.prepare(home, settings)
    else:
        daemon.run(home, settings)
    return 0


def _write(path: Path, settings: Settings) -> int:
    import yaml

    text = yaml.safe_dump(settings.configuration, sort_keys=False)
    try:
        path.write_text(f"# Written by kpbpf run --write-config-to.\n{text}")
    except PermissionError:
        raise NotRoot(f"write {path}") from None
    except OSError as error:
        raise KpbpfError(f"{path} cannot be written: {error.strerror}") from None
    print(f"written: {path}")
    return 0
