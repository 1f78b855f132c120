"""The whole command line: help, wrong usage, completion, and how it ends."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kpbpf.address import from_text
from kpbpf.cli import output
from kpbpf.cli.completion import words
from kpbpf.cli.main import COMMANDS, build_parser
from maps.abi import Endpoint, EndpointKey, Mode
from maps.fake import FakeTables
from tests.unit.command import Run


def commands(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every parser that can be called, by its words."""
    children = [
        child
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for child in action.choices.items()
    ]
    if not children:
        yield path, parser
    for name, child in children:
        yield from commands(child, (*path, name))


LEAVES = dict(commands(build_parser(everything=True)))


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_help_with_examples_of_itself(path: tuple[str, ...], run: Run) -> None:
    shown = run(*path, "--help")
    assert shown.code == 0
    examples = shown.out.partition("examples:\n")[2]
    assert f"kpbpf {' '.join(path)}" in examples
    assert all(len(line) <= 100 for line in shown.out.splitlines())


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_example_is_understood(path: tuple[str, ...]) -> None:
    epilog = LEAVES[path].epilog or ""
    for line in epilog.splitlines()[1:]:
        for part in line.split("|")[0].split(">")[0].split("source <(")[-1:]:
            arguments = shlex.split(part.strip(" )"), comments=True)
            assert arguments[0] == "kpbpf"
            build_parser(everything=True).parse_args(arguments[1:])


def test_the_commands_are_those_of_the_contract() -> None:
    assert {path[0] for path in LEAVES} == set(COMMANDS)
    assert {" ".join(path) for path in LEAVES} >= {
        *("run", "status", "trace", "cleanup", "completion", "version"),
        *("svc add", "svc rm", "svc ls", "svc get", "ep add", "ep rm", "ep ls"),
        *("node", "flow ls", "socket ls", "drop ls", "map ls", "prog ls"),
    }


@pytest.mark.parametrize(
    "line",
    [
        (),
        ("svc",),
        ("service", "ls"),
        ("svc", "ls", "-o", "xml"),
        ("svc", "add", "--service=10.96.0.1"),
        ("svc", "add", "--service=10.96.0.1:0"),
        ("svc", "add", "--service=10.96.0.1:70000"),
        ("svc", "add", "--service=fd96::1:80"),
        ("svc", "add", "--service=[fd96::1]:80", "--backend=10.1.0.1:80"),
        ("svc", "add", "--service=10.96.0.1:80", "--backend=10.1.0.1"),
        ("svc", "add", "--service=10.96.0.1:80", "--name=Upper/Case"),
        ("svc", "add", "--service=10.96.0.1:80", "--affinity=0"),
        ("ep", "rm"),
        ("ep", "rm", "1", "--netns=/run/netns/a"),
        ("ep", "add", "--ifname=eth0", "--netns=/run/my netns/a"),
        ("trace", "1", "10.96.0.1", "http"),
        ("run",),
        ("run", "--manifests=/dev/null"),
        ("run", "--manifests=/tmp", "--metrics-bind-address=everywhere"),
        ("run", "--manifests=/tmp", "--service-metrics=-1"),
        ("run", "--manifests=/tmp", "--iptables-sync-period=30"),
        ("run", "--master=10.0.0.1"),
        ("run", "--no-such-flag"),
    ],
    ids=" ".join,
)
def test_a_wrong_line_is_exit_code_2_and_says_why(
    node_tables: FakeTables, run: Run, line: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    pod = Endpoint(1, 7, bytes(6), bytes(6), Mode.VETH)
    node_tables.endpoints.put(EndpointKey(from_text("10.1.0.1")), pod)
    ended = run(*line)
    assert ended.code == 2
    assert ended.err.startswith("kpbpf")
    assert not ended.out


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        (("run", "--manifest=/tmp"), "--manifests"),
        (("run", "--proxymode", "ipvs"), "--proxy-mode"),
        (("svc", "ls", "--outptu", "json"), "--output"),
    ],
    ids=str,
)
def test_an_unknown_flag_names_the_closest(run: Run, line: tuple[str, ...], meant: str) -> None:
    assert f"(did you mean {meant}?)" in run(*line).err


def test_an_output_that_nobody_reads_any_more_ends_quietly() -> None:
    line = f"{sys.executable} -m kpbpf --help | true"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_every_word(run: Run, shell: str) -> None:
    script = run("completion", shell).out
    for path, follow in words(build_parser(everything=True)).items():
        assert all(word in script for word in (*path, *(w.removeprefix("--") for w in follow)))


def test_completion_for_bash_completes() -> None:
    ask = (
        "source <({0} -m kpbpf completion bash); COMP_WORDS=(kpbpf -v svc '{1}'); "
        "COMP_CWORD=3; _kpbpf; echo ${{COMPREPLY[@]}}"
    )
    for typed, offered in (("g", "get"), ("", "ls get add rm --help")):
        line = ask.format(sys.executable, typed)
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert done.stdout.split() == offered.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("svc get def", "default/api default/web"),
        ("svc get -n kube", "kube-system"),
        ("svc ls --namespace ''", "default kube-system"),
        ("svc rm kube", "kube-system/dns"),
        ("svc ls -o n", "name"),
        ("flow ls --service default/w", "default/web"),
        ("flow ls -o n", ""),
        ("svc add --service def", ""),
        ("trace --uplink lo", "lo"),
    ],
)
def test_completion_for_bash_knows_services_and_namespaces(line: str, offered: str) -> None:
    """Here a function stands in for the command that lists them."""
    words = ["kpbpf", *shlex.split(line)]
    script = (
        f"source <({sys.executable} -m kpbpf completion bash);"
        "kpbpf() { printf '%s\\n' default/api default/web kube-system/dns; };"
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1};"
        "_kpbpf; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == offered.split()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-3, "0s"),
        (0, "0s"),
        (119.9, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (200_000, "2d"),
    ],
)
def test_ages_have_the_largest_fitting_unit(seconds: float | None, text: str) -> None:
    assert output.age(seconds) == text
