"""kpbpf on Debian's 6.1 kernel: parts of the lab, and what only such a kernel can show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kpbpf.datapath.programs import ensure_programs
from kpbpf.home import Home
from maps.table import open_tables
from tests.vm.machine import CACHE, run

INSIDE = ("tests/lab/on_older_kernel", "tests/lab/test_reach.py", "tests/lab/test_icmp.py")
LIMIT_SEC = 1800


BPFFS = Path("/sys/fs/bpf")
BYTECODE = CACHE / "bytecode"


def compile_here(directory: Path) -> None:
    """Keep the programs as bytecode, which takes seconds here and minutes in the machine."""
    if not os.path.ismount(BPFFS):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    home = Home(BPFFS / f"kpbpf-test-{os.getpid()}-vm", directory)
    try:
        with open_tables(home, create=True):
            pass
        ensure_programs(home)
    finally:
        shutil.rmtree(home.pins, ignore_errors=True)


def test_the_lab_holds_on_a_stock_debian_6_1_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(BYTECODE, ignore_errors=True)
    monkeypatch.setenv("KPBPF_BYTECODE", str(BYTECODE))
    compile_here(tmp_path)
    argv = [
        "env",
        "KPT_PATIENCE=20",
        f"KPBPF_BYTECODE={BYTECODE}",
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--durations=5",
    ]
    result = run([*argv, *INSIDE], LIMIT_SEC)
    print(result.output)
    assert result.code == 0, result.console[-2000:]
