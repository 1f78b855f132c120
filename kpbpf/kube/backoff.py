"""When to ask again: a delay that grows with failures, and a limit on the rate of requests.

Knows nothing of what is asked. The clock and the dice are given, so tests need not wait.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable

FIRST_SEC = 0.5
LAST_SEC = 30.0

HEALTHY_SEC = 10.0
"""An attempt that worked for so long before it failed ends the series of failures.

Load balancers that cut idle streams do so after 30 s at the earliest; a server that cuts them
all after 10 s sees six requests a minute of each resource.
"""


class Backoff:
    """Delays between attempts: doubled with each failure, drawn from the upper half of the step.

    So thousands of nodes that lost their server at once do not come back at once.
    """

    def __init__(
        self,
        first_sec: float = FIRST_SEC,
        last_sec: float = LAST_SEC,
        healthy_sec: float = HEALTHY_SEC,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._first = first_sec
        self._last = last_sec
        self._healthy = healthy_sec
        self._draw = draw
        self.failures = 0

    def failed(self, worked_sec: float, retry_after_sec: float = 0.0) -> float:
        """Seconds to wait after an attempt that worked for `worked_sec` and then failed.

        What the server asked for (Retry-After) is waited in whole, and a little more.
        """
        if worked_sec >= self._healthy:
            self.failures = 0
        step = min(self._first * 2.0 ** min(self.failures, 30), self._last)
        self.failures += 1
        return max(step * (0.5 + self._draw() / 2), retry_after_sec * (1.0 + self._draw() / 10))

    def ended(self, worked_sec: float) -> float:
        """Seconds to wait after an attempt that the server ended in good order.

        None after one that lasted; one that was ended at once is as good as failed.
        """
        if worked_sec >= self._healthy:
            self.failures = 0
            return 0.0
        return self.failed(worked_sec)


class Rate:
    """At most `qps` requests a second in the long run, and `burst` at once; for many threads."""

    def __init__(self, qps: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap = 1.0 / qps if qps > 0 else 0.0
        self._burst = max(burst, 1)
        self._clock = clock
        self._lock = threading.Lock()
        self._next = -math.inf

    def reserve(self) -> float:
        """Take a turn; the seconds until it comes."""
        with self._lock:
            now = self._clock()
            # Unused turns are saved up, `burst` of them at most.
            self._next = max(self._next, now - self._gap * (self._burst - 1))
            turn = self._next
            self._next += self._gap
        return max(turn - now, 0.0)
