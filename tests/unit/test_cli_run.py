"""`kpbpf run` as a command line: help, and what it does without becoming a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpbpf.settings import Asked, flags, read
from kpbpf.settings.schema import Group
from tests.unit.command import Run


def test_the_help_has_its_groups_and_lists_what_has_no_effect_in_few_lines(run: Run) -> None:
    shown = run("run", "--help").out
    headings = [line for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == [
        "options:",
        "configuration:",
        *(f"{group.value}:" for group in Group),
        "accepted for compatibility, without effect:",
        "places:",
        "examples:",
    ]
    assert len(shown.splitlines()) < 120
    assert all(f"--{name}" in shown for name in flags.by_name())


def test_the_defaults_are_written_to_a_file_that_can_be_read(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    ended = run("run", "--write-config-to", str(path), "--oom-score-adj=7")
    assert (ended.code, ended.out) == (0, f"written: {path}\n")
    found = read(Asked(path), {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "host-1")
    assert found.oom_score_adj == 7
    assert found.warnings == ()


def test_a_file_that_cannot_be_written_is_said(run: Run, tmp_path: Path) -> None:
    ended = run("run", "--write-config-to", str(tmp_path / "missing" / "config.yaml"))
    assert ended.code == 1
    assert "cannot be written: No such file or directory" in ended.err


def test_a_bad_file_ends_it_with_what_why_and_do(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxy\n")
    ended = run("run", "--config", str(path))
    assert ended.code == 1
    assert ended.err == (
        f"kpbpf: {path} is not a valid configuration\n"
        "  why: line 2: kind: expected KubeProxyConfiguration, got 'KubeProxy'\n"
        "  do:  correct the file; `kpbpf run --write-config-to FILE` writes one with every "
        "field\n"
    )


def test_cleanup_does_what_the_command_of_that_name_does(run: Run, tmp_path: Path) -> None:
    home = ("--pins", str(tmp_path / "pins"), "--run-dir", str(tmp_path / "run"))
    assert run("run", "--cleanup", *home) == run("cleanup", "--yes", *home)
    (tmp_path / "run").mkdir()
    assert "files removed" in run("run", "--cleanup=true", *home).out
    assert not (tmp_path / "run").exists()


def test_handing_over_where_nothing_is_says_so_and_makes_nothing(run: Run, tmp_path: Path) -> None:
    home = ("--pins", str(tmp_path / "pins"), "--run-dir", str(tmp_path / "run"))
    ended = run("cleanup", "--keep-connections", "--yes", *home)
    assert (ended.code, ended.out) == (0, "nothing to do: kpbpf is not set up on this node\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep-connections"], "nobody is there to ask"),
        (["--wait", "5", "--yes"], "it goes with --keep-connections"),
    ],
)
def test_cleanup_that_is_asked_wrongly_says_why(
    run: Run, tmp_path: Path, options: list[str], words: str
) -> None:
    ended = run("cleanup", *options, "--pins", str(tmp_path / "pins"), "--run-dir", str(tmp_path))
    assert ended.code == 2
    assert words in ended.err


@pytest.mark.parametrize("wait", ["-1", "1.5", "ten", "10000000000", ""])
def test_a_wait_is_a_number_of_seconds(run: Run, wait: str) -> None:
    ended = run("cleanup", "--keep-connections", f"--wait={wait}")
    assert ended.code == 2
    assert f"{wait!r} is not a whole number of seconds" in ended.err


def test_without_a_source_the_answer_says_what_to_give(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    ended = run("run")
    assert ended.code == 2
    for word in ("--kubeconfig", "--master", "--manifests", "--config"):
        assert word in ended.err
