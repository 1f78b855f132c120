"""Running a command line on tables in memory: what `conftest` gives to tests as `run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from kpbpf.cli.main import main

SEC_NS = 10**9
NOW_NS = 10_000 * SEC_NS
"""What the clock says while a command runs."""


class Answer(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    def lines(self) -> list[list[str]]:
        """The table's cells, without the blanks between."""
        return [line.split("   ") for line in self.out.splitlines()]


Run = Callable[..., Answer]


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs one command line."""

    def call(*arguments: str) -> Answer:
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        return Answer(code, *capsys.readouterr())

    return call
