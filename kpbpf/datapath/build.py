"""The loader: compiles the programs with bcc, loads and pins them, and is gone.

    python -m kpbpf.datapath.build --pins DIR --run-dir DIR --source DIR --hash HASH

A process of its own, because the compiler costs 130 MB and the rest of kpbpf needs none of it.
What it made is kept as bytecode, so that other maps or another boot need no compiler.
`programs.ensure_programs` starts it. Maps are handed to the C code as file descriptors, already
opened and checked. Prints lines of JSON: every stage as it begins, and last what was loaded; what
compiler and verifier say goes to standard error, and a failure is an exit status other than 0.
"""

import argparse
import ctypes
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bpf_src import SOURCE
from kpbpf.datapath.cgroup import ATTACH_TYPE
from kpbpf.home import Home
from maps import bpf
from maps.abi import ABI_VERSION
from maps.bytecode import Bytecode
from maps.table import Tables, open_tables


class Source(NamedTuple):
    """Where a program's text is, and what the kernel is to take it for."""

    file: str
    options: tuple[str, ...] = ()
    """For the compiler, beside those that all have."""
    kind: str = "SCHED_CLS"
    """enum bpf_prog_type, as bcc.BPF names it."""
    attach_type: int = -1
    """enum bpf_attach_type, for kinds that the verifier asks for it; -1: none."""


SOCKET_PROGRAMS = {
    name: Source("socket.c", kind="CGROUP_SOCK_ADDR", attach_type=attach_type)
    for name, attach_type in ATTACH_TYPE.items()
}
"""Those that sit at a cgroup; the others at interfaces."""

PROGRAMS = {
    "from_pod": Source("from_pod.c"),
    "to_pod": Source("to_pod.c"),
    "from_wire": Source("from_wire.c"),
    "to_wire": Source("to_wire.c"),
    "from_wire_l3": Source("from_wire.c", ("-DKP_NO_ETHERNET", "-Dfrom_wire=from_wire_l3")),
    "to_wire_l3": Source("to_wire.c", ("-DKP_NO_ETHERNET", "-Dto_wire=to_wire_l3")),
    **SOCKET_PROGRAMS,
}
"""By name, which is the function's."""

_PROG_TYPES = {"SCHED_CLS": 3, "CGROUP_SOCK_ADDR": 18}
"""enum bpf_prog_type, for when bcc is not there to be asked."""

DEBIAN_BCC = Path("/usr/lib/python3/dist-packages/bcc")
"""Debian's package python3-bpfcc. The package `bcc` on PyPI is another project."""


class Loaded(NamedTuple):
    """A program as the verifier took it; sizes in bytes, verified_insns 0 before Linux 5.16."""

    verified_insns: int
    xlated_size: int
    milliseconds: int


def options(source: Path, tables: Tables | None = None) -> list[str]:
    """Flags for the compiler; without tables those that do not depend on open files."""
    maps = tables.by_name.values() if tables else ()
    fds = [f"-D{table.spec.symbol}_FD={table.fd}" for table in maps]
    return ["-DKP_BCC", f"-I{source}", *fds]


