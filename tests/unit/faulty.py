"""Stores that fail or die in the middle of a batch, entry by entry, as the kernel's may."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator

from maps.fake import FakeStore, FakeTables
from maps.layout import Packed


class KilledError(BaseException):
    """The process is no more."""


class Fate:
    """Asked before every entry that is written or deleted; does nothing."""

    def __init__(self, tables: FakeTables) -> None:
        for name, table in tables.by_name.items():
            table.store = FatedStore(tables.stores[name], self)

    def write(self) -> None:
        """Raise, or let it happen."""


class Killed(Fate):
    """Dies after `left` entries; never when that is below 0."""

    def __init__(self, tables: FakeTables, left: int) -> None:
        super().__init__(tables)
        self.left = left

    def write(self) -> None:
        if not self.left:
            raise KilledError
        self.left -= 1


class Flaky(Fate):
    """Fails one entry in `out_of` at random, as full and as broken in turn; 0: none."""

    def __init__(self, tables: FakeTables, out_of: int, seed: int) -> None:
        super().__init__(tables)
        self.out_of = out_of
        self._random = random.Random(seed)

    def write(self) -> None:
        if self.out_of and not self._random.randrange(self.out_of):
            raise OSError(self._random.choice((errno.E2BIG, errno.EIO)), "on purpose")


class FatedStore:
    """A store that writes batches one entry at a time."""

    fd = -1

    def __init__(self, store: FakeStore, fate: Fate) -> None:
        self.store, self.fate = store, fate
        self.get, self.items, self.close = store.get, store.items, store.close
        self.blocks = store.blocks

    def put(self, key: bytes, value: bytes, flags: int) -> None:
        self.fate.write()
        self.store.put(key, value, flags)

    def delete(self, key: bytes) -> bool:
        self.fate.write()
        return self.store.delete(key)

    def put_many(self, keys: Packed, values: Packed, count: int) -> tuple[int, int]:
        done = 0
        try:
            for key, value in zip(_cut(keys, count), _cut(values, count), strict=True):
                self.put(key, value, 0)
                done += 1
        except OSError as error:
            return done, error.errno or 0
        return count, 0

    def delete_many(self, keys: Packed, count: int) -> tuple[int, int]:
        done = 0
        try:
            for key in _cut(keys, count):
                if not self.delete(key):
                    return done, errno.ENOENT
                done += 1
        except OSError as error:
            return done, error.errno or 0
        return count, 0


def _cut(block: Packed, count: int) -> Iterator[bytes]:
    size = len(block) // count
    return (bytes(block[n * size : (n + 1) * size]) for n in range(count))
