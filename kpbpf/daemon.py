"""The daemon of a node: wires sources, controllers and programs together, and keeps them going.

Decides nothing about Services or packets: that is done by the controllers and by the programs,
which go on while no daemon runs. Everything that writes runs in one loop, in the main thread; a
second loop does slow housekeeping beside it.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from controllers import flows, observed
from controllers.endpoints import Endpoints
from controllers.hooks import KernelHooks, mac_of
from controllers.loop import Loop
from controllers.services import ServicesController
from kpbpf import log, status
from kpbpf.datapath import bpffs, kernel, programs
from kpbpf.errors import Retry
from kpbpf.home import Home
from kpbpf.kube.manifests import ManifestSource
from kpbpf.metrics import Metrics
from maps import config, show
from maps.abi import ConfigFlag
from maps.table import Tables, open_tables

RECONCILE_SEC = 0.8
"""How often interfaces and attachments are looked at: put right within a second."""

RECONCILE_LONGEST_SEC = 5.0
"""The same where looking is costly: very many pods, or clsact, which takes a request a hook."""

SWEEP_SEC = 5.0
MEASURE_SEC = 15.0
STATUS_SEC = 5.0

_LOG = log.get(__name__)


class Settings(NamedTuple):
    """What the command line may choose."""

    manifests: tuple[Path, ...]
    node: str
    metrics: tuple[str, int] | None
    local_fast_path: bool


def run(home: Home, settings: Settings) -> None:
    """Serve this node until SIGTERM or SIGINT; a Fix tells why it cannot."""
    with home.daemon_lock():
        bpffs.ensure(home)
        kernel.require(home)
        with open_tables(home, create=True) as tables:
            Daemon(home, settings, tables).run()


class Daemon:
    """One daemon's life. All methods but those of `_house` run in the main thread."""

    def __init__(self, home: Home, settings: Settings, tables: Tables) -> None:
        self._home = home
        self._settings = settings
        self._tables = tables
        self._loop = Loop()
        self._house = Loop()
        home.by_hand.mkdir(exist_ok=True)
        self._source = ManifestSource([*settings.manifests, home.by_hand])
        self._services = ServicesController(
            tables, settings.node, home.writer_lock, self._source.where, self._source.unread
        )
        self._version = status.own_version()
        self._seen = observed.Observed(started=time.time())
        self._metrics = Metrics(lambda: observed.families(self._tables, self._seen))

    def run(self) -> None:
        """Start everything, work until stopped, and leave the datapath as it is."""
        _LOG.info(
            "kpbpf %s starts: node %s, pins %s, manifests %s",
            self._version,
            self._settings.node,
            self._home.pins,
            ", ".join(map(str, self._settings.manifests)),
        )
        with ExitStack() as stack:
            stack.enter_context(_signals(self._stop))
            stack.callback(self._source.close)
            self._configure()
            endpoints = Endpoints(self._home, self._tables, self._load_programs())
            endpoints.reconcile(mac_of)
            programs.remove_stale(self._home)
            stack.enter_context(_thread("housekeeping", self._house.run))
            stack.callback(self._stop)  # threads are joined after this
            self._source.start(lambda: self._loop.add("objects", self._take_up))
            self._loop.add("objects", self._take_up)
            self._loop.every(
                RECONCILE_SEC,
                "endpoints",
                lambda: endpoints.reconcile(mac_of),
                RECONCILE_LONGEST_SEC,
            )
            self._loop.every(STATUS_SEC, "status", self._tell_status)
            self._house.every(SWEEP_SEC, "flow sweep", self._sweep)
            self._house.every(MEASURE_SEC, "map usage", self._measure)
            if self._settings.metrics:
                self._loop.add("metrics server", lambda: self._serve_metrics(stack))
            self._loop.run()
        self._tell_status()
        _LOG.info("kpbpf stops; programs and maps stay, traffic goes on")

    # ---- start --------------------------------------------------------------------------

    def _configure(self) -> None:
        """Write the configuration of a new node, and what the command line says of it."""
        with self._home.writer_lock():
            before = config.ensure(self._tables)
            flags = before.flags & ~ConfigFlag.LOCAL_FAST_PATH
            if self._settings.local_fast_path:
                flags |= ConfigFlag.LOCAL_FAST_PATH
            if flags != before.flags:
                config.write(self._tables, before._replace(flags=flags))

    def _load_programs(self) -> KernelHooks:
        started = time.monotonic()
        pins = programs.ensure_programs(self._home)
        (version,) = {pin.parent.name for pin in pins.values()}
        _LOG.info("programs %s ready in %.2f s", version, time.monotonic() - started)
        return KernelHooks(self._home, pins)

    def _serve_metrics(self, stack: ExitStack) -> None:
        host, port = self._settings.metrics or ("", 0)
        try:
            server = self._metrics.serve(host, port)
        except OSError as error:
            raise Retry(f"cannot listen on {host}:{port}: {error.strerror}") from None
        stack.callback(server.stop)
        _LOG.info("metrics on http://%s:%d/metrics", host, server.port)

    def _stop(self) -> None:
        self._loop.stop()
        self._house.stop()

    # ---- work ---------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Read changed manifests and write what follows from them."""
        started = time.perf_counter()
        changes = self._source.refresh()
        for change in changes:
            self._services.changed(change.key, change.model)
        first = not self._seen.synced
        try:
            if first:
                self._require_all()
            if changes or first or self._services.status().pending:
                self._services.work()
                self._seen.synced, self._seen.last_sync = True, time.time()
                self._metrics.sync_seconds.observe(time.perf_counter() - started)
        finally:
            self._tell_status()
        if first:
            _LOG.info("in sync after %.2f s", time.time() - self._seen.started)

    def _require_all(self) -> None:
        """The first sync removes what no source knows: with half a view it would be too much."""
        awaited = ", ".join(self._source.awaited())
        if awaited:
            raise Retry(f"{awaited} cannot be read: the maps stay as they are until it can")

    def _sweep(self) -> None:
        self._seen.flows_swept += flows.sweep(self._tables, kernel.now_ns())

    def _measure(self) -> None:
        self._seen.maps = show.map_usage(self._tables)

    def _tell_status(self) -> None:
        """Leave word for `kpbpf status` and for metrics."""
        seen, services = self._seen, self._services.status()
        seen.services, seen.pending = services.services, services.pending
        seen.problems = [*self._source.problems(), *self._services.problems()]
        seen.retried = self._loop.failures | self._house.failures
        failures = {name: _times(count) for name, count in seen.retried.items()}
        if services.held:
            failures["Services"] = services.held
        status.write(
            self._home,
            status.Status(
                pid=os.getpid(),
                version=self._version,
                node=self._settings.node,
                manifests=[str(path) for path in self._settings.manifests],
                started=seen.started,
                written=time.time(),
                synced=seen.synced,
                last_sync=seen.last_sync,
                services=seen.services,
                pending=seen.pending,
                problems=[problem._asdict() for problem in seen.problems],
                failures=failures,
            ),
        )


def _times(count: int) -> str:
    return f"failed {count} time{'s' * (count > 1)} in a row, is being tried again"


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM and SIGINT."""

    def heard(number: int, _frame: object) -> None:
        _LOG.info("%s received", signal.Signals(number).name)
        stop()

    before = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _thread(name: str, body: Callable[[], None]) -> Iterator[None]:
    """Run `body` beside the block, and wait for its end after the block."""
    thread = threading.Thread(target=body, name=name)
    thread.start()
    try:
        yield
    finally:
        thread.join()
