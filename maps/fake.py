"""The tables in memory, for tests: same interface, same limits, and failures on demand.

    tables = fake_tables(entries={"backends": 10})
    tables.fail_every(10)        # every tenth write raises, before it has any effect

It is held to the kernel's behaviour by the tests that run against both.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from itertools import cycle

from maps import abi, bpf
from maps.layout import U32, MapKind, MapSpec, Packed
from maps.table import Store, Tables, stored_size

_PREFIX = U32.STRUCT


class Faults:
    """Counts the writes to all the tables of one set, and decides which one fails, and how."""

    def __init__(self) -> None:
        self._every = 0
        self._writes = 0
        self._kinds = cycle((errno.E2BIG, errno.EIO))

    def fail_every(self, n: int) -> None:
        """Fail every nth write from now on, as full and as broken in turn; 0: never again."""
        self._every = n
        self._writes = 0

    def next_write(self) -> None:
        """Count a write; OSError when its turn has come."""
        self._writes += 1
        if self._every and self._writes % self._every == 0:
            number = next(self._kinds)
            raise OSError(number, os.strerror(number))


class FakeStore:
    """A map in memory, with the limits and errors of the kernel's."""

    fd = -1

    def __init__(self, spec: MapSpec, faults: Faults) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.writes = 0
        """Entries written and deleted since the start."""
        self._spec = spec
        self._faults = faults
        if spec.kind.is_array:
            empty = bytes(stored_size(spec))
            self.entries = {U32(i).pack(): empty for i in range(spec.entries)}

    def get(self, key: bytes) -> bytes | None:
        """Read a value; in an LPM trie, that of the longest prefix that the key lies in."""
        if self._spec.kind is MapKind.LPM_TRIE:
            return self._longest(key)
        return self.entries.get(key)

    def _longest(self, key: bytes) -> bytes | None:
        if _prefix(key) > self._widest:
            return None
        for prefix in range(_prefix(key), -1, -1):
            value = self.entries.get(_masked(key, prefix))
            if value is not None:
                return value
        return None

    def put(self, key: bytes, value: bytes, flags: int) -> None:
        """Write an entry; E2BIG when full, an LRU map forgets its oldest instead."""
        self._faults.next_write()
        self._put(key, value, flags)

    def _put(self, key: bytes, value: bytes, flags: int = bpf.ANY) -> None:
        if self._spec.kind is MapKind.LPM_TRIE:
            key = self._prefixed(key)
        if key in self.entries:
            if flags == bpf.NOEXIST:
                raise FileExistsError(errno.EEXIST, "entry exists")
        elif len(self.entries) >= self._spec.entries:
            if not self._spec.kind.is_lru:
                raise OSError(errno.E2BIG, "map is full")
            del self.entries[next(iter(self.entries))]
        if len(key) != self._spec.key_size or len(value) != stored_size(self._spec):
            raise ValueError(f"{self._spec.name}: key or value of a wrong size")
        self.writes += 1
        self.entries[key] = value

    def delete(self, key: bytes) -> bool:
        """Delete an entry; EINVAL in an array."""
        self._faults.next_write()
        return self._delete(key)

    def _delete(self, key: bytes) -> bool:
        if self._spec.kind.is_array:
            raise OSError(errno.EINVAL, "entries of an array cannot be deleted")
        if self._spec.kind is MapKind.LPM_TRIE:
            key = self._prefixed(key)
        found = self.entries.pop(key, None) is not None
        self.writes += found
        return found

    @property
    def _widest(self) -> int:
        """Bits of a key of an LPM trie that may count."""
        return 8 * (self._spec.key_size - _PREFIX.size)

    def _prefixed(self, key: bytes) -> bytes:
        """The key without the bits that do not count, as an LPM trie compares it."""
        if _prefix(key) > self._widest:
            raise OSError(errno.EINVAL, "prefix longer than the key")
        return _masked(key, _prefix(key))

    def put_many(self, keys: Packed, values: Packed, count: int) -> tuple[int, int]:
        """Write until one fails."""
        key_size, size = self._spec.key_size, stored_size(self._spec)
        done = 0
        try:
            self._faults.next_write()
            for done in range(count):
                key = bytes(keys[done * key_size : (done + 1) * key_size])
                self._put(key, bytes(values[done * size : (done + 1) * size]))
        except OSError as error:
            return done, error.errno or 0
        return count, 0

    def delete_many(self, keys: Packed, count: int) -> tuple[int, int]:
        """Delete until one is missing."""
        size = self._spec.key_size
        try:
            self._faults.next_write()
        except OSError as error:
            return 0, error.errno or 0
        for done in range(count):
            if not self._delete(bytes(keys[done * size : (done + 1) * size])):
                return done, errno.ENOENT
        return count, 0

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Read every entry that is there now."""
        return iter(list(self.entries.items()))

    def blocks(self) -> Iterator[tuple[memoryview, memoryview]]:
        """Read every entry that is there now, in two blocks, as a larger map would need."""
        entries = list(self.entries.items())
        half = (len(entries) + 1) // 2
        for part in filter(None, (entries[:half], entries[half:])):
            keys, values = (memoryview(b"".join(column)) for column in zip(*part, strict=True))
            yield keys, values

    def close(self) -> None:
        """Keep the entries: there is nothing to let go of."""


def _prefix(key: bytes) -> int:
    """The number that a key of an LPM trie begins with: how many bits behind it count."""
    (prefix,) = _PREFIX.unpack_from(key)
    return int(prefix)


def _masked(key: bytes, prefix: int) -> bytes:
    data = key[_PREFIX.size :]
    spare = 8 * len(data) - prefix
    kept = int.from_bytes(data, "big") >> spare << spare
    return _PREFIX.pack(prefix) + kept.to_bytes(len(data), "big")


class FakeTables(Tables):
    """All tables, in memory."""

    def __init__(self, entries: Mapping[str, int]) -> None:
        self.faults = Faults()
        specs = {
            name: spec._replace(entries=entries.get(name, spec.entries))
            for name, spec in abi.MAPS.items()
        }
        self.stores = {name: FakeStore(spec, self.faults) for name, spec in specs.items()}
        stores: Mapping[str, Store] = self.stores
        super().__init__(stores)
        for name, table in self.by_name.items():
            table.spec = specs[name]

    def fail_every(self, n: int) -> None:
        """Fail every nth write to any table, before it has any effect; 0: never again."""
        self.faults.fail_every(n)

    @property
    def writes(self) -> int:
        """Entries written and deleted since the start, in all tables."""
        return sum(store.writes for store in self.stores.values())


def fake_tables(entries: Mapping[str, int] | None = None) -> FakeTables:
    """Make a set of tables in memory; `entries` sets other limits than those of maps.h."""
    return FakeTables(entries or {})
