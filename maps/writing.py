"""Writing the changes of many Service ports at once, and finding out whose write failed.

Knows changes and tables, not the order in which things are written: that is maps.sync's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kpbpf.errors import MapFull
from maps.plan import Change, Pair
from maps.present import Port
from maps.table import Table

#: What Report.failed calls the writes that belong to no Service port.
HOUSEKEEPING = "(housekeeping)"


@dataclass(slots=True)
class Report:
    """Entries written and deleted, and the names of Service ports that are not as wanted.

    `failed` could not be written; `held` were left alone, because the view was not whole.
    """

    writes: int = 0
    failed: dict[str, Exception] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)

    def fail(self, change: Change, error: Exception) -> None:
        """A write of this change failed: nothing more of it is to be written."""
        change.failed = True
        self.failed[change.port.name] = error

    def put(
        self,
        table: Table[Any, Any],
        changes: Sequence[Change],
        pairs_of: Callable[[Change], list[Pair]],
        note: Callable[[Port, bytes, bytes], None],
    ) -> None:
        """Write for all changes at once; if that fails, one by one, to see whose it is."""
        work = [(change, pairs_of(change)) for change in changes if not change.failed]
        pairs = [pair for _, some in work for pair in some]
        if not pairs:
            return
        try:
            table.put_many_raw(pairs)
        except (MapFull, OSError):
            for change, some in work:
                self._put_singly(table, change, some, note)
            return
        self.writes += len(pairs)
        for change, some in work:
            for key, value in some:
                note(change.port, key, value)

    def _put_singly(
        self,
        table: Table[Any, Any],
        change: Change,
        pairs: Iterable[Pair],
        note: Callable[[Port, bytes, bytes], None],
    ) -> None:
        waiting = deque(pairs)
        try:
            while waiting:
                key, value = waiting[0]
                table.put_raw(key, value)
                self.writes += 1
                note(change.port, key, value)
                waiting.popleft()
        except (MapFull, OSError) as error:
            self.fail(change, error)
            # The batch that failed first may have got as far as these.
            for key, value in waiting:
                if table.get_raw(key) == value:
                    note(change.port, key, value)

    def delete(
        self,
        table: Table[Any, Any],
        work: list[tuple[Change, list[bytes]]],
        note: Callable[[Port, bytes], None],
    ) -> set[str]:
        """Delete for all changes at once, else one by one; names of the ports that failed."""
        keys = [key for _, some in work for key in some]
        if not keys:
            return set()
        try:
            self.writes += table.delete_many_raw(keys)
        except OSError:
            return {
                change.port.name
                for change, some in work
                if not self._delete_singly(table, change, some, note)
            }
        for change, some in work:
            for key in some:
                note(change.port, key)
        return set()

    def _delete_singly(
        self,
        table: Table[Any, Any],
        change: Change,
        keys: list[bytes],
        note: Callable[[Port, bytes], None],
    ) -> bool:
        waiting = deque(keys)
        try:
            while waiting:
                self.writes += table.delete_raw(waiting[0])
                note(change.port, waiting.popleft())
        except OSError as error:
            self.fail(change, error)
            for key in waiting:
                if table.get_raw(key) is None:
                    note(change.port, key)
            return False
        return True
