"""Who is served at an address that several Services claim: the one with the smaller name.

Pure bookkeeping, by Service path (namespace/name) and packed frontend key.
"""

from __future__ import annotations

from collections.abc import Iterator


class Claims:
    """All claims on frontends. The usual frontend has one claimant and costs one dict entry.

    `contests` is another number whenever `lost` may be another answer.
    """

    def __init__(self) -> None:
        self.contests = 0
        self._holders: dict[bytes, str] = {}
        self._contested: dict[bytes, set[str]] = {}

    def change(self, path: str, before: set[bytes], after: set[bytes]) -> set[str]:
        """A Service claims other frontends than before; the other Services that this touches."""
        touched: set[str] = set()
        for frontend in before - after:
            touched |= self._withdraw(path, frontend)
        for frontend in after - before:
            touched |= self._claim(path, frontend)
        touched.discard(path)
        return touched

    def held(self, path: str, frontends: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Those of the Service's claims at which it is the one that is served."""
        if self._contested.keys().isdisjoint(frontends):
            return frontends
        return tuple(key for key in frontends if self._holders[key] == path)

    def lost(self) -> Iterator[tuple[str, bytes, str]]:
        """Claims in vain: (Service, frontend, Service that holds it), sorted."""
        for frontend, paths in sorted(self._contested.items()):
            holder = self._holders[frontend]
            yield from ((path, frontend, holder) for path in sorted(paths) if path != holder)

    def _claim(self, path: str, frontend: bytes) -> set[str]:
        holder = self._holders.setdefault(frontend, path)
        if holder == path:
            return set()
        self.contests += 1
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
        self.contests += 1
        others.discard(path)
        heir = self._holders[frontend] = min(others)
        if len(others) == 1:
            del self._contested[frontend]
        return {heir} if path < heir else set()
