"""bpf(2): the system call, typed, and nothing on top of it. The only place that calls it.

Raw bytes in, raw bytes out; what they mean is `maps.abi`'s business. Failures are OSError with
the kernel's errno. File descriptors are closed by whoever asked for them. Layouts of the
arguments are those of `union bpf_attr` and the `bpf_*_info` structs in linux/bpf.h.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_NUMBER = _NUMBERS.get(os.uname().machine, 280)

(_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_GET_NEXT_KEY) = range(5)
(_PROG_LOAD, _OBJ_PIN, _OBJ_GET, _PROG_ATTACH, _PROG_DETACH) = range(5, 10)
(_PROG_TEST_RUN, _OBJ_GET_INFO_BY_FD, _PROG_QUERY) = (10, 15, 16)
(_MAP_LOOKUP_BATCH, _MAP_UPDATE_BATCH, _MAP_DELETE_BATCH) = (24, 26, 27)
(_LINK_CREATE, _LINK_UPDATE, _LINK_DETACH) = (28, 29, 34)
_MAP_FREEZE = 22  # Linux 5.2

ANY, NOEXIST = 0, 1
TCX_INGRESS, TCX_EGRESS = 46, 47
F_ALLOW_MULTI = 1 << 1
F_REPLACE = 1 << 2
"""At a cgroup: beside programs of others; in the place of one that is there (Linux 5.6)."""
F_BEFORE = 1 << 3
"""With no relative program: at the head of the list."""

F_TEST_SKB_CHECKSUM_COMPLETE = 1 << 2
"""Test-run as if a device had summed the packet; EBADMSG when the sum is wrong afterwards."""

LINK_TYPE_TCX = 11
ENOTSUPP = 524
"""The kernel's own errno, which Python does not know: not supported for this map kind."""

_BPFFS_MAGIC = 0xCAFE4A11
_LINK_INFO = struct.Struct("=III4xII")
_CHUNK, _GPL = 4096, b"GPL\0"

Buffer = bytes | bytearray | memoryview

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_uint)


class MapInfo(NamedTuple):
    """struct bpf_map_info, its first fields."""

    kind: int
    id: int
    key_size: int
    value_size: int
    entries: int
    flags: int
    name: str


class ProgramInfo(NamedTuple):
    """struct bpf_prog_info; sizes in bytes. verified_insns is 0 before Linux 5.16."""

    kind: int
    id: int
    tag: str
    name: str
    jited_size: int
    xlated_size: int
    verified_insns: int
    map_ids: tuple[int, ...]


class LinkInfo(NamedTuple):
    """struct bpf_link_info of a tcx link; ifindex is 0 once the interface is gone."""

    kind: int
    id: int
    program_id: int
    ifindex: int
    attach_type: int


class TestRun(NamedTuple):
    """What a program did with the packet it was given by BPF_PROG_TEST_RUN."""

    retval: int
    data: bytes
    context: bytes
    duration_ns: int


def _bpf(command: int, attr: bytearray) -> int:
    result: int = _syscall(_NUMBER, command, _address(attr), len(attr))
    if result < 0:
        raise OSError(number := ctypes.get_errno(), os.strerror(number))
    return result


def _address(buffer: Buffer | None) -> int:
    """Where a buffer lies; the caller keeps it alive. Read-only memory is only for input."""
    if not buffer:
        return 0
    if isinstance(buffer, bytes):
        return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


def _attr(layout: str, *values: int | bytes) -> bytearray:
    return bytearray(struct.pack(layout, *values))


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="replace")


# ---- objects and their pins ---------------------------------------------------------------


def is_bpffs(path: str | os.PathLike[str]) -> bool:
    """Tell whether an existing path lies on a BPF file system."""
    found = bytearray(256)
    if _libc.statfs(os.fsencode(path), ctypes.c_void_p(_address(found))) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(path))
    kind: int = struct.unpack_from("@L", found)[0]
    return kind & 0xFFFFFFFF == _BPFFS_MAGIC


