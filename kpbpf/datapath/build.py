"""The loader: compiles the programs with bcc, loads and pins them, and is gone.

    python -m kpbpf.datapath.build --pins DIR --run-dir DIR --source DIR --hash HASH

A process of its own, because the compiler costs 130 MB and the rest of kpbpf needs none of it.
`programs.ensure_programs` starts it. Maps are handed to the C code as file descriptors, already
opened and checked. Prints lines of JSON: every stage as it begins, and last what was loaded; what
compiler and verifier say goes to standard error, and a failure is an exit status other than 0.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from bpf_src import SOURCE
from kpbpf.home import Home
from maps import bpf
from maps.abi import ABI_VERSION
from maps.table import Tables, open_tables

PROGRAMS = {"from_pod": "from_pod.c", "to_pod": "to_pod.c"}
"""Program, which is a function's name, and the file that holds it."""

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
    """Compile and load every program, then pin them as `directory/<name>`: all, or none.

    Changes nothing in a directory that another loader has filled meanwhile. Prints each stage
    before it begins; what goes wrong is whatever bcc raises, which is mostly plain Exception.
    """
    _begin("bcc")
    bcc = import_bcc()
    os.environ["BCC_KERNEL_SOURCE"] = str(SOURCE / "stub")
    fresh = directory.with_name(f"{directory.name}-new-{os.getpid()}")
    _begin("pin")
    fresh.mkdir(mode=0o700, parents=True)
    loaded = {}
    try:
        with open_tables(home) as tables:
            for name, file in PROGRAMS.items():
                cflags = options(source, tables)
                loaded[name] = _load(bcc, name, source / file, cflags, fresh / name)
        with home.writer_lock():
            if not directory.exists():
                fresh.rename(directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return loaded


def _load(bcc: Any, name: str, file: Path, cflags: list[str], pin: Path) -> Loaded:
    start = time.monotonic()
    _begin("compile", name)
    # Included, not handed over as the main file: messages of compiler and verifier then name the
    # file and line that a person can open. bcc finds such a function if a macro begins it, and
    # the verifier its source lines if its section is `.bpf.fn.<name>`.
    module = bcc.BPF(text=f'#include "{file}"'.encode(), cflags=cflags)
    _begin("load", name)
    fd = module.load_func(name, bcc.BPF.SCHED_CLS).fd
    _begin("pin", name)
    bpf.obj_pin(fd, pin)
    info = bpf.prog_info(fd)
    milliseconds = round((time.monotonic() - start) * 1000)
    return Loaded(info.verified_insns, info.xlated_size, milliseconds)


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
