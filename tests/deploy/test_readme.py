"""deploy/README.md names what is there."""

from __future__ import annotations

import re

import pytest

from kpbpf.cli.main import COMMANDS
from tests.deploy import overlays

TEXT = (overlays.DEPLOY / "README.md").read_text()
PATHS = set(
    re.findall(r"(?<![\w./-])(?:deploy|base|overlays|image|systemd|tests|bench)/[\w./-]*\w", TEXT)
)


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_path_it_names_exists(path: str) -> None:
    assert (overlays.ROOT / path).exists() or (overlays.DEPLOY / path).exists()


@pytest.mark.parametrize("overlay", overlays.OVERLAYS)
def test_every_overlay_is_in_it(overlay: str) -> None:
    assert f"overlays/{overlay}" in TEXT


def test_every_command_it_names_is_one() -> None:
    commands = set(re.findall(r"`(?:[\w/]*/)?kpbpf ([a-z]+)", TEXT))
    commands |= set(re.findall(r"-- kpbpf ([a-z]+)", TEXT))
    assert commands
    assert commands <= COMMANDS.keys()
