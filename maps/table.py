"""Typed tables over the kernel's maps: open, check, create and pin them; read and write entries.

A `Table` speaks in records of `maps.abi`; its raw methods speak in bytes, for bulk. Beneath it
is a `Store`: the kernel's map here, or one in memory (`maps.fake`). Nothing here decides what
an entry should be.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from kpbpf.errors import AbiMismatch, MapFull, MissingBpffs, NotFound, NotRoot
from kpbpf.home import Home
from maps import abi, bpf
from maps.layout import U32, MapKind, MapSpec, Packed, Record

K = TypeVar("K", bound=Record)
V = TypeVar("V")

FULL = (errno.E2BIG, errno.ENOSPC)


class Store(Protocol):
    """What a table needs of the thing that holds its entries. Failures are OSError."""

    fd: int
    """The map's file descriptor, -1 where there is none."""

    def get(self, key: bytes) -> bytes | None:
        """Read a value."""

    def put(self, key: bytes, value: bytes, flags: int) -> None:
        """Write an entry; flags are bpf.ANY or bpf.NOEXIST."""

    def delete(self, key: bytes) -> bool:
        """Delete an entry; False when there was none."""

    def put_many(self, keys: Packed, values: Packed, count: int) -> tuple[int, int]:
        """Write entries that lie one behind the other: (written, errno or 0)."""

    def delete_many(self, keys: Packed, count: int) -> tuple[int, int]:
        """Delete up to the first missing one: (deleted, errno or 0)."""

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Read every entry."""

    def blocks(self) -> Iterator[tuple[memoryview, memoryview]]:
        """Read every entry, many at a time: (keys, values), each one behind the other."""

    def close(self) -> None:
        """Let go of it."""


class KernelStore:
    """A map of the kernel, by file descriptor."""

    def __init__(self, fd: int, spec: MapSpec) -> None:
        self.fd = fd
        self._key_size = spec.key_size
        self._size = stored_size(spec)

    def get(self, key: bytes) -> bytes | None:
        """Read a value."""
        return bpf.lookup(self.fd, key, self._size)

    def put(self, key: bytes, value: bytes, flags: int) -> None:
        """Write an entry."""
        bpf.update(self.fd, key, value, flags)

    def delete(self, key: bytes) -> bool:
        """Delete an entry."""
        return bpf.delete(self.fd, key)

    def put_many(self, keys: Packed, values: Packed, count: int) -> tuple[int, int]:
        """Write entries in one system call."""
        return bpf.update_batch(self.fd, keys, values, count)

    def delete_many(self, keys: Packed, count: int) -> tuple[int, int]:
        """Delete entries in one system call."""
        return bpf.delete_batch(self.fd, keys, count)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Read every entry."""
        return bpf.items(self.fd, self._key_size, self._size)

    def blocks(self) -> Iterator[tuple[memoryview, memoryview]]:
        """Read every entry, many at a time."""
        return bpf.blocks(self.fd, self._key_size, self._size)

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self.fd)


