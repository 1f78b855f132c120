"""What kpbpf needs of the machine, found by trying it, never by a version number.

Helpers that the programs call are tried by the loader, which names a missing one; how programs
can be attached is tried in `attach`.
"""

import errno
import os
import time

from kpbpf.errors import MissingKernelFeature, NotRoot
from kpbpf.home import Home
from maps import bpf
from maps.abi import ABI_VERSION, MAPS
from maps.layout import MapKind
from maps.table import require_bpffs


def now_ns() -> int:
    """The clock of every time in the maps: CLOCK_MONOTONIC."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def require(home: Home) -> None:
    """Raise the Fix that names what is missing: permission, map kinds, batches, bpffs."""
    for kind, flags in sorted({(spec.kind, spec.flags) for spec in MAPS.values()}):
        _require_map_kind(kind, flags)
    require_bpffs(home.version_dir(ABI_VERSION))
    home.ensure_run()


def _require_map_kind(kind: MapKind, flags: int) -> None:
    # A trie's key is the length of a prefix, and what it is a prefix of.
    key_size = 8 if kind == MapKind.LPM_TRIE else 4
    try:
        fd = bpf.map_create(kind, key_size, 8, 1, flags, "kp_probe")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise NotRoot("use bpf(2)") from None
        if error.errno == errno.ENOSYS:
            raise MissingKernelFeature("bpf(2)", "CONFIG_BPF_SYSCALL is off") from None
        why = f"creating one fails with {error.strerror}"
        raise MissingKernelFeature(f"BPF maps of kind {kind.name}", why) from None
    try:
        if kind == MapKind.HASH:
            _require_batches(fd)
    finally:
        os.close(fd)


def _require_batches(fd: int) -> None:
    _, number = bpf.update_batch(fd, bytes(4), bytes(8), 1)
    if number:
        why = f"writing a map in one call fails with {os.strerror(number)}"
        raise MissingKernelFeature("batches on BPF maps", why)
