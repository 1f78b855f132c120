"""The objects of one resource as they were last read, and which of them are news.

One thread writes (the reflector), another one reads; a lock stands between. What the last
`take` handed out and what `get` says are the same state, however much has come since.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import NamedTuple

from kpbpf.errors import Problem
from kpbpf.kube.parse import Model
from kpbpf.kube.source import Change, Unread
from kpbpf.model.objects import Key


class _Spoiled(NamedTuple):
    problems: tuple[Problem, ...]
    stands_for: Key | None
    """What cannot be known because of it; None when the object counts all the same."""


class Held:
    """Models by key, each the last good state of its object."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self._lock = threading.Lock()
        self._objects: dict[Key, Model] = {}
        # What was there before the news, so that there and back again is no news.
        self._news: dict[Key, Model | None] = {}
        self._spoiled: dict[Key, _Spoiled] = {}
        self._holes: dict[str, Problem] = {}
        self._synced = False
        self._told_problems = False

    # ---- for the thread that writes ------------------------------------------------------

    def put(self, key: Key, model: Model, remarks: tuple[Problem, ...] = ()) -> None:
        """The object's new state; `remarks` are what is wrong with it but can be left out."""
        wake = False
        with self._lock:
            if remarks or key in self._spoiled:
                wake = self._spoil(key, _Spoiled(remarks, None) if remarks else None)
            before = self._objects.get(key)
            if before != model:
                self._objects[key] = model
                wake |= self._note(key, before)
        if wake:
            self.wake()

    def spoil(self, key: Key, problem: Problem, stands_for: Key) -> None:
        """The object cannot be read: what was known of it stays."""
        with self._lock:
            wake = self._spoil(key, _Spoiled((problem,), stands_for))
        if wake:
            self.wake()

    def drop(self, key: Key) -> None:
        """The object is gone."""
        with self._lock:
            wake = self._spoil(key, None)
            before = self._objects.pop(key, None)
            if before is not None:
                wake |= self._note(key, before)
        if wake:
            self.wake()

    def complete(self, seen: Collection[Key]) -> None:
        """Everything was read: what was not seen is gone, and holes are filled."""
        for key in [key for key in (*self._objects, *self._spoiled) if key not in seen]:
            self.drop(key)
        with self._lock:
            self._told_problems |= bool(self._holes)
            self._holes.clear()
        self.read_once()

    def hole(self, place: str, problem: Problem) -> None:
        """Something at `place` could not be read, and nobody knows which object it is."""
        with self._lock:
            self._holes[place] = problem
            self._told_problems = True
        self.wake()

    def read_once(self) -> None:
        """All that can be read was read: from now on there is a word for every change."""
        with self._lock:
            first, self._synced = not self._synced, True
        if first:
            self.wake()

    # ---- for the thread that reads -------------------------------------------------------

    @property
    def synced(self) -> bool:
        """Whether everything has been read once."""
        return self._synced

    def __len__(self) -> int:
        return len(self._objects)

    def take(self) -> list[Change]:
        """What is different since the last call."""
        with self._lock:
            news, self._news = self._news, {}
            found = self._objects
            return [
                Change(key, after)
                for key, before in news.items()
                if (after := found.get(key)) != before
            ]

    def get(self, key: Key) -> Model | None:
        """An object's last good state, as of the last `take`."""
        with self._lock:
            return self._news[key] if key in self._news else self._objects.get(key)

    def models(self) -> list[Model]:
        """Every object's last good state."""
        with self._lock:
            return list(self._objects.values())

    def problems_changed(self) -> bool:
        """Whether `problems` may say something else than when this was last asked."""
        with self._lock:
            changed, self._told_problems = self._told_problems, False
            return changed

    def problems(self) -> list[Problem]:
        """Everything that is wrong now."""
        with self._lock:
            spoiled = [problem for one in self._spoiled.values() for problem in one.problems]
            return [*self._holes.values(), *spoiled]

    def unread(self) -> Unread:
        """What could not be read, and of which no earlier state is known."""
        with self._lock:
            keys = [
                one.stands_for
                for key, one in self._spoiled.items()
                if one.stands_for is not None and key not in self._objects
            ]
            return Unread(tuple(self._holes), tuple(dict.fromkeys(keys)))

    # ---- inside -------------------------------------------------------------------------

    def _note(self, key: Key, before: Model | None) -> bool:
        """Remember that something happened to the object; whether the reader has to be woken.

        While everything is read for the first time, it is not: nothing can be done with a part
        of it, and two threads would only fight for the interpreter.
        """
        first = not self._news
        self._news.setdefault(key, before)
        return first and self._synced

    def _spoil(self, key: Key, spoiled: _Spoiled | None) -> bool:
        """Note what is wrong with the object; whether the reader has to be woken for it."""
        if self._spoiled.get(key) == spoiled:
            return False
        self._told_problems = True
        if spoiled is None:
            del self._spoiled[key]
        else:
            self._spoiled[key] = spoiled
        return self._synced
