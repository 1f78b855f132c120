"""The life of a node's daemon: start, work, and an end that leaves the datapath as it is.

Everything that writes runs in one loop, in the main thread; a second loop does slow housekeeping
beside it. Packets go on while no daemon runs.
"""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from controllers.loop import Loop
from controllers.services import ServicesController
from kpbpf import log, notify
from kpbpf.address import Address
from kpbpf.daemon.account import Account
from kpbpf.daemon.answers import Answers
from kpbpf.daemon.datapath import Datapath
from kpbpf.daemon.questions import questions
from kpbpf.daemon.servers import Servers
from kpbpf.daemon.service_health import ServiceHealth
from kpbpf.daemon.watched import WatchedFiles
from kpbpf.datapath import bpffs, kernel, programs
from kpbpf.errors import Fix
from kpbpf.home import Home
from kpbpf.kube.cluster import ClusterSource
from kpbpf.kube.events import Recorder
from kpbpf.kube.manifests import ManifestSource
from kpbpf.kube.session import Session
from kpbpf.kube.source import Change, Sources
from kpbpf.model.event import Event
from kpbpf.model.objects import Key, Node
from kpbpf.settings import Settings, read
from maps import config
from maps.abi import ConfigFlag
from maps.table import Tables, open_tables

STATUS_SEC = 2.0
CONFIG_SEC = 1.0

HEALTH_PORTS_SEC = 5.0
"""At the latest, addresses that the node was given are answered at."""

EVENTS_SEC = 1.0
"""To post the last Events at the end."""

SETTLE_SEC = 1.0
"""From a change to the status file: of many changes in a row only the last is told."""

_LOG = log.get(__name__)


def prepare(home: Home, settings: Settings) -> None:
    """Do what needs most privileges, and no more: file system of BPF, maps, programs."""
    with _tables(home) as tables:
        _configure(home, settings, tables)
        programs.ensure_programs(home)


def run(home: Home, settings: Settings) -> None:
    """Serve this node until SIGTERM or SIGINT, or another configuration; a Fix tells why not."""
    # Nearly all that is allocated stays: the usual rhythm would look at it for nothing.
    gc.set_threshold(50_000, 20, 100)
    session = Session.open(settings.api) if settings.api else None
    with _tables(home) as tables:
        _configure(home, settings, tables)
        Daemon(home, settings, tables, session).run()


@contextmanager
def _tables(home: Home) -> Iterator[Tables]:
    """Be this node's one daemon, with all maps at hand, for the length of the block."""
    with home.daemon_lock():
        bpffs.ensure(home)
        kernel.require(home)
        with open_tables(home, create=True) as tables:
            yield tables


def _configure(home: Home, settings: Settings, tables: Tables) -> None:
    """Write the configuration of a new node, and what the settings say of it."""
    with home.writer_lock():
        before = config.ensure(tables)
        flags = before.flags & ~ConfigFlag.LOCAL_FAST_PATH
        if settings.local_fast_path:
            flags |= ConfigFlag.LOCAL_FAST_PATH
        if flags != before.flags:
            config.write(tables, before._replace(flags=flags))