def obj_get(path: str | os.PathLike[str]) -> int:
    """Open a pin: a new file descriptor of the map, program or link."""
    name = os.fsencode(path) + b"\0"
    return _bpf(_OBJ_GET, _attr("=QII", _address(name), 0, 0))


def obj_pin(fd: int, path: str | os.PathLike[str]) -> None:
    """Give an object a name in the BPF file system, which keeps it alive."""
    name = os.fsencode(path) + b"\0"
    _bpf(_OBJ_PIN, _attr("=QII", _address(name), fd, 0))


def _info(fd: int, size: int, preset: bytes = b"") -> bytearray:
    found = bytearray(preset.ljust(size, b"\0"))
    _bpf(_OBJ_GET_INFO_BY_FD, _attr("=IIQ", fd, size, _address(found)))
    return found


def map_info(fd: int) -> MapInfo:
    """Ask what a map is."""
    found = _info(fd, 128)
    kind, number, key_size, value_size, entries, flags = struct.unpack_from("=6I", found)
    name = _text(struct.unpack_from("=16s", found, 24)[0])
    return MapInfo(kind, number, key_size, value_size, entries, flags, name)


def prog_info(fd: int) -> ProgramInfo:
    """Ask what a program is, and which maps it uses."""
    count: int = struct.unpack_from("=I", _info(fd, 232), 52)[0]
    ids = bytearray(4 * count)
    found = _info(fd, 232, struct.pack("=52xIQ", count, _address(ids)))
    kind, number, tag, jited, xlated = struct.unpack_from("=II8sII", found)
    name = _text(struct.unpack_from("=16s", found, 64)[0])
    verified: int = struct.unpack_from("=I", found, 216)[0]
    map_ids = struct.unpack(f"={count}I", ids)
    return ProgramInfo(kind, number, tag.hex(), name, jited, xlated, verified, map_ids)


# ---- maps ---------------------------------------------------------------------------------


@cache
def possible_cpus() -> int:
    """Count the CPUs that a per-CPU map has a value for, absent ones included."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.replace("-", ",").split(",")[-1]) + 1


def map_create(
    kind: int, key_size: int, value_size: int, entries: int, flags: int, name: str
) -> int:
    """Make a map, without BTF; the kernel keeps 15 characters of its name."""
    numbers = (kind, key_size, value_size, entries, flags, 0, 0)
    return _bpf(_MAP_CREATE, _attr("=7I16s28x", *numbers, name.encode()[:15]))


def lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """Read one value of `size` bytes, or None."""
    value = bytearray(size)
    try:
        _bpf(_MAP_LOOKUP, _attr("=I4xQQQ", fd, _address(key), _address(value), 0))
    except FileNotFoundError:
        return None
    return bytes(value)


def update(fd: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    """Write one entry; E2BIG or ENOSPC when the map is full, EEXIST with NOEXIST."""
    _bpf(_MAP_UPDATE, _attr("=I4xQQQ", fd, _address(key), _address(value), flags))


def delete(fd: int, key: bytes) -> bool:
    """Delete one entry; False when there was none."""
    try:
        _bpf(_MAP_DELETE, _attr("=I4xQQQ", fd, _address(key), 0, 0))
    except FileNotFoundError:
        return False
    return True


def freeze(fd: int) -> None:
    """Let no process write to a map any more, for good: EPERM. Programs still may."""
    _bpf(_MAP_FREEZE, _attr("=I", fd))


def next_key(fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """Return the key after `key` in the map's own order; the first one after None."""
    following = bytearray(key_size)
    try:
        addresses = (_address(key), _address(following))
        _bpf(_MAP_GET_NEXT_KEY, _attr("=I4xQQQ", fd, *addresses, 0))
    except FileNotFoundError:
        return None
    return bytes(following)


