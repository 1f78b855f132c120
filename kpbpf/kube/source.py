"""What every source of objects offers, and several of them as one.

A source reads objects from somewhere (manifests, an API server), keeps the last good state of
each, and hands out what changed. What the objects are for is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from kpbpf.errors import Problem
from kpbpf.kube.parse import Model
from kpbpf.model.objects import Key


class Change(NamedTuple):
    """An object has a new state, or is gone (None)."""

    key: Key
    model: Model | None


class Unread(NamedTuple):
    """What could not be read since the start, so that nobody knows whether it is still wanted.

    `places` are files or directories that may hold anything; `keys` are objects that are known
    by name only, of a slice its Service.
    """

    places: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()


class Source(Protocol):
    """A source of objects. `start`, `refresh` and the accessors belong to one thread."""

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to watch; `wake` is called, from any thread, when `refresh` has news."""

    def refresh(self) -> list[Change]:
        """Objects that are different now; the same content again yields nothing."""

    def get(self, key: Key) -> Model | None:
        """An object's last good state, None when it is not there."""

    def awaited(self) -> list[str]:
        """What has not been read in whole once yet, by name; empty from then on."""

    def problems(self) -> list[Problem]:
        """Everything that is wrong now."""

    def unread(self) -> Unread:
        """What could not be read since the start."""

    def where(self, key: Key) -> str:
        """Where an object stands, for messages."""

    def close(self) -> None:
        """Stop watching, and wait until that is so."""


class Sources:
    """Several sources as one; of an object that two of them hold, the earlier one's counts."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._contested: set[Key] = set()

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to watch all."""
        for source in self._sources:
            source.start(wake)

    def refresh(self) -> list[Change]:
        """Objects that are different now."""
        touched = {change.key: None for source in self._sources for change in source.refresh()}
        return [Change(key, self._settle(key)) for key in touched]

    def get(self, key: Key) -> Model | None:
        """What the first source that holds the object says."""
        return next((found for source in self._sources if (found := source.get(key))), None)

    def awaited(self) -> list[str]:
        """What has not been read in whole once yet."""
        return [name for source in self._sources for name in source.awaited()]

    def problems(self) -> list[Problem]:
        """Everything that is wrong now, objects that two sources hold included."""
        found = [problem for source in self._sources for problem in source.problems()]
        for key in sorted(self._contested):
            first, *others = [source for source in self._sources if source.get(key)]
            expected = "an object that no other source holds"
            got = f"one that {first.where(key)} holds too, which counts"
            found += [
                Problem(other.where(key), str(key), "metadata.name", expected, got)
                for other in others
            ]
        return found

    def unread(self) -> Unread:
        """What could not be read since the start."""
        found = [source.unread() for source in self._sources]
        return Unread(
            tuple(place for one in found for place in one.places),
            tuple(key for one in found for key in one.keys),
        )

    def where(self, key: Key) -> str:
        """Where the object that counts stands; its key when nobody holds it."""
        return next((one.where(key) for one in self._sources if one.get(key)), str(key))

    def close(self) -> None:
        """Stop watching."""
        for source in self._sources:
            source.close()

    def _settle(self, key: Key) -> Model | None:
        holders = [found for source in self._sources if (found := source.get(key))]
        if len(holders) > 1:
            self._contested.add(key)
        else:
            self._contested.discard(key)
        return holders[0] if holders else None
