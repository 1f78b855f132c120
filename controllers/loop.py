"""One worker for everything that writes: a queue of named work, run one at a time.

The same name waits at most once, however often it is asked for. Work that fails with Retry
comes back later and later; a Fix ends the loop, for it needs a person. Periodic work that
turns out to be costly rests longer. The clocks are given, so tests need not wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kpbpf import log
from kpbpf.errors import Fix, Retry

Work = Callable[[], None]

FIRST_RETRY_SEC = 0.1
LAST_RETRY_SEC = 30.0

CPU_SHARE = 0.02
"""Of one core: what periodic work with room to rest may take."""

_LOG = log.get(__name__)


@dataclass(slots=True)
class _Waiting:
    work: Work
    due: float


@dataclass(frozen=True, slots=True)
class _Periodic:
    work: Work
    every_sec: float
    longest_sec: float

    def rest(self, cpu_sec: float) -> float:
        """Seconds until it is due again, after a turn that took so much CPU time."""
        return max(self.every_sec, min(cpu_sec / CPU_SHARE, self.longest_sec))


class Loop:
    """A queue of named work and the thread that calls `run`.

    `add` may be called from any thread, also from within work. `failures` tells how often in
    a row each name has failed, for status and metrics. `cpu` tells the CPU time, in seconds, of
    the thread that calls `run`.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self._changed = threading.Condition()
        self._waiting: dict[str, _Waiting] = {}
        self._periodic: dict[str, _Periodic] = {}
        self._stopped = False
        self.failures: dict[str, int] = {}

    def add(self, name: str, work: Work, delay_sec: float = 0.0) -> None:
        """Ask for work, not before `delay_sec`; of two delays for one name the shorter counts."""
        due = self._clock() + delay_sec
        with self._changed:
            waiting = self._waiting.get(name)
            self._waiting[name] = _Waiting(work, min(due, waiting.due) if waiting else due)
            self._changed.notify()

    def every(self, seconds: float, name: str, work: Work, longest_sec: float = 0.0) -> None:
        """Ask for work now and again `seconds` after each time it was done.

        That becomes up to `longest_sec` for work that would else take more than CPU_SHARE.
        """
        with self._changed:
            self._periodic[name] = _Periodic(work, seconds, longest_sec)
        self.add(name, work)

    def stop(self) -> None:
        """Let `run` return after the work at hand."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        """Do work until stopped; raises the Fix that ended it."""
        while True:
            self.run_due()
            with self._changed:
                if self._stopped:
                    return
                self._changed.wait(self._seconds_to_next())

    def run_due(self) -> float | None:
        """Do everything that is due, first come first served.

        Returns the seconds until more is due, None when nothing waits.
        """
        while not self._stopped:
            with self._changed:
                name = self._next_due()
                if name is None:
                    return self._seconds_to_next()
                work = self._waiting.pop(name).work
            self._do(name, work)
        return None

    # ---- inside -------------------------------------------------------------------------

    def _do(self, name: str, work: Work) -> None:
        began = self._cpu()
        try:
            work()
        except Fix:
            raise
        except Retry as error:
            delay = self._failed(name)
            _LOG.warning("%s: %s; again in %.1f s", name, error, delay)
        except Exception:  # noqa: BLE001 (a bug in one kind of work must not end the others)
            delay = self._failed(name)
            _LOG.exception("%s: unexpected; again in %.1f s", name, delay)
        else:
            if self.failures.pop(name, 0):
                _LOG.info("%s: works again", name)
            periodic = self._periodic.get(name)
            if periodic is not None:
                self.add(name, periodic.work, periodic.rest(self._cpu() - began))
            return
        self.add(name, work, delay)

    def _failed(self, name: str) -> float:
        """Count a failure; the seconds until the next attempt."""
        count = self.failures[name] = self.failures.get(name, 0) + 1
        return min(FIRST_RETRY_SEC * 2.0 ** min(count - 1, 20), LAST_RETRY_SEC)

    def _next_due(self) -> str | None:
        now = self._clock()
        due = [(item.due, name) for name, item in self._waiting.items() if item.due <= now]
        return min(due)[1] if due else None

    def _seconds_to_next(self) -> float | None:
        if not self._waiting:
            return None
        return max(0.0, min(item.due for item in self._waiting.values()) - self._clock())