class Table(Generic[K, V]):
    """One map, as records. MapFull when it takes no more entries, OSError for the rest."""

    def __init__(self, spec: MapSpec, store: Store) -> None:
        self.spec = spec
        self.store = store

    @property
    def fd(self) -> int:
        """The map's file descriptor, -1 for one in memory."""
        return self.store.fd

    def get(self, key: K) -> V | None:
        """Read a value, or None."""
        value = self.store.get(key.pack())
        return None if value is None else self.unpack_value(value)

    def put(self, key: K, value: V) -> None:
        """Write an entry, over an old one if need be."""
        self.put_raw(key.pack(), self.pack_value(value))

    def put_new(self, key: K, value: V) -> bool:
        """Write an entry unless the key is taken; tell whether it was written."""
        try:
            self.put_raw(key.pack(), self.pack_value(value), bpf.NOEXIST)
        except FileExistsError:
            return False
        return True

    def delete(self, key: K) -> bool:
        """Delete an entry; False when there was none."""
        return self.store.delete(key.pack())

    def items(self) -> Iterator[tuple[K, V]]:
        """Read every entry, in no order."""
        unpack_key: Any = self.spec.key_type.unpack
        unpack_value = self.unpack_value
        for key, value in self.store.items():
            yield unpack_key(key), unpack_value(value)

    def pack_value(self, value: V) -> bytes:
        """Lay a value out as the kernel holds it."""
        record: Any = value
        packed: bytes = record.pack()
        return packed

    def unpack_value(self, data: Packed) -> V:
        """Read a value as the kernel holds it."""
        value: Any = self.spec.value_type.unpack(data)
        return value  # type: ignore[no-any-return]

    # ---- raw: packed keys and values ------------------------------------------------------

    def get_raw(self, key: bytes) -> bytes | None:
        """Read a value, or None."""
        return self.store.get(key)

    def put_raw(self, key: bytes, value: bytes, flags: int = bpf.ANY) -> None:
        """Write an entry."""
        try:
            self.store.put(key, value, flags)
        except OSError as error:
            if error.errno in FULL:
                raise MapFull(self.spec.name, self.spec.entries) from None
            raise

    def delete_raw(self, key: bytes) -> bool:
        """Delete an entry; False when there was none."""
        return self.store.delete(key)

    def items_raw(self) -> Iterator[tuple[bytes, bytes]]:
        """Read every entry, in no order."""
        return self.store.items()

    def blocks_raw(self) -> Iterator[tuple[memoryview, memoryview]]:
        """Read every entry, many at a time, for what looks at all: see bpf.blocks."""
        return self.store.blocks()

    def count(self) -> int:
        """Count the entries, by reading them all."""
        return sum(len(keys) for keys, _ in self.store.blocks()) // self.spec.key_size

    def put_many_raw(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Write many entries; see put_block."""
        pairs = list(entries)
        self.put_block(b"".join(key for key, _ in pairs), b"".join(value for _, value in pairs))

    def delete_many_raw(self, keys: Iterable[bytes]) -> int:
        """Delete many entries; see delete_block."""
        return self.delete_block(b"".join(keys))

    def put_block(self, keys: Packed, values: Packed) -> None:
        """Write entries whose keys, and values, lie one behind the other: the fastest way.

        Not atomic: readers see entry after entry. MapFull.done tells how many were written.
        """
        count = len(keys) // self.spec.key_size
        if len(keys) != count * self.spec.key_size or len(values) != count * self._stride:
            raise ValueError(f"{len(keys)} bytes of keys do not match {len(values)} of values")
        if not count:
            return
        done, number = self.store.put_many(keys, values, count)
        if number in FULL:
            raise MapFull(self.spec.name, self.spec.entries, done)
        if number:
            raise OSError(number, os.strerror(number))

    def delete_block(self, keys: Packed) -> int:
        """Delete entries whose keys lie one behind the other; missing ones are passed over."""
        size = self.spec.key_size
        left = memoryview(bytearray(keys))
        deleted = 0
        while left:
            done, number = self.store.delete_many(left, len(left) // size)
            deleted += done
            if number not in (0, errno.ENOENT):
                raise OSError(number, os.strerror(number))
            left = left[(done + 1) * size :] if number else left[:0]
        return deleted

    @property
    def _stride(self) -> int:
        return stored_size(self.spec)


class PercpuTable(Table[K, list[V]]):
    """A map with one value for each possible CPU: get, put and items speak in lists."""

    def sum(self, key: K) -> V | None:
        """Add up a record of numbers over all CPUs."""
        values = self.get(key)
        return None if values is None else total(values)

    def pack_value(self, value: list[V]) -> bytes:
        """Lay out the values of all CPUs, each padded to 8 bytes."""
        size = self._stride // bpf.possible_cpus()
        records: list[Any] = value
        return b"".join(record.pack().ljust(size, b"\0") for record in records)

    def unpack_value(self, data: Packed) -> list[V]:
        """Read the values of all CPUs."""
        size = self._stride // bpf.possible_cpus()
        unpack: Any = self.spec.value_type.unpack
        return [unpack(data[i : i + self.spec.value_size]) for i in range(0, len(data), size)]


def total(values: Iterable[V]) -> V:
    """Add up records of numbers, field by field."""
    records: list[Any] = list(values)
    added: V = type(records[0])(*map(sum, zip(*records, strict=True)))
    return added


def stored_size(spec: MapSpec) -> int:
    """Bytes of one value as bpf(2) hands it over: for every CPU, rounded to 8, if per CPU."""
    if not spec.kind.is_percpu:
        return spec.value_size
    return (spec.value_size + 7) // 8 * 8 * bpf.possible_cpus()


class Tables:
    """All the tables of one kpbpf; `by_name` holds the same ones."""

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self.by_name: dict[str, Table[Any, Any]] = {
            name: (PercpuTable if spec.kind.is_percpu else Table)(spec, stores[name])
            for name, spec in abi.MAPS.items()
        }
        table: dict[str, Any] = self.by_name
        self.flows: Table[abi.FlowKey, abi.Flow] = table["flows"]
        self.fragments: Table[abi.FragmentKey, abi.Fragment] = table["fragments"]
        self.affinities: Table[abi.AffinityKey, abi.Affinity] = table["affinities"]
        self.sockets: Table[abi.SocketKey, abi.Socket] = table["sockets"]
        self.counters: PercpuTable[U32, abi.Counter] = table["counters"]
        self.drops: Table[abi.DroppedKey, abi.Dropped] = table["drops"]
        self.buckets: PercpuTable[U32, abi.Bucket] = table["buckets"]
        self.scratches: PercpuTable[U32, abi.Scratch] = table["scratches"]
        self.configs: Table[U32, abi.Config] = table["configs"]
        self.frontends: Table[abi.FrontendKey, abi.Frontend] = table["frontends"]
        self.backends: Table[abi.BackendKey, abi.Backend] = table["backends"]
        self.members: Table[abi.MemberKey, abi.Member] = table["members"]
        self.ranges: Table[abi.RangeKey, U32] = table["ranges"]
        self.addresses: Table[abi.AddressKey, abi.Address] = table["addresses"]
        self.devices: Table[U32, abi.Device] = table["devices"]
        self.endpoints: Table[abi.EndpointKey, abi.Endpoint] = table["endpoints"]
        self.names: Table[abi.NameKey, abi.Name] = table["names"]

    def close(self) -> None:
        """Let go of every map; the pins keep them alive."""
        for table in self.by_name.values():
            table.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_tables(home: Home, create: bool = False) -> Tables:
    """Open the pinned maps, each checked against abi.h; with `create` make missing ones first.

    Fix errors: AbiMismatch, NotRoot, MissingBpffs. NotFound when kpbpf was never started here.
    """
    directory = home.maps_dir(abi.ABI_VERSION)
    if create:
        with home.writer_lock():
            _create_missing(directory)
    fds: dict[str, int] = {}
    try:
        for spec in abi.MAPS.values():
            fds[spec.name] = _open(directory / spec.name, spec)
    except BaseException:
        for fd in fds.values():
            os.close(fd)
        raise
    return Tables({name: KernelStore(fd, abi.MAPS[name]) for name, fd in fds.items()})


def _open(path: Path, spec: MapSpec) -> int:
    try:
        fd = bpf.obj_get(path)
    except FileNotFoundError:
        raise NotFound(
            f"kpbpf is not set up on this node: there is no {path}; `kpbpf run` sets it up"
        ) from None
    except PermissionError:
        raise NotRoot(f"open {path}") from None
    differences = _differences(bpf.map_info(fd), spec)
    if differences:
        os.close(fd)
        raise AbiMismatch(str(path), differences)
    return fd


def _differences(found: bpf.MapInfo, spec: MapSpec) -> list[str]:
    """Name every property in which a pinned map is not what abi.h says."""
    pairs = (
        ("kind", _kind(found.kind), _kind(spec.kind)),
        ("key size", found.key_size, spec.key_size),
        ("value size", found.value_size, spec.value_size),
        ("entries", found.entries, spec.entries),
        ("flags", found.flags, spec.flags),
    )
    return [f"{what} is {is_}, expected {wanted}" for what, is_, wanted in pairs if is_ != wanted]


def _kind(number: int) -> str:
    return MapKind(number).name if number in list(MapKind) else f"kind {number}"


def _create_missing(directory: Path) -> None:
    """Make and pin the maps that are not there: all of them, or none that was not there."""
    missing = [spec for spec in abi.MAPS.values() if not (directory / spec.name).exists()]
    if not missing:
        return
    require_bpffs(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    pinned: list[Path] = []
    try:
        for spec in missing:
            path = directory / spec.name
            _create(path, spec)
            pinned.append(path)
    except BaseException:
        for path in pinned:
            path.unlink()
        raise


def _create(path: Path, spec: MapSpec) -> None:
    sizes = (spec.key_size, spec.value_size, spec.entries)
    try:
        fd = bpf.map_create(spec.kind, *sizes, spec.flags, spec.symbol)
    except PermissionError:
        raise NotRoot(f"create map {spec.symbol}") from None
    try:
        bpf.obj_pin(fd, path)
    finally:
        os.close(fd)


def require_bpffs(directory: Path) -> None:
    """Raise MissingBpffs unless a directory, which need not exist yet, would hold pins."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if not bpf.is_bpffs(there):
        under_sys = directory.is_relative_to("/sys/fs/bpf")
        raise MissingBpffs(str(directory), "/sys/fs/bpf" if under_sys else "")
