"""Logging set-up: one line per event on standard error, whatever the message holds.

Text for people, or JSON for machines. Modules ask for their logger with `get(__name__)`. Only the
entry points call `start`.
"""

import heapq
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TextIO

from kpbpf.errors import Problem

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

DEBUG_VERBOSITY = 4
"""kube-proxy's -v from which on we say debug: what Kubernetes' conventions call debugging."""

LINE_CHARACTERS = 8000
"""A longer line is cut: container runtimes split theirs at 16 KiB."""

TOLD_AT_ONCE = 20
"""Problems that `Told` names in QUIET_SEC; the rest is a number."""

QUIET_SEC = 60.0

REMEMBERED = 10_000
"""Problems that Told remembers, at most."""

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9}


class OneLine(logging.Formatter):
    """`2026-01-31 12:00:00.123 INFO controllers.services: 3 Services written`."""

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Format the event; line ends inside it (a traceback, a hostile name) become " | "."""
        line = " | ".join(super().format(record).splitlines())
        return _cut(line).translate(_CONTROL)


class JsonLine(logging.Formatter):
    """`{"ts": "2026-01-31T12:00:00.123Z", "level": "info", "logger": ..., "msg": ...}`.

    `exc` holds the traceback where there is one. ASCII only, so that every reader can take it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the event; JSON needs no line end inside."""
        when = datetime.fromtimestamp(record.created, UTC)
        event = {
            "ts": when.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": _cut(record.getMessage()),
        }
        if record.exc_info:
            event["exc"] = _cut(self.formatException(record.exc_info))
        return json.dumps(event)


FORMATS: dict[str, Callable[[], logging.Formatter]] = {"text": OneLine, "json": JsonLine}


def start(level: str = "info", format_: str = "text", stream: TextIO | None = None) -> None:
    """Send every logger to `stream` (standard error); a second call replaces the first."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FORMATS[format_]())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)


def get(name: str) -> logging.Logger:
    """Return the logger of a module; the package prefix `kpbpf.` is left out."""
    return logging.getLogger(name.removeprefix("kpbpf."))


def level_of(verbosity: int) -> str:
    """The level for kube-proxy's -v: 0 to 3 is info, as nothing of ours is chattier below."""
    return "debug" if verbosity >= DEBUG_VERBOSITY else "info"


class _Allowance:
    """How many lines may be said: TOLD_AT_ONCE in QUIET_SEC, and one about those left out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = -QUIET_SEC
        self._left = 0
        self._unsaid = 0
        self._told_more = False

    def unsaid(self) -> int:
        """How many were left out since that was last told, once there may be lines again."""
        if self._clock() - self._began < QUIET_SEC:
            return 0
        self._began, self._left, self._told_more = self._clock(), TOLD_AT_ONCE, False
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid

    def take(self, count: int) -> tuple[int, int]:
        """Of so many, how many may have a line, and for how many others there is one line now."""
        shown = min(count, self._left)
        self._left -= shown
        more = count - shown
        if self._told_more:
            self._unsaid += more
            return shown, 0
        self._told_more = more > 0
        return shown, more


class Told:
    """Says what went wrong and what was mended, each once; of many in a minute, only the first.

    `clock` is monotonic.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._before: frozenset[Problem] = frozenset()
        self._new, self._mended = _Allowance(clock), _Allowance(clock)

    def tell(self, problems: Iterable[Problem]) -> None:
        """Log the difference to what was wrong the last time."""
        now = frozenset(problems)
        if len(now) > REMEMBERED:
            now = frozenset(heapq.nsmallest(REMEMBERED, now))
        new, mended = now - self._before, self._before - now
        self._before = now
        if new:
            self._tell(
                self._new, new, logging.WARNING, "%s", "and %d more%s; `kpbpf status` lists them"
            )
        if mended:
            self._tell(self._mended, mended, logging.INFO, "mended: %s", "mended: %d more%s")

    def _tell(
        self, allowance: _Allowance, some: frozenset[Problem], level: int, one: str, others: str
    ) -> None:
        unsaid = allowance.unsaid()
        if unsaid:
            self._log.log(level, others, unsaid, " before this")
        shown, more = allowance.take(len(some))
        for problem in heapq.nsmallest(shown, some):
            self._log.log(level, one, problem)
        if more:
            self._log.log(level, others, more, "")


def _cut(text: str) -> str:
    """Keep both ends: names are at the start of a line, an exception is at the end of it."""
    more = len(text) - LINE_CHARACTERS
    half = LINE_CHARACTERS // 2
    return f"{text[:half]} ...({more} characters)... {text[-half:]}" if more > 0 else text
