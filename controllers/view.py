"""What may not have been read since the start, and so must lose nothing of what it was served.

A process that starts finds Services in the maps that an earlier one served. Those it is not told
of may be gone, or may stand where it cannot read: only what it could have read is taken away.
"""

from __future__ import annotations

from collections.abc import Callable

from kpbpf.compile.services import service_of
from kpbpf.kube.source import Unread


class View:
    """How much of the objects has been read once; it only ever grows.

    A source keeps the last good state of whatever becomes unreadable later.
    """

    def __init__(self, unread: Callable[[], Unread]) -> None:
        self._unread = unread
        self._last: Unread | None = None
        # None: anything may be missing.
        self._missing: frozenset[str] | None = None

    @property
    def whole(self) -> bool:
        """Whether everything was read once; from then on it is not asked again."""
        return self._missing is not None and not self._missing

    def grow(self) -> bool:
        """Ask again what is unread; whether that is less than before."""
        if self.whole:
            return False
        unread = self._unread()
        if unread == self._last:
            return False
        self._last = unread
        if unread.places:
            return False
        before = self._missing
        keys = frozenset(key.path for key in unread.keys if key.kind == "Service")
        self._missing = keys if before is None else before & keys
        return self._missing != before

    def hides(self, port: str) -> bool:
        """Whether the Service port of that name may be other than what was read of it."""
        return self._missing is None or service_of(port) in self._missing

    def missing(self) -> list[str]:
        """What has to be read before nothing is hidden any more, by name."""
        if self._last is None or self.whole:
            return []
        if self._missing is None:
            return [*self._last.places, *map(str, self._last.keys)]
        return [f"Service {path}" for path in sorted(self._missing)]
