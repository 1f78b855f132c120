"""How long a listing takes in a fresh terminal: Python's start, the work, and the printing.

    sudo .venv/bin/python -m bench.cli [--services 1,10000] [--runs 15]

Fills maps of its own, below /sys/fs/bpf, with so many Services of three endpoints each, and runs
`kpbpf svc ls` as a new process each time; the same interpreter doing nothing stands beside it.
"""

import argparse
import statistics
import subprocess
import sys
import time

from bench.packet import bench_home
from kpbpf import address
from kpbpf.home import Home
from maps import abi
from maps.sync import ServiceSync, WantedService
from maps.table import open_tables

TCP = 6
GOALS_MS = {1: 150, 10_000: 1000}


def fill(home: Home, services: int) -> None:
    """Write Services as the daemon would."""
    first = int.from_bytes(address.from_text("10.96.0.1"), "big")
    ends = [address.from_text(f"10.42.0.{host}") for host in (1, 2, 3)]
    backends = b"".join(abi.Backend(end, 8080).pack() for end in ends)
    wanted = (
        WantedService(
            name=f"default/service-{number}:http/IPv4",
            proto=TCP,
            frontends=(abi.FrontendKey((first + number).to_bytes(16, "big"), 80, TCP).pack(),),
            flags=0,
            affinity_sec=0,
            backends=backends,
            count=len(ends),
            local_count=0,
        )
        for number in range(services)
    )
    with open_tables(home, create=True) as tables:
        failed = ServiceSync(tables).apply(wanted).failed
    assert not failed, failed


def milliseconds(command: list[str], runs: int) -> float:
    """Median wall time of a process."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def main() -> None:
    """Parse the flags, measure, print."""
    parser = argparse.ArgumentParser(
        prog="bench.cli", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--services", default="1,10000", help="numbers of Services to try")
    parser.add_argument("--runs", type=int, default=15, help="runs of each, of which the median")
    chosen = parser.parse_args()
    print(f"{'COMMAND':20} {'SERVICES':>8} {'MS':>6} {'GOAL':>6}")
    bare = milliseconds([sys.executable, "-c", ""], chosen.runs)
    print(f"{'python, nothing':20} {'-':>8} {bare:6.0f} {'-':>6}")
    for number in map(int, chosen.services.split(",")):
        with bench_home() as home:
            fill(home, number)
            places = ["--pins", str(home.pins), "--run-dir", str(home.run)]
            command = [sys.executable, "-m", "kpbpf", "svc", "ls", *places]
            took = milliseconds(command, chosen.runs)
        goal = GOALS_MS.get(number, "-")
        print(f"{'kpbpf svc ls':20} {number:8} {took:6.0f} {goal:>6}", flush=True)


if __name__ == "__main__":
    main()
