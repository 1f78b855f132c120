"""kpbpf on Debian's 6.1 kernel: parts of the lab, and what only such a kernel can show."""

from __future__ import annotations

import sys

from tests.vm.machine import run

INSIDE = ("tests/lab/on_older_kernel", "tests/lab/test_reach.py", "tests/lab/test_icmp.py")
LIMIT_SEC = 1800


def test_the_lab_holds_on_a_stock_debian_6_1_kernel() -> None:
    pytest = [
        "env",
        "KPT_PATIENCE=10",
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--durations=5",
    ]
    result = run(["env", "KPT_PATIENCE=10", *pytest, *INSIDE], LIMIT_SEC)
    print(result.output)
    assert result.code == 0, result.console[-2000:]
