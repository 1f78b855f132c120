"""The pinned programs: which are present, whether they fit, and having the loader make them.

Programs are keyed by a hash of all that went into them, so nothing is compiled twice. This is
the parent's side of the loader process, and knows no compiler.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bpf_src import SOURCE
from kpbpf.datapath.build import PROGRAMS, Loaded, options
from kpbpf.errors import (
    CompileFailed,
    KpbpfError,
    MissingKernelFeature,
    MissingPackage,
    NotRoot,
    VerifierRejected,
)
from kpbpf.home import Home
from maps import bpf
from maps.abi import ABI_VERSION
from maps.table import Tables, open_tables

UNKNOWN_HELPER = re.compile(r"(?:unknown|invalid) func (\w+#\d+)")


class Program(NamedTuple):
    """A pinned program; `hash` is that of the sources it was made from."""

    name: str
    hash: str
    path: Path
    info: bpf.ProgramInfo


def source_hash(tables: Tables, source: Path = SOURCE) -> str:
    """Hash sources, options, kernel release, and the maps that the programs are bound to."""
    digest = hashlib.sha256()
    for file in sorted((*source.glob("*.[ch]"), *(SOURCE / "stub").rglob("*.h"))):
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    digest.update(" ".join((*options(Path()), os.uname().release)).encode())
    for name, table in tables.by_name.items():
        digest.update(f"{name} {bpf.map_info(table.fd).id}\n".encode())
    return digest.hexdigest()[:16]


def ensure_programs(home: Home, source: Path = SOURCE) -> dict[str, Path]:
    """Return the pin of each program, made by the loader unless one with this hash is there.

    Takes about a second when it has to compile. Fix errors: MissingPackage, CompileFailed,
    VerifierRejected, MissingKernelFeature, and those of open_tables.
    """
    with open_tables(home) as tables:
        wanted = source_hash(tables, source)
    directory = home.programs_dir(ABI_VERSION) / wanted
    pins = {name: directory / name for name in PROGRAMS}
    if not all(pin.exists() for pin in pins.values()):
        load(home, wanted, source)
    return pins


def load(home: Home, wanted: str, source: Path = SOURCE) -> dict[str, Loaded]:
    """Run the loader process and wait for it."""
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-m", "kpbpf.datapath.build", "--hash", wanted]
    command += ["--pins", str(home.pins), "--run-dir", str(home.run), "--source", str(source)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and lines:
        return {name: Loaded(**program) for name, program in lines[-1].items()}
    begun = lines[-1] if lines else {"stage": "start", "program": ""}
    raise _failure(begun["stage"], begun["program"], done.stderr)


def _failure(stage: str, program: str, output: str) -> KpbpfError:
    """Turn what the loader said last into the error that names the remedy."""
    if stage == "bcc":
        return MissingPackage("python3-bpfcc", f"it compiles the programs: {output.strip()}")
    if stage == "compile":
        return CompileFailed(program, output)
    unknown = UNKNOWN_HELPER.search(output)
    if unknown:
        why = f"program {program} calls it, and the verifier does not know it"
        return MissingKernelFeature(f"BPF helper {unknown[1]}", why)
    if stage == "load":
        return VerifierRejected(program, output)
    return KpbpfError(f"the loader of programs failed: {' '.join(output.split())}")


def present(home: Home) -> Iterator[Program]:
    """Yield every pinned program, whatever its hash, by name."""
    for path in sorted(home.programs_dir(ABI_VERSION).glob("*/*")):
        try:
            fd = bpf.obj_get(path)
        except FileNotFoundError:
            continue  # unpinned since
        except PermissionError:
            raise NotRoot(f"open {path}") from None
        try:
            yield Program(path.name, path.parent.name, path, bpf.prog_info(fd))
        finally:
            os.close(fd)


def remove_stale(home: Home, source: Path = SOURCE) -> int:
    """Unpin programs of other hashes; what is still attached somewhere goes on running."""
    with open_tables(home) as tables:
        wanted = source_hash(tables, source)
    found = home.programs_dir(ABI_VERSION).glob("*")
    stale = [path for path in found if path.name != wanted and not _being_made(path)]
    for directory in stale:
        shutil.rmtree(directory, ignore_errors=True)
    return len(stale)


def remove_other_layouts(home: Home) -> int:
    """Unpin maps, programs and tcx links of other layouts (ABI); return of how many.

    Their programs run behind ours, and go on translating the connections that they know.
    """
    ours = home.version_dir(ABI_VERSION)
    others = [path for path in home.pins.glob("v*") if path != ours]
    for directory in others:
        shutil.rmtree(directory, ignore_errors=True)
    return len(others)


def _being_made(directory: Path) -> bool:
    """Tell whether a loader that still runs is filling this directory."""
    _, new, pid = directory.name.partition("-new-")
    return bool(new) and Path("/proc", pid).exists()
