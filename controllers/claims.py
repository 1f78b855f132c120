"""Who is served at an address and port that several Services claim.

A ClusterIP goes before what is claimed from outside: by naming another Service's ClusterIP among
its externalIPs, nobody takes it away. Then the older Service goes first, as the API server says;
what it says nothing of (a manifest) comes last. Then the smaller name. All of that is the same on
every node, and after every restart.

Pure bookkeeping, by Service path (namespace/name) and packed frontend key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf

from maps.abi import FrontendFlag
from maps.wanted import FrontendOf

_EXTERNAL = int(FrontendFlag.EXTERNAL)

#: FrontendFlags by packed FrontendKey.
Wishes = Mapping[bytes, int]


class Claims:
    """All claims on frontends. The usual frontend has one claimant and costs one dict entry.

    `created` tells when the Service of a path was made, 0.0 when nobody says; it is asked as long
    as the Service claims anything. `contests` is another number whenever `lost` may be another
    answer.
    """

    def __init__(self, created: Callable[[str], float]) -> None:
        self.contests = 0
        self._created = created
        self._holders: dict[bytes, str] = {}
        self._contested: dict[bytes, set[str]] = {}
        # Claims that are not for a ClusterIP, where such a one might be claimed, too.
        self._from_outside: set[tuple[bytes, str]] = set()

    def change(self, path: str, before: Wishes, after: Wishes) -> set[str]:
        """A Service claims other frontends than before; the other Services that this touches."""
        touched: set[str] = set()
        for frontend, flags in before.items():
            if _differs(flags, after.get(frontend)):
                touched |= self._withdraw(path, frontend)
        for frontend, flags in after.items():
            if _differs(flags, before.get(frontend)):
                touched |= self._claim(path, frontend, flags)
        touched.discard(path)
        return touched

    def held(self, path: str, frontends: tuple[FrontendOf, ...]) -> tuple[FrontendOf, ...]:
        """Those of the Service's claims at which it is the one that is served."""
        if not any(key in self._contested for key, _ in frontends):
            return frontends
        return tuple([one for one in frontends if self._holders[one[0]] == path])

    def lost(self) -> Iterator[tuple[str, bytes, str]]:
        """Claims in vain: (Service, frontend, Service that holds it), sorted."""
        for frontend, paths in sorted(self._contested.items()):
            holder = self._holders[frontend]
            yield from ((path, frontend, holder) for path in sorted(paths) if path != holder)

    def _claim(self, path: str, frontend: bytes, flags: int) -> set[str]:
        if flags & _EXTERNAL:
            self._from_outside.add((frontend, path))
        holder = self._holders.setdefault(frontend, path)
        if holder == path:
            return set()
        self.contests += 1
        self._contested.setdefault(frontend, {holder}).add(path)
        if self._rank(frontend, holder) < self._rank(frontend, path):
            return set()
        self._holders[frontend] = path
        return {holder}

    def _withdraw(self, path: str, frontend: bytes) -> set[str]:
        self._from_outside.discard((frontend, path))
        others = self._contested.get(frontend)
        if others is None:
            del self._holders[frontend]
            return set()
        self.contests += 1
        others.discard(path)
        before = self._holders[frontend]
        heir = self._holders[frontend] = min(others, key=lambda other: self._rank(frontend, other))
        if len(others) == 1:
            del self._contested[frontend]
        return {heir} if before == path else set()

    def _rank(self, frontend: bytes, path: str) -> tuple[bool, float, str]:
        """The smallest is served."""
        return (frontend, path) in self._from_outside, self._created(path) or inf, path


def _differs(flags: int, other: int | None) -> bool:
    """Whether a claim is not the same one under other flags."""
    return other is None or bool((flags ^ other) & _EXTERNAL)