def _batch(
    command: int, fd: int, cursors: tuple[int, int], keys: int, values: int, count: int
) -> tuple[int, int]:
    """Run one batch command over addresses; return (entries done, errno or 0)."""
    attr = _attr("=QQQQIIQQ", *cursors, keys, values, count, fd, 0, 0)
    try:
        _bpf(command, attr)
        number = 0
    except OSError as error:
        number = error.errno or 0
    done: int = struct.unpack_from("=I", attr, 32)[0]
    return done, number


def update_batch(fd: int, keys: Buffer, values: Buffer, count: int) -> tuple[int, int]:
    """Write `count` entries that lie one behind the other; return (written, errno or 0)."""
    return _batch(_MAP_UPDATE_BATCH, fd, (0, 0), _address(keys), _address(values), count)


def delete_batch(fd: int, keys: Buffer, count: int) -> tuple[int, int]:
    """Delete `count` entries; stops at the first that is missing: (deleted, ENOENT)."""
    return _batch(_MAP_DELETE_BATCH, fd, (0, 0), _address(keys), 0, count)


def blocks(fd: int, key_size: int, size: int) -> Iterator[tuple[memoryview, memoryview]]:
    """Read every entry, in no order: keys and values of many, each lying one behind the other.

    What changes meanwhile is seen or not, never half. A block is good until the next is asked
    for. Some thousand entries a block where the kernel can for this map kind, else one.
    """
    cursor, following = bytearray(max(key_size, 8)), bytearray(max(key_size, 8))
    chunk = _CHUNK
    keys, values = bytearray(chunk * key_size), bytearray(chunk * size)
    at = 0
    while True:
        addresses = _address(keys), _address(values)
        cursors = (at, _address(following))
        count, number = _batch(_MAP_LOOKUP_BATCH, fd, cursors, *addresses, chunk)
        if number == errno.ENOSPC:
            chunk *= 2
            keys, values = bytearray(chunk * key_size), bytearray(chunk * size)
            continue
        if number in (ENOTSUPP, errno.EINVAL) and not at:
            yield from _blocks_of_one(fd, key_size, size)
            return
        if number not in (0, errno.ENOENT):
            raise OSError(number, os.strerror(number))
        if count:
            yield memoryview(keys)[: count * key_size], memoryview(values)[: count * size]
        if number == errno.ENOENT:
            return
        cursor, following = following, cursor
        at = _address(cursor)


def _blocks_of_one(fd: int, key_size: int, size: int) -> Iterator[tuple[memoryview, memoryview]]:
    key = next_key(fd, None, key_size)
    while key is not None:
        value = lookup(fd, key, size)
        if value is not None:
            yield memoryview(key), memoryview(value)
        key = next_key(fd, key, key_size)