def build(home: Home, directory: Path, source: Path = SOURCE) -> dict[str, Loaded]:
    """Load every program, then pin them as `directory/<name>`: all, or none.

    What was compiled before, from the same text, is taken as it is; bcc is needed for the rest.
    Changes nothing in a directory that another loader has filled meanwhile. Prints each stage
    before it begins; what goes wrong is whatever bcc raises, which is mostly plain Exception.
    """
    _begin("pin")
    fresh = directory.with_name(f"{directory.name}-new-{os.getpid()}")
    fresh.mkdir(mode=0o700, parents=True)
    loaded = {}
    try:
        with open_tables(home) as tables:
            compiler = Compiler(source, tables)
            for name, program in PROGRAMS.items():
                loaded[name] = _load(compiler, home, name, program, fresh / name)
        with home.writer_lock():
            if not directory.exists():
                fresh.rename(directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return loaded


def _load(compiler: "Compiler", home: Home, name: str, program: Source, pin: Path) -> Loaded:
    """Load and pin one program, from what was compiled before if the kernel takes that."""
    start = time.monotonic()
    kept = kept_bytecode(home, compiler.source) / name
    bytecode = Bytecode.read(kept)
    fd = -1
    if bytecode is not None:
        # Refused, it is compiled: then the verifier names lines of the source.
        with suppress(OSError, KeyError):
            kind = _PROG_TYPES[program.kind]
            fd = bytecode.load(name, kind, program.attach_type, compiler.fds)
    if fd < 0:
        fd, bytecode = compiler.load(name, program)
        with suppress(OSError):  # no room, or read-only: compiled again the next time
            bytecode.write(kept)
    _begin("pin", name)
    bpf.obj_pin(fd, pin)
    info = bpf.prog_info(fd)
    milliseconds = round((time.monotonic() - start) * 1000)
    return Loaded(info.verified_insns, info.xlated_size, milliseconds)


def kept_bytecode(home: Home, source: Path) -> Path:
    """Where compiled programs are kept: $KPBPF_BYTECODE or home.run/bytecode, by their source."""
    digest = hashlib.sha256()
    for file in sorted((*source.glob("*.[ch]"), *(SOURCE / "stub").rglob("*.h"))):
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    digest.update(repr(sorted(PROGRAMS.items())).encode())
    root = os.environ.get("KPBPF_BYTECODE") or home.run / "bytecode"
    return Path(root, digest.hexdigest()[:16])


class Compiler:
    """bcc, imported when something has to be compiled, with these maps as file descriptors."""

    def __init__(self, source: Path, tables: Tables) -> None:
        self.source = source
        self._tables = tables
        self.fds = {table.spec.symbol: table.fd for table in tables.by_name.values()}
        self._bcc: Any = None
        self._modules: dict[object, Any] = {}

    def load(self, name: str, program: Source) -> tuple[int, Bytecode]:
        """Compile and load a program; return its file descriptor, and what can be kept of it."""
        if self._bcc is None:
            _begin("bcc")
            self._bcc = import_bcc()
            os.environ["BCC_KERNEL_SOURCE"] = str(SOURCE / "stub")
        _begin("compile", name)
        module = self._module(program)
        _begin("load", name)
        kind = getattr(self._bcc.BPF, program.kind)
        fd: int = module.load_func(name, kind, attach_type=program.attach_type).fd
        lib, handle, text = self._bcc.lib, module.module, name.encode()
        size = lib.bpf_function_size(handle, text)
        instructions = ctypes.string_at(lib.bpf_function_start(handle, text), size)
        return fd, Bytecode.of(instructions, {fd: name for name, fd in self.fds.items()})

    def _module(self, program: Source) -> Any:
        """Compile a file, once for all of its programs."""
        key = program.file, program.options
        if key not in self._modules:
            # Included, not handed over as the main file: messages of compiler and verifier then
            # name the file and line that a person can open. bcc finds a function if a macro
            # begins it, and the verifier its source lines if its section is `.bpf.fn.<name>`.
            text = f'#include "{self.source / program.file}"'.encode()
            cflags = [*options(self.source, self._tables), *program.options]
            self._modules[key] = self._bcc.BPF(text=text, cflags=cflags)
        return self._modules[key]


def _begin(stage: str, program: str = "") -> None:
    """Tell the parent what a failure from here on is about."""
    print(json.dumps({"stage": stage, "program": program}), flush=True)


def import_bcc(where: Path = DEBIAN_BCC) -> Any:
    """Import Debian's bcc, also from a virtual environment, without Debian's other packages.

    ImportError when it is not installed, OSError when its library is not.
    """
    spec = importlib.util.spec_from_file_location(
        "bcc", where / "__init__.py", submodule_search_locations=[str(where)]
    )
    if spec is None or spec.loader is None or not where.is_dir():
        raise ImportError(f"no bcc in {where}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    spec.loader.exec_module(module)
    return module


def main(arguments: list[str]) -> None:
    """Load the programs of one home, and print what came of it."""
    parser = argparse.ArgumentParser(prog="kpbpf.datapath.build")
    for flag in ("--pins", "--run-dir", "--source", "--hash"):
        parser.add_argument(flag, type=Path, required=True)
    chosen = parser.parse_args(arguments)
    home = Home(chosen.pins, chosen.run_dir)
    directory = home.programs_dir(ABI_VERSION) / chosen.hash
    loaded = build(home, directory, chosen.source)
    print(json.dumps({name: program._asdict() for name, program in loaded.items()}))


if __name__ == "__main__":
    sys.tracebacklimit = 0  # the end of standard error is the compiler's or verifier's word
    main(sys.argv[1:])
