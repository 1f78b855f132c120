"""The daemon's account of itself, and whether it lives."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kpbpf import status
from kpbpf.cli.status import SILENT_SEC, _wrong_with_daemon
from kpbpf.home import Home
from kpbpf.status import Status

NOW = time.time()
WELL = Status(
    pid=7,
    version="1",
    node="n",
    manifests=["/m"],
    started=NOW - 100,
    written=NOW - 1,
    synced=True,
    last_sync=NOW - 50,
    services=3,
    pending=0,
    problems=[],
    failures={},
)


def test_it_reads_back_as_it_was_written(tmp_path: Path) -> None:
    home = Home(tmp_path / "pins", tmp_path)
    assert status.read(home) is None
    status.write(home, WELL)
    assert status.read(home) == WELL
    home.status_file.write_text('{"pid": 3}')
    assert status.read(home) is None


def test_a_daemon_lives_while_it_holds_its_lock(tmp_path: Path) -> None:
    home = Home(tmp_path / "pins", tmp_path)
    assert status.daemon_pid(home) == 0
    with home.daemon_lock():
        assert status.daemon_pid(home) == os.getpid()
    assert status.daemon_pid(home) == 0


def test_a_daemon_that_is_well_has_nothing_wrong() -> None:
    assert _wrong_with_daemon(7, WELL, NOW) == []


def test_what_is_wrong_is_said() -> None:
    failing = {"manifests": "failed 3 times"}
    for pid, told, words in (
        (0, WELL, "no daemon runs"),
        (8, WELL, "still starting"),
        (7, None, "still starting"),
        (7, WELL._replace(synced=False), "not written"),
        (7, WELL._replace(pods=[{"why_not": "no route"}]), "not attached: 1"),
        (7, WELL._replace(written=NOW - SILENT_SEC - 1), "silent"),
        (7, WELL._replace(failures=failing), "manifests: failed 3 times"),
    ):
        (line,) = _wrong_with_daemon(pid, told, NOW)
        assert words in line
