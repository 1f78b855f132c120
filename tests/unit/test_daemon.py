"""The daemon's two servers and its configuration file, without a kernel."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from controllers.loop import Loop
from kpbpf.daemon.servers import Servers, Wanted
from kpbpf.daemon.watched import WatchedFiles
from kpbpf.errors import Fix
from kpbpf.model.event import Event
from kpbpf.model.objects import Key
from kpbpf.settings import Address
from kpbpf.web import Answer, Request, text

NODE = Key("Node", "", "node-a")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """An address that another process has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def wanted(listener: socket.socket) -> Wanted:
    address = Address("127.0.0.1", listener.getsockname()[1])
    return Wanted("health server", address, _hello, "FailedToStartProxierHealthcheck")


def _hello(_: Request) -> Answer:
    return text(200, "hello")


def test_a_taken_address_is_told_once_and_tried_until_it_is_free(taken: socket.socket) -> None:
    told: list[Event] = []
    clock = Clock()
    loop = Loop(clock)
    servers = Servers(loop, NODE, told.append, hard_fail=False)
    try:
        want = wanted(taken)
        servers.want(want)
        for _ in range(3):
            clock.now += 60
            loop.run_due()
        (event,) = told
        assert (event.regarding, event.reason, event.warning) == (NODE, want.reason, True)
        assert str(want.address.port) in event.note
        taken.close()
        clock.now += 60
        assert loop.run_due() is None
        with urllib.request.urlopen(f"http://127.0.0.1:{want.address.port}/") as answer:
            assert answer.read() == b"hello\n"
    finally:
        servers.stop()


def test_a_taken_address_is_the_end_where_that_is_wanted(taken: socket.socket) -> None:
    servers = Servers(Loop(), NODE, lambda _: None, hard_fail=True)
    with pytest.raises(Fix, match="the health server cannot start"):
        servers.want(wanted(taken))
    servers.stop()


def test_a_file_has_changed_when_its_content_has(tmp_path: Path) -> None:
    """A ConfigMap is a directory of links by way of `..data`, which is swapped."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "config.yaml").write_text(f"version: {version}")
    path = tmp_path / "..data" / "config.yaml"
    (tmp_path / "..data").symlink_to("1")
    files = WatchedFiles([path])
    assert files.changed()
    assert not files.changed()
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert files.changed()
    path.write_text("version: 2")
    path.touch()
    assert not files.changed()
    path.unlink()
    assert not files.changed()
