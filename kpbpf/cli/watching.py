"""`-w`: a listing, and then a line for each change, until somebody presses Ctrl-C.

Reads again and again and prints differences; what a row is, and where it is from, is not known
here.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from time import monotonic, sleep
from typing import Any

from kpbpf.cli.output import Column, Row, cell, document

EVERY_SEC = 1.0

SHARE = 0.2
"""Of the time that may go into reading; a large node is read less often."""

ADDED, MODIFIED, DELETED = "added", "modified", "deleted"
EVENT = Column("EVENT", "event", str.upper)

Identity = tuple[Any, ...]


def watch(
    output: str,
    columns: Sequence[Column],
    read: Callable[[], Iterable[Row]],
    identify: Callable[[Row], Identity],
) -> None:
    """Print all rows as added, then what changes. Ends by KeyboardInterrupt or a closed pipe.

    A machine gets an object for each line (JSON) or document (YAML), with the key "event".
    """
    lines = _Lines(output, (EVENT, *columns))
    before: dict[Identity, Row] = {}
    while True:
        started = monotonic()
        now = {identify(row): row for row in read()}
        lines.tell(_changes(before, now))
        before = now
        sleep(max(EVERY_SEC, (monotonic() - started) / SHARE))


def _changes(before: dict[Identity, Row], now: dict[Identity, Row]) -> list[Row]:
    """What is different, as rows with an event; what is gone comes first."""
    gone = [{"event": DELETED, **row} for key, row in before.items() if key not in now]
    return gone + [
        {"event": MODIFIED if key in before else ADDED, **row}
        for key, row in now.items()
        if before.get(key) != row
    ]


class _Lines:
    """Prints rows when they come: columns stay where they were, as far as the cells allow."""

    def __init__(self, output: str, columns: Sequence[Column]) -> None:
        self._output = output
        self._columns = [column for column in columns if output == "wide" or not column.wide]
        self._widths: list[int] = []

    def tell(self, changes: Sequence[Row]) -> None:
        """Print them at once: who watches waits for them."""
        if self._output in ("json", "yaml"):
            for row in changes:
                document(self._output, row, stream=True)
        else:
            self._table(changes)
        sys.stdout.flush()

    def _table(self, changes: Sequence[Row]) -> None:
        lines = [[cell(column, row) for column in self._columns] for row in changes]
        if not self._widths:
            lines.insert(0, [column.header for column in self._columns])
            self._widths = [0] * len(self._columns)
        for line in lines:
            self._widths = [max(pair) for pair in zip(self._widths, map(len, line), strict=True)]
        for line in lines:
            padded = [text.ljust(width) for text, width in zip(line, self._widths, strict=True)]
            sys.stdout.write("   ".join(padded).rstrip() + "\n")
