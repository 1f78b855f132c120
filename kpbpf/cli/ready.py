"""What a command needs before it may write: maps made, programs loaded, with visible progress.

Opens and prepares; decides nothing.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controllers.endpoints import Endpoints
from controllers.hooks import KernelHooks
from kpbpf.datapath import attach, bpffs, kernel, programs
from kpbpf.errors import NotFound
from kpbpf.home import Home
from maps import bpf, config
from maps.abi import Hook
from maps.table import Tables, open_tables


@contextmanager
def tables(home: Home) -> Iterator[Tables]:
    """Open the maps, made and configured if this node never had any."""
    if bpffs.ensure(home):
        print(f"mounted a BPF file system on {bpffs.MOUNT_POINT}", file=sys.stderr)
    kernel.require(home)
    with open_tables(home, create=True) as opened:
        with home.writer_lock():
            config.ensure(opened)
        yield opened


@contextmanager
def endpoints(home: Home) -> Iterator[Endpoints]:
    """Have everything that serving a pod takes; says so when programs must be compiled first."""
    with tables(home) as opened:
        pins = _programs(home, opened)
        yield Endpoints(home, opened, KernelHooks(home, pins))


def _programs(home: Home, opened: Tables) -> dict[str, Path]:
    """Have the programs loaded; says so when that takes a moment."""
    loaded = {program.hash for program in programs.present(home)}
    if programs.source_hash(opened) in loaded:
        return programs.ensure_programs(home)
    started = time.monotonic()
    print("compiling and loading the programs ... ", end="", file=sys.stderr, flush=True)
    ended = "failed"
    try:
        pins = programs.ensure_programs(home)
        ended = f"done in {time.monotonic() - started:.1f} s"
    finally:
        print(ended, file=sys.stderr)
    return pins


@contextmanager
def live_program(home: Home, ifindex: int, hook: Hook) -> Iterator[int]:
    """Open the program that runs at a hook of an interface now.

    Where packets have no Ethernet header, its twin for those that have one: a test run hands over
    frames.
    """
    name = hook.name.lower()
    running = {
        one.program_id
        for one in attach.attachments(home)
        if one.ifindex == ifindex and one.program in (name, f"{name}_l3")
    }
    present = list(programs.present(home))
    versions = {program.hash for program in present if program.info.id in running}
    for program in present:
        if program.name == name and program.hash in versions:
            fd = bpf.obj_get(program.path)
            try:
                yield fd
            finally:
                os.close(fd)
            return
    raise NotFound(
        f"no program {name} runs on interface {ifindex}; a running daemon attaches it again"
    )
