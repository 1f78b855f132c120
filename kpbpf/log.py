"""Logging set-up: one line per event on standard error, whatever the message holds.

Modules ask for their logger with `get(__name__)`. Only the entry points call `start`.
"""

import logging
import sys
from collections.abc import Iterable
from typing import TextIO

from kpbpf.errors import Problem

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class OneLine(logging.Formatter):
    """`2026-01-31 12:00:00.123 INFO controllers.services: 3 Services written`."""

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Format the event; line ends inside it (a traceback, a hostile name) become " | "."""
        return " | ".join(super().format(record).splitlines())


def start(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every logger to `stream` (standard error); a second call replaces the first."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(OneLine())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)


def get(name: str) -> logging.Logger:
    """Return the logger of a module; the package prefix `kpbpf.` is left out."""
    return logging.getLogger(name.removeprefix("kpbpf."))


class Told:
    """Says what went wrong and what was mended, each once."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._before: frozenset[Problem] = frozenset()

    def tell(self, problems: Iterable[Problem]) -> None:
        """Log the difference to what was wrong the last time."""
        now = frozenset(problems)
        for problem in sorted(now - self._before):
            self._log.warning("%s", problem)
        for problem in sorted(self._before - now):
            self._log.info("mended: %s", problem)
        self._before = now
