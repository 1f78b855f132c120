"""`kpbpf cleanup --keep-connections`: new connections are another proxy's, known ones go on.

Sets a flag that the programs look at, and counts what they still translate. Takes nothing off:
`kpbpf cleanup` does, afterwards. A daemon that starts takes the node back.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from controllers import flows
from kpbpf.datapath.kernel import now_ns
from kpbpf.errors import NotFound
from kpbpf.home import Home
from maps import config
from maps.table import Tables, open_tables

LOOK_SEC = 1.0
"""How often connections are counted while somebody waits; sweeping a full table takes 0.4 s."""

LINE_SEC = 10.0
"""How often a progress line is written to what is no terminal."""


def keep_connections(home: Home, wait_sec: float) -> int:
    """Hand this node over, if it is ours; returns the exit code."""
    try:
        tables = open_tables(home)
    except NotFound:
        print("nothing to do: kpbpf is not set up on this node")
        return 0
    with tables:
        return hand_over(home, tables, wait_sec)


def hand_over(home: Home, tables: Tables, wait_sec: float) -> int:
    """Hand over, tell how many connections are left, and wait for their end at most so long.

    0 when there is nothing to wait for, or nobody wanted to; 1 when connections are left after
    the wait.
    """
    with home.writer_lock():
        fresh = config.set_hand_over(tables, True)
    already = "" if fresh else ", as before"
    print(f"handing over{already}: new connections to Services are another proxy's")
    left = _wait(lambda: connections(home, tables), wait_sec)
    if left:
        print("they go on as long as the programs stay; `kpbpf cleanup` takes those off")
    else:
        print("none is left: `kpbpf cleanup` takes the programs off")
    return 1 if left and wait_sec else 0


def connections(home: Home, tables: Tables) -> int:
    """Count connections through Services that have not timed out; no daemon sweeps them now."""
    with home.writer_lock():
        return sum(flows.sweep(tables, now_ns(), count_services=True).of_services.values())


def _wait(count: Callable[[], int], wait_sec: float) -> int:
    """Wait until none is left or the time is over, and say how many; the last count."""
    began = time.monotonic()
    progress = _Progress()
    while True:
        left, over_sec = count(), wait_sec - (time.monotonic() - began)
        if not left or over_sec <= 0:
            progress.end()
            print(_left(left))
            return left
        progress.tell(f"{_left(left)}; {over_sec:.0f} s more")
        time.sleep(min(LOOK_SEC, over_sec))


def _left(number: int) -> str:
    if number == 1:
        return "1 connection through a Service is left"
    return f"{number:,} connections through Services are left"


class _Progress:
    """One line on a terminal that is written over; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = -LINE_SEC

    def tell(self, words: str) -> None:
        if self._terminal:
            print(f"\r{words:<70}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._last >= LINE_SEC:
            self._last = time.monotonic()
            print(words, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal:
            print(f"\r{'':<70}\r", end="", file=sys.stderr, flush=True)
