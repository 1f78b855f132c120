"""The daemon at a cluster's size: how fast, how much memory, how much CPU.

What runs is `kpbpf run` as a process of its own, against the API server of tests/cluster as
another one; this program looks into the pinned maps. All share the machine, and with two cores
also the CPU: what is told includes that, and nothing is subtracted. So that one can judge, the
time in which a mere reader of the server's stream knows of a change is told too.

Times to sync begin with the start of the process. That a restart writes nothing is what the daemon
counts; the maps are compared, and the last restart finds maps that the kernel lets nobody write.

Needs root. Pins and run directory are its own, and removed at the end.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from bench import control_plane_latency as latency
from bench.control_plane_latency import Rate
from bench.control_plane_node import (
    Daemon,
    Usage,
    content,
    make_read_only,
    node_home,
    prepare,
    remove,
    tables,
)
from kpbpf.home import Home
from tests.cluster.process import ServerProcess
from tests.cluster.workload import Shape

EXAMPLES = """examples:
  python -m bench.control_plane                                 both sizes, about seven minutes
  python -m bench.control_plane --services 30000 --endpoints 4
  python -m bench.control_plane --services 1000 --seconds 5     a quick look
"""

SIZES = (Shape(10_000, 10), Shape(30_000, 4))


class Goals(NamedTuple):
    """At most; None: no goal at this size."""

    sync_sec: float | None = None
    peak_mb: float | None = None
    event_ms: float | None = None
    restart_sec: float = 3.0
    churn_percent: float = 5.0


GOALS = {SIZES[0]: Goals(5, 150, 20), SIZES[1]: Goals(8, 200)}

RATE = 100.0
"""Changes a second, for the time from event to map."""

CHURN = 20.0
"""Endpoint changes a second: what 5,000 nodes come to."""

IDLE_SEC = 5.0
DOWN_PERCENT = 1
"""Of the Services, changed while the daemon is down."""


class Row(NamedTuple):
    """A line of the result."""

    name: str
    value: float
    unit: str
    note: str = ""
    goal: float | None = None
    """At most."""


class Used(NamedTuple):
    """What a daemon used in a time without a break."""

    percent: float
    """Of one core."""
    queued_percent: float
    """Of the time: waiting for a CPU that others had."""
    wakes_per_sec: float


class Bench:
    """One size, measured from an empty node to a restart."""

    def __init__(self, shape: Shape, server: ServerProcess, home: Home, runs: int) -> None:
        self.rows: list[Row] = []
        self._shape = shape
        self._server = server
        self._home = home
        self._runs = runs
        self._goals = GOALS.get(shape, Goals())
        self._seed = 0

    def run(self, seconds: float) -> list[Row]:
        """Measure everything; `seconds` is the length of what is measured under a rate."""
        self._stream(seconds)
        self._first_sync()
        self._at_work(seconds)
        self._restart()
        self._restart_after_change()
        self._restart_read_only()
        return self.rows

    def _stream(self, seconds: float) -> None:
        say("how long the server's stream takes by itself")
        times = latency.to_reader(self._server, self._rate(RATE, min(seconds, 5)))
        self._row("event to a mere reader, median", statistics.median(times), "ms")
        self._row("  99 of 100", _high(times), "ms", "the server's and the stream's own share")

    def _first_sync(self) -> None:
        """Several new nodes, one after the other; the last one stays."""
        found: list[tuple[float, Usage]] = []
        preparing: list[float] = []
        writes = 0
        for number in range(self._runs):
            say(f"first sync {number + 1} of {self._runs}")
            remove(self._home)
            preparing.append(prepare(self._home, self._server.kubeconfig))
            with Daemon(self._home, self._server.kubeconfig) as daemon:
                daemon.await_sync()
                found.append((daemon.sync_sec, daemon.usage()))
                writes = daemon.writes
        goals = self._goals
        self._row("maps and programs (--init-only)", statistics.median(preparing), "s")
        took = statistics.median(sec for sec, _ in found)
        self._row("first sync", took, "s", goal=goals.sync_sec)
        self._row("  CPU", statistics.median(used.cpu_sec for _, used in found), "s")
        queued = statistics.median(used.queued_sec for _, used in found)
        self._row("  waited for a CPU", queued, "s", "all threads together")
        peak = max(used.peak_mb for _, used in found)
        self._row("  peak RSS", peak, "MB", goal=goals.peak_mb)
        self._row("  entries written", writes, "")

    def _at_work(self, seconds: float) -> None:
        """A daemon in sync: changes at a rate, none, and those of a large cluster."""
        with Daemon(self._home, self._server.kubeconfig) as daemon, tables(self._home) as opened:
            daemon.await_sync()
            say(f"{RATE:g} changes a second, for {seconds:g} s")
            rate = self._rate(RATE, seconds)
            times: list[float] = []
            used = _used(
                daemon,
                lambda: times.extend(latency.to_map(self._server, self._shape, opened, rate)),
            )
            self._row("event to map entry, median", statistics.median(times), "ms")
            self._row("  99 of 100", _high(times), "ms", goal=self._goals.event_ms)
            self._row("  the longest", times[-1], "ms")
            self._row("  CPU, of one core", used.percent, "%")
            self._row("  waited for a CPU", used.queued_percent, "%")
            say("no changes")
            used = _used(daemon, lambda: time.sleep(IDLE_SEC))
            self._row("no changes: CPU, of one core", used.percent, "%")
            self._row("  waits a second", used.wakes_per_sec, "")
            say(f"{CHURN:g} changes a second, for {2 * seconds:g} s")
            used = _used(daemon, lambda: self._churn(2 * seconds))
            goal = self._goals.churn_percent
            self._row("churn of 5,000 nodes: CPU", used.percent, "%", goal=goal)
            self._row("  waited for a CPU", used.queued_percent, "%")
            self._row("  waits a second", used.wakes_per_sec, "")
            self._row("  peak RSS since the start", daemon.usage().peak_mb, "MB")

    def _churn(self, seconds: float) -> None:
        latency.order(self._server, self._rate(CHURN, seconds))
        time.sleep(seconds)

    def _restart(self) -> None:
        latency.finish(self._server)
        found: list[tuple[float, Usage]] = []
        writes = 0
        before = content(self._home)
        for number in range(self._runs):
            say(f"restart {number + 1} of {self._runs}")
            with Daemon(self._home, self._server.kubeconfig) as daemon:
                daemon.await_sync()
                found.append((daemon.sync_sec, daemon.usage()))
                writes += daemon.writes
        if content(self._home) != before:
            sys.exit("a restart without change left other entries")
        took = statistics.median(sec for sec, _ in found)
        self._row("restart without change", took, "s", goal=self._goals.restart_sec)
        self._row("  CPU", statistics.median(used.cpu_sec for _, used in found), "s")
        queued = statistics.median(used.queued_sec for _, used in found)
        self._row("  waited for a CPU", queued, "s", "all threads together")
        self._row("  peak RSS", max(used.peak_mb for _, used in found), "MB")
        self._row("  entries written", writes, "", goal=0)

    def _restart_after_change(self) -> None:
        count = max(1, self._shape.services * DOWN_PERCENT // 100)
        say(f"restart after {count} changes")
        rate = self._rate(count, 1)
        latency.order(self._server, rate)
        latency.finish(self._server)
        with Daemon(self._home, self._server.kubeconfig) as daemon, tables(self._home) as opened:
            daemon.await_sync()
            missing = latency.missing(self._shape, opened, rate)
        if missing:
            sys.exit(f"{missing} of {count} changes are not in the maps after the restart")
        self._row(f"restart, {DOWN_PERCENT} % changed", daemon.sync_sec, "s")
        self._row("  entries written", daemon.writes, "", f"for {count:,} changes")

    def _restart_read_only(self) -> None:
        """The proof that nothing is written: a daemon that wrote would not come in sync."""
        say("restart with maps that cannot be written")
        make_read_only(self._home)
        with Daemon(self._home, self._server.kubeconfig) as daemon:
            daemon.await_sync()
        self._row("restart, maps read-only", daemon.sync_sec, "s", "the kernel refuses writes")

    def _rate(self, per_sec: float, seconds: float) -> Rate:
        """A rate of changes that no other one repeats."""
        self._seed += 1
        return Rate(per_sec, seconds, self._seed)

    def _row(
        self, name: str, value: float, unit: str, note: str = "", goal: float | None = None
    ) -> None:
        self.rows.append(Row(name, value, unit, note, goal))


def _used(daemon: Daemon, meanwhile: Callable[[], None]) -> Used:
    before, began = daemon.usage(), time.monotonic()
    meanwhile()
    after, took = daemon.usage(), time.monotonic() - began
    return Used(
        (after.cpu_sec - before.cpu_sec) / took * 100,
        (after.queued_sec - before.queued_sec) / took * 100,
        (after.wakes - before.wakes) / took,
    )


def _high(times: list[float]) -> float:
    return times[len(times) * 99 // 100]


# ---- the program --------------------------------------------------------------------------


def say(text: str) -> None:
    """Tell what is going on; the result is on standard output."""
    print(f"... {text}", file=sys.stderr, flush=True)


def show(shape: Shape, rows: list[Row]) -> int:
    """Print the result beside the goals; how many were missed."""
    print(f"{shape.services:,} Services x {shape.endpoints} endpoints")
    print(f"  {'':36} {'RESULT':>10}     {'AT MOST':>8}")
    missed = 0
    for row in rows:
        shown = f"{row.value:,.2f}" if row.unit else f"{row.value:,.0f}"
        goal = "" if row.goal is None else f"{row.goal:g}"
        late = row.goal is not None and row.value > row.goal
        missed += late
        words = f"{row.name:36} {shown:>10} {row.unit:3} {goal:>8}  {'MISSED ' * late}{row.note}"
        print(f"  {words}".rstrip())
    return missed


def main() -> int:
    """Measure the sizes that were asked for, and show each when it is done."""
    options = _options()
    if os.geteuid() != 0:
        sys.exit("bench/control_plane.py writes real maps: run it as root")
    # An orderly end cleans up: so does this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    asked = options.services or options.endpoints
    own = Shape(options.services or SIZES[0].services, options.endpoints or SIZES[0].endpoints)
    missed = 0
    for shape in (own,) if asked else SIZES:
        say(f"an API server with {shape.services:,} Services x {shape.endpoints} endpoints")
        size = ("--services", str(shape.services), "--endpoints", str(shape.endpoints))
        with node_home() as home, ServerProcess(*size) as server:
            rows = Bench(shape, server, home, options.runs).run(options.seconds)
        missed += show(shape, rows)
    return 1 if missed and options.check else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.control_plane",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--services", type=int, help="default: 10000, then 30000")
    parser.add_argument("--endpoints", type=int, help="for each; default: 10, then 4")
    parser.add_argument(
        "--seconds", type=float, default=30, help="under 100 changes a second, then twice; 30"
    )
    parser.add_argument("--runs", type=int, default=3, help="first syncs and restarts; default: 3")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
