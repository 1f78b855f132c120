"""Who is served at an address that several Services claim: the one with the smaller name.

Pure bookkeeping, by Service path (namespace/name) and packed frontend key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator


class Claims:
    """All claims on frontends. The usual frontend has one claimant and costs one dict entry."""

    def __init__(self) -> None:
        self._holders: dict[bytes, str] = {}
        self._contested: dict[bytes, set[str]] = {}

    def change(self, path: str, before: Collection[bytes], after: Collection[bytes]) -> set[str]:
        """A Service claims other frontends than before; the other Services that this touches."""
        touched: set[str] = set()
        for frontend in set(before) - set(after):
            touched |= self._withdraw(path, frontend)
        for frontend in set(after) - set(before):
            touched |= self._claim(path, frontend)
        touched.discard(path)
        return touched

    def holds(self, path: str, frontend: bytes) -> bool:
        """Whether the Service is the one that is served there."""
        return self._holders.get(frontend) == path

    def lost(self) -> Iterator[tuple[str, bytes, str]]:
        """Claims in vain: (Service, frontend, Service that holds it), sorted."""
        for frontend, paths in sorted(self._contested.items()):
            holder = self._holders[frontend]
            yield from ((path, frontend, holder) for path in sorted(paths) if path != holder)

    def _claim(self, path: str, frontend: bytes) -> set[str]:
        holder = self._holders.setdefault(frontend, path)
        if holder == path:
            return set()
        self._contested.setdefault(frontend, {holder}).add(path)
        if holder < path:
            return set()
        self._holders[frontend] = path
        return {holder}

    def _withdraw(self, path: str, frontend: bytes) -> set[str]:
        others = self._contested.get(frontend)
        if others is None:
            del self._holders[frontend]
            return set()
        others.discard(path)
        heir = self._holders[frontend] = min(others)
        if len(others) == 1:
            del self._contested[frontend]
        return {heir} if path < heir else set()