class Daemon:
    """One daemon's life. What the house loop does runs beside the rest."""

    def __init__(
        self, home: Home, settings: Settings, tables: Tables, session: Session | None
    ) -> None:
        self._home = home
        self._settings = settings
        self._tables = tables
        self._session = session
        self._node = Key("Node", "", settings.node)
        self._loop = Loop()
        self._house = Loop()
        home.by_hand.mkdir(exist_ok=True)
        files = ManifestSource([*settings.manifests, home.by_hand])
        self._cluster = ClusterSource(session, settings.node) if session else None
        self._sources = Sources([files, *([self._cluster] if self._cluster else [])])
        self._recorder = Recorder(session, settings.node) if session else None
        self._datapath: Datapath | None = None
        self._services = ServicesController(
            tables,
            settings.node,
            home.writer_lock,
            self._sources.where,
            self._sources.unread,
            tell=self._tell,
        )
        self._account = Account(home, settings, tables, session, self._cluster)
        if self._recorder:
            recorder = self._recorder
            self._account.seen.events_dropped = lambda: recorder.dropped
        healthy = self._account.health.healthy
        self._load_balancers = ServiceHealth(
            settings.node, self._tell, healthy, self._node_port_addresses
        )
        self._policies = False
        """Whether there was a NetworkPolicy."""
        self._files = WatchedFiles(settings.files)

    def run(self) -> None:
        """Start everything, work until stopped, and leave the datapath as it is."""
        _LOG.info("kpbpf %s starts: %s", self._account.seen.version, self._places())
        self._tell(Event(self._node, "Starting", "StartKubeProxy", "kpbpf starts"))
        _lower_oom_score(self._settings.oom_score_adj)
        with ExitStack() as stack:
            stack.enter_context(_signals(self._stop))
            stack.callback(self._end)
            self._start_servers(stack)
            stack.callback(self._load_balancers.close)
            self._sources.start(self._heard)
            stack.callback(self._sources.close)
            self._datapath = Datapath(
                self._home, self._settings, self._tables, self._tell, self._account.seen
            )
            stack.callback(self._datapath.close)
            stack.enter_context(_thread("housekeeping", self._house.run))
            stack.callback(self._stop)  # the thread is joined after this
            self._datapath.start(self._loop, self._house)
            self._account.loaded()
            self._answer_questions(stack)
            self._plan()
            notify.notify(notify.READY)
            self._loop.run()

    # ---- start --------------------------------------------------------------------------

    def _start_servers(self, stack: ExitStack) -> None:
        hard_fail = self._settings.bind_address_hard_fail
        servers = Servers(self._loop, self._node, self._tell, hard_fail)
        stack.callback(servers.stop)  # first: the second server may fail when the first one runs
        self._account.start_servers(servers)

    def _answer_questions(self, stack: ExitStack) -> None:
        datapath = self._datapath
        looks = questions(
            self._services,
            self._settings.node,
            datapath.uplinks.status if datapath else tuple,
        )
        answers = Answers(self._home, self._loop, looks)
        stack.callback(answers.stop)
        self._loop.add("answers", answers.start)

    def _plan(self) -> None:
        """Ask for everything that is done now, or again and again."""
        self._loop.add("objects", self._take_up)
        self._loop.every(STATUS_SEC, "status", self._tell_status)
        self._loop.every(HEALTH_PORTS_SEC, "health check ports", self._tell_load_balancers)
        self._house.every(CONFIG_SEC, "configuration", self._look_at_files)
        watchdog_sec = notify.watchdog_sec()
        if watchdog_sec:
            self._loop.every(watchdog_sec, "watchdog", lambda: _say(notify.WATCHDOG))

    # ---- the end ------------------------------------------------------------------------

    def _stop(self) -> None:
        self._loop.stop()
        self._house.stop()

    def _end(self) -> None:
        """Leave word of how things are, and go."""
        self._tell_status()
        notify.notify(notify.STOPPING)
        if self._recorder:
            self._recorder.close(EVENTS_SEC)
        if self._session:
            self._session.close()
        _LOG.info("kpbpf stops; programs and maps stay, traffic goes on")

    # ---- work ---------------------------------------------------------------------------

    def _heard(self) -> None:
        """A source has news; called from its thread."""
        self._account.queued()
        self._loop.add("objects", self._take_up)

    def _take_up(self) -> None:
        """Take changed objects, and write what follows from them."""
        started = time.perf_counter()
        account, services = self._account, self._services
        account.taken()
        changes = self._sources.refresh()
        self._hand_on(changes)
        first = not account.seen.synced
        if first and not self._all_read():
            return
        try:
            if changes or first or services.status().pending:
                services.work()
                account.wrote(services, time.perf_counter() - started)
                self._tell_datapath()
        finally:
            account.written(services)
            self._loop.add("health check ports", self._tell_load_balancers)
            self._loop.add("status", self._tell_status, SETTLE_SEC)
        if first:
            self._take_back()
            took_sec, writes = time.time() - account.seen.started, services.status().writes
            _LOG.info("in sync after %.2f s, %d entries written", took_sec, writes)
            gc.freeze()  # what a cluster is made of stays: no collection need look at it again

    def _take_back(self) -> None:
        """New connections are ours again, if `kpbpf cleanup --keep-connections` gave them away."""
        with self._home.writer_lock():
            if config.set_hand_over(self._tables, False):
                _LOG.info("new connections to Services are no longer another proxy's")

    def _hand_on(self, changes: list[Change]) -> None:
        """Tell controllers and health what changed."""
        for change in changes:
            self._services.changed(change.key, change.model)
            self._load_balancers.changed(change.key, change.model)
            if change.key == self._node:
                node = change.model
                self._account.node(node if isinstance(node, Node) else None)
            elif change.key.kind == "NetworkPolicy" and not self._policies:
                self._policies = True
                _LOG.warning("%s is not enforced, nor are others: not in this version", change.key)
        if self._datapath:
            pods_read = self._cluster is not None and self._cluster.has_read("Pod")
            self._datapath.changed(changes, pods_read)
            self._datapath.wake()

    def _tell_datapath(self) -> None:
        """What follows from Services that were written."""
        if self._datapath:
            self._datapath.written()
            self._datapath.wake()

    def _all_read(self) -> bool:
        """Whether every source was read once; the first sync removes what none of them knows."""
        awaited = self._sources.awaited()
        self._account.awaits(awaited)
        return not awaited

    def _look_at_files(self) -> None:
        """End when the configuration says something else (A57); go on where it is broken."""
        if not self._files.changed():
            return
        self._loop.add("status", self._tell_status, SETTLE_SEC)
        try:
            found = read(self._settings.asked)
        except Fix as error:
            self._account.spoiled = error.what
            _LOG.error("the configuration is not taken over, the old one stays: %s", error)
            wrong = Event(self._node, "InvalidConfiguration", "ReadConfiguration", error.what, True)
            self._tell(wrong)
            return
        self._account.spoiled = ""
        if found != self._settings:
            _LOG.info("the configuration changed: kpbpf ends, to be started with the new one")
            self._stop()

    # ---- telling ------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        """Tell an Event, where there is an API server to be told."""
        if self._recorder:
            self._recorder.tell(event)

    def _node_port_addresses(self) -> list[Address] | None:
        return self._datapath.node_port_addresses() if self._datapath else None

    def _tell_load_balancers(self) -> None:
        """Answer at healthCheckNodePorts, with what the maps hold by now."""
        if self._account.seen.synced:
            self._load_balancers.work()

    def _tell_status(self) -> None:
        self._account.tell(
            self._sources,
            self._services,
            self._datapath,
            self._loop.failures | self._house.failures,
        )

    def _places(self) -> str:
        """Where everything is, for the first line of the log."""
        sources = [str(path) for path in self._settings.manifests]
        if self._session:
            sources.insert(0, self._session.server)
        return f"node {self._settings.node}, pins {self._home.pins}, from {', '.join(sources)}"


def _say(message: str) -> None:
    notify.notify(message)


def _lower_oom_score(score: int | None) -> None:
    """Be among the last to be killed when memory runs out; not vital where it is not permitted."""
    path = Path("/proc/self/oom_score_adj")
    if score is None or int(path.read_text()) <= score:
        return
    try:
        path.write_text(str(score))
    except OSError as error:
        _LOG.info("oomScoreAdj %d could not be set: %s", score, error.strerror)


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
