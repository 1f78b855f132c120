"""The part of a daemon that follows uplinks, on real interfaces, with programs that only count.

Import the fixtures `world`, `pinned` and `daemon` by name.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from controllers.following import Following
from controllers.hooks import KernelHooks, WireHooks
from controllers.loop import Loop
from controllers.uplinks import Uplinks
from kpbpf.address import from_text, to_text
from kpbpf.datapath import attach, programs
from kpbpf.home import Home
from kpbpf.model.event import Event
from kpbpf.model.objects import Key, Node
from kpbpf.settings import Settings
from maps import config
from maps.abi import AddressFlag, Device
from maps.table import Tables, open_tables
from tests.datapath.attaching import write_counting
from tests.lab.manifests import NODE_NAME
from tests.lab.world import BPFFS, World

SOON_SEC = 15.0

_homes = count()


class Daemon:
    """The part of a daemon that follows uplinks, in the world's node namespace."""

    def __init__(self, world: World, home: Home, tables: Tables, pins: dict[str, Path]) -> None:
        self.world = world
        self.home = home
        self.tables = tables
        self.events: list[Event] = []
        self._pins = pins

    @contextmanager
    def running(self, *uplinks: str) -> Iterator[None]:
        """A daemon's life, with a loop in a thread of its own; all stays attached at its end."""
        loop = Loop()
        settings = Settings(NODE_NAME, uplinks=uplinks)
        with self.world.node.inside():
            pods = KernelHooks(self.home, self._pins, followed=True)
            wire = WireHooks(self.home, self._pins, followed=True)
            tell = self.events.append
            self.uplinks = Uplinks(self.home, self.tables, wire, settings, NODE_NAME, tell)
            following = Following(
                self.home, self.tables, pods, NODE_NAME, tell, uplinks=self.uplinks
            )
            self.uplinks.synced()
            following.start(loop)

        def run() -> None:
            with self.world.node.inside():
                loop.run()

        self._following = following
        self._loop = loop
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            loop.stop()
            thread.join()
            following.close()

    def has_node(self, *addresses: str) -> None:
        """The Node is told to have these addresses."""
        node = Node(NODE_NAME, addresses=tuple(map(from_text, addresses)))
        self._loop.add("objects", lambda: self.uplinks.changed(Key("Node", "", NODE_NAME), node))
        self._following.wake()

    def in_force(self) -> dict[str, str]:
        """Uplinks that run both programs, by name: "wire" or "wire_l3"."""
        with self.world.node.inside():
            names = dict(socket.if_nameindex())
            ours = [one for one in attach.attachments(self.home) if one.program_id and one.exists]
        found: dict[str, str] = {}
        for place in (attach.WIRE, attach.WIRE_L3):
            for ifindex in {one.ifindex for one in ours}:
                if {one.program for one in ours if one.ifindex == ifindex} == set(place):
                    found[names[ifindex]] = place[0].removeprefix("to_")
        return found

    def devices(self) -> dict[str, Device]:
        """The entries of kp_devices, by the interfaces' names."""
        with self.world.node.inside():
            names = dict(socket.if_nameindex())
        return {names.get(key, str(key)): value for key, value in self.tables.devices.items()}

    def addresses(self) -> set[str]:
        """The node's addresses where NodePorts are served."""
        served = AddressFlag.NODE_PORT
        return {
            to_text(key.addr) for key, one in self.tables.addresses.items() if one.flags & served
        }

    def settles(self, **wanted: str) -> None:
        """Wait until the uplinks are these, and kp_devices has just them."""
        eventually(
            lambda: self.in_force() == wanted, lambda: (self.in_force(), self.uplinks.status())
        )
        eventually(lambda: self.devices().keys() == wanted.keys(), self.devices)


def eventually(holds: Callable[[], bool], otherwise: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + SOON_SEC
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.fixture(scope="module")
def pinned() -> Iterator[Path]:
    """Maps and programs for all tests of a module, since loading takes seconds."""
    made = BPFFS / f"kpt-{os.getpid()}-uplinks{next(_homes)}"
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs that only count: what those of kpbpf do with packets is no concern here."""
    made = tmp_path_factory.mktemp("source")
    write_counting(made, 0)
    return made


@pytest.fixture
def daemon(world: World, pinned: Path, source: Path, tmp_path: Path) -> Iterator[Daemon]:
    """Nothing of it runs yet; what it attached and wrote is taken away at the end."""
    home = Home(pinned, tmp_path / "run")
    home.ensure_run()
    with open_tables(home, create=True) as tables:
        config.ensure(tables)
        yield Daemon(world, home, tables, programs.ensure_programs(home, source))
        with world.node.inside():
            for one in attach.attachments(home):
                attach.detach(home, one.ifindex)
        for table in (tables.devices, tables.addresses, tables.ranges):
            table.delete_many_raw([key for key, _ in table.items_raw()])
