"""Mounting the BPF file system where the machine has none yet: on an empty /sys/fs/bpf.

Everything else about pins lives in `maps.table`; nothing that holds files is ever mounted over.
"""

import ctypes
import os
from pathlib import Path

from kpbpf import log
from kpbpf.errors import MissingBpffs
from kpbpf.home import Home
from maps import bpf

MOUNT_POINT = Path("/sys/fs/bpf")

_LOG = log.get(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


def ensure(home: Home, mount_point: Path = MOUNT_POINT) -> bool:
    """Mount it if pins are to live below it and nothing is there; tell whether that was done."""
    if not home.pins.is_relative_to(mount_point) or not mount_point.is_dir():
        return False
    if bpf.is_bpffs(mount_point) or any(mount_point.iterdir()):
        return False
    if _libc.mount(b"bpf", os.fsencode(mount_point), b"bpf", 0, None) != 0:
        error = MissingBpffs(str(home.pins), str(mount_point))
        error.why += f"; mounting it failed: {os.strerror(ctypes.get_errno())}"
        raise error
    _LOG.info("BPF file system mounted on %s: there was none", mount_point)
    return True
