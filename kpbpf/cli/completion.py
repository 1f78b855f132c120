"""`kpbpf completion bash|zsh|fish`: a script made from the parsers themselves, so it never lags.

Prints a script; reads no map. The script asks `kpbpf svc ls -o name` for what Services there are.
"""

import argparse
from collections.abc import Callable

from kpbpf.cli import options
from kpbpf.cli.main import COMMANDS, build_parser

SERVICES = "kpbpf svc ls -o name 2>/dev/null"
"""What prints namespace/name of every Service."""

NAMESPACES = f"{SERVICES} | cut -d/ -f1 | sort -u"

TAKE_SERVICE = ("svc get", "svc rm")
"""Commands whose argument is a Service."""

TAKE_SERVICE_FLAG = ("flow ls", "socket ls")
"""Commands whose --service is a Service by name; elsewhere it is an address."""

UPLINKS = "ls /sys/class/net"

Words = dict[tuple[str, ...], list[str]]
"""What may follow: () the objects, (object,) its verbs or flags, (object, verb) its flags."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the shell's name."""
    parser.add_argument("shell", choices=sorted(_SCRIPTS))
    options.command(
        parser,
        "Print a completion script for a shell.",
        _call,
        """source <(kpbpf completion bash)
        kpbpf completion zsh > "${fpath[1]}/_kpbpf"
        kpbpf completion fish > ~/.config/fish/completions/kpbpf.fish""",
    )


def _call(arguments: argparse.Namespace) -> int:
    print(_SCRIPTS[arguments.shell](words(build_parser(everything=True))))
    return 0


def words(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Words:
    """Collect every word that may follow each command."""
    flags: list[str] = []
    values: list[str] = []
    found: Words = {path: values}
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:  # accepted, but not worth typing
            flags += [flag for flag in action.option_strings if flag.startswith("--")]
        if action.choices and not action.option_strings:
            values += action.choices
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                found |= words(child, (*path, name))
    values += sorted(flags)
    return found


def _bash(found: Words) -> str:
    cases = "\n".join(
        f'        "{" ".join(path)}") next="{" ".join(follow)}" ;;'
        for path, follow in found.items()
    )
    objects = "|".join(path[0] for path in found if len(path) == 2)
    return f"""# bash completion for kpbpf
_kpbpf() {{
    local path="" word next="" now="${{COMP_WORDS[COMP_CWORD]}}"
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        [[ $word == -* ]] && continue
        case "$path" in
        "") path="$word" ;;
        {objects}) path="$path $word" ;;
        esac
    done
    case "$path" in
{cases}
    esac
    case "$path" in
    {_service_cases()}) [[ $now == -* ]] || next+=" $({SERVICES})" ;;
    esac
    case "$path ${{COMP_WORDS[COMP_CWORD-1]}}" in
    {_flag_cases()}) next="$({SERVICES})" ;;
    "svc ls -o"|"svc ls --output") next="table wide json yaml name" ;;
    *" -o"|*" --output") next="table wide json yaml" ;;
    *" -n"|*" --namespace") next="$({NAMESPACES})" ;;
    *" --uplink") next="$({UPLINKS})" ;;
    esac
    case "${{COMP_WORDS[COMP_CWORD-1]}}" in
    --log-level) next="debug info warning error" ;;
    --logging-format) next="text json" ;;
    --netns|--config|--kubeconfig|--write-config-to)
        compopt -o filenames; COMPREPLY=($(compgen -f -- "$now")); return ;;
    --manifests) compopt -o filenames; COMPREPLY=($(compgen -d -- "$now")); return ;;
    esac
    COMPREPLY=($(compgen -W "$next" -- "$now"))
}}
complete -F _kpbpf kpbpf"""


def _zsh(found: Words) -> str:
    cases = "\n".join(
        f"        '{' '.join(path)}') next=({' '.join(follow)}) ;;"
        for path, follow in found.items()
    )
    objects = "|".join(path[0] for path in found if len(path) == 2)
    return f"""#compdef kpbpf
_kpbpf() {{
    local place="" word
    local -a next
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        [[ $word == -* ]] && continue
        case "$place" in
        '') place="$word" ;;
        {objects}) place="$place $word" ;;
        esac
    done
    case "$place" in
{cases}
    esac
    case "$place" in
    {_service_cases()}) [[ $words[CURRENT] == -* ]] || next+=(${{(f)"$({SERVICES})"}}) ;;
    esac
    case "$place ${{words[CURRENT-1]}}" in
    {_flag_cases()}) next=(${{(f)"$({SERVICES})"}}) ;;
    "svc ls -o"|"svc ls --output") next=(table wide json yaml name) ;;
    *" -o"|*" --output") next=(table wide json yaml) ;;
    *" -n"|*" --namespace") next=(${{(f)"$({NAMESPACES})"}}) ;;
    *" --uplink") next=(${{(f)"$({UPLINKS})"}}) ;;
    esac
    case "${{words[CURRENT-1]}}" in
    --log-level) next=(debug info warning error) ;;
    --logging-format) next=(text json) ;;
    --netns|--config|--kubeconfig|--write-config-to) _files; return ;;
    --manifests) _files -/; return ;;
    esac
    compadd -a next
}}
if [[ $funcstack[1] == _kpbpf ]]; then _kpbpf "$@"; else compdef _kpbpf kpbpf; fi"""


def _fish(found: Words) -> str:
    lines = ["# fish completion for kpbpf", "complete -c kpbpf -f"]
    for path, follow in found.items():
        if not path:
            when = "__fish_use_subcommand"
        else:
            when = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in path)
            verbs = [word for word in follow if not word.startswith("-")]
            if verbs:
                when += f"; and not __fish_seen_subcommand_from {' '.join(verbs)}"
        for word in follow:
            if word.startswith("--"):
                lines.append(f"complete -c kpbpf -n '{when}' -l {word[2:]}")
            else:
                about = f" -d '{COMMANDS[word]}'" if not path else ""
                lines.append(f"complete -c kpbpf -n '{when}' -a {word}{about}")
    for commands, flag, ask in (
        (TAKE_SERVICE, "", SERVICES),
        (TAKE_SERVICE_FLAG, " -l service -x", SERVICES),
        (("svc ls", "svc get"), " -s n -l namespace -x", NAMESPACES),
        (("trace",), " -l uplink -x", UPLINKS),
    ):
        for command in commands:
            when = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.split())
            lines.append(f"complete -c kpbpf -n '{when}'{flag} -a '({ask})'")
    return "\n".join(lines)


def _service_cases() -> str:
    return "|".join(f'"{command}"' for command in TAKE_SERVICE)


def _flag_cases() -> str:
    return "|".join(f'"{command} --service"' for command in TAKE_SERVICE_FLAG)


_SCRIPTS: dict[str, Callable[[Words], str]] = {"bash": _bash, "fish": _fish, "zsh": _zsh}