def items(fd: int, key_size: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Read every entry, as `blocks` does, one by one."""
    each_key, each_value = struct.Struct(f"{key_size}s"), struct.Struct(f"{size}s")
    for keys, values in blocks(fd, key_size, size):
        pairs = zip(each_key.iter_unpack(keys), each_value.iter_unpack(values), strict=True)
        for (key,), (value,) in pairs:
            yield key, value


# ---- programs and links -------------------------------------------------------------------


def prog_load(kind: int, name: str, instructions: bytes, attach_type: int) -> int:
    """Have the verifier look at a program; return its file descriptor, OSError if refused."""
    head = kind, len(instructions) // 8, _address(instructions), _address(_GPL)
    return _bpf(_PROG_LOAD, _attr("=IIQQ24x16sII", *head, name.encode()[:15], 0, attach_type))


def prog_test_run(
    fd: int, data: bytes, context: bytes = b"", repeat: int = 1, out_size: int = 0, flags: int = 0
) -> TestRun:
    """Run a program on a packet; `context` is a struct __sk_buff, whose end state comes back.

    `out_size` bounds the packet that comes back, 512 bytes more than went in unless given.
    duration_ns is the average of one run.
    """
    out = bytearray(out_size or len(data) + 512)
    context_out = bytearray(len(context))
    addresses = (_address(data), _address(out))
    contexts = (len(context), len(context_out), _address(context), _address(context_out))
    numbers = (fd, 0, len(data), len(out), *addresses, repeat, 0, *contexts, flags)
    attr = _attr("=4I2Q4I2QI12x", *numbers)
    _bpf(_PROG_TEST_RUN, attr)
    _, retval, _, length = struct.unpack_from("=IIII", attr)
    duration, _, context_length = struct.unpack_from("=III", attr, 36)
    return TestRun(retval, bytes(out[:length]), bytes(context_out[:context_length]), duration)


def link_create(program_fd: int, target: int, attach_type: int, flags: int = 0) -> int:
    """Attach by a link, to an interface or a cgroup.

    tcx: `target` is an ifindex of the calling thread's network namespace; EINVAL before Linux
    6.6. cgroup: it is the file descriptor of its directory; Linux 5.7.
    """
    return _bpf(_LINK_CREATE, _attr("=IIII32x", program_fd, target, attach_type, flags))


def link_update(link_fd: int, program_fd: int) -> None:
    """Swap the program of a link, atomically; ENOLINK once the interface is gone."""
    _bpf(_LINK_UPDATE, _attr("=IIII", link_fd, program_fd, 0, 0))


def link_detach(link_fd: int) -> None:
    """Take a link off its interface at once, whoever still holds it."""
    _bpf(_LINK_DETACH, _attr("=I", link_fd))


def link_info(fd: int) -> LinkInfo:
    """Ask what a link joins."""
    return link_infos((fd,))[0]


def link_infos(fds: Iterable[int]) -> list[LinkInfo]:
    """Ask what many links join, for a third of the time that asking one by one takes."""
    found = bytearray(64)
    attr = _attr("=IIQ", 0, len(found), _address(found))
    at = _address(attr)
    infos = []
    for fd in fds:
        struct.pack_into("=II", attr, 0, fd, len(found))
        if _syscall(_NUMBER, _OBJ_GET_INFO_BY_FD, at, len(attr)) < 0:
            raise OSError(number := ctypes.get_errno(), os.strerror(number))
        infos.append(LinkInfo._make(_LINK_INFO.unpack_from(found)))
    return infos


def link_cgroup(fd: int) -> int:
    """Ask which cgroup a link joins, by the inode of its directory; 0: none any more."""
    cgroup: int = struct.unpack_from("=Q", _info(fd, 64), 16)[0]
    return cgroup


def prog_attach(program_fd: int, cgroup_fd: int, attach_type: int, replaced_fd: int = -1) -> None:
    """Attach to a cgroup without a link, in the place of a program or beside all others."""
    flags = F_ALLOW_MULTI | (F_REPLACE if replaced_fd >= 0 else 0)
    numbers = (cgroup_fd, program_fd, attach_type, flags, max(replaced_fd, 0))
    _bpf(_PROG_ATTACH, _attr("=5I", *numbers))


def prog_detach(program_fd: int, cgroup_fd: int, attach_type: int) -> None:
    """Take one program off a cgroup; FileNotFoundError when it is not there."""
    _bpf(_PROG_DETACH, _attr("=3I", cgroup_fd, program_fd, attach_type))


def query(target: int, attach_type: int, tcx: bool = True) -> list[tuple[int, int]]:
    """List (program id, link id or 0) in the order in which they run; `target` as in link_create.

    At a cgroup, which is asked with tcx=False, link ids are 0: before Linux 6.6 nobody knows them.
    """
    ids, links = bytearray(4 * 64), bytearray(4 * 64)
    found = _address(links) if tcx else 0
    attr = _attr("=IIIIQIIQQQQ", target, attach_type, 0, 0, _address(ids), 64, 0, 0, found, 0, 0)
    _bpf(_PROG_QUERY, attr)
    count: int = struct.unpack_from("=I", attr, 24)[0]
    programs = struct.unpack_from(f"={count}I", ids)
    return list(zip(programs, struct.unpack_from(f"={count}I", links), strict=True))
