"""What systemd is told, on real sockets."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpbpf.notify import READY, STOPPING, WATCHDOG, notify, watchdog_sec


@pytest.fixture(params=["path", "abstract"])
def supervisor(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[dict[str, str], socket.socket]]:
    """What the environment says, and the socket that it names."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@kpbpf-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(5)
        yield {"NOTIFY_SOCKET": name}, sock


def test_systemd_is_told_in_one_message(
    supervisor: tuple[dict[str, str], socket.socket],
) -> None:
    environment, sock = supervisor
    assert notify(READY, WATCHDOG, sentence="12 Services\nin sync", environment=environment)
    assert sock.recv(4096) == b"READY=1\nWATCHDOG=1\nSTATUS=12 Services in sync"
    assert notify(STOPPING, environment=environment)
    assert sock.recv(4096) == b"STOPPING=1"


@pytest.mark.parametrize("place", ["", "relative", "/there/is/no/such/socket", "vsock:2:1"])
def test_nothing_happens_where_nobody_listens(place: str) -> None:
    assert not notify(READY, environment={"NOTIFY_SOCKET": place})


def test_nothing_happens_without_systemd() -> None:
    assert not notify(READY, environment={})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_asks(
    environment: dict[str, str], expected: float | None
) -> None:
    assert watchdog_sec(environment) == expected
