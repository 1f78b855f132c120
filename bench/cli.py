"""How long a listing takes in a fresh terminal: Python's start, the work, and the printing.

    sudo .venv/bin/python -m bench.cli [--services 1,10000] [--runs 15]

Fills maps of its own, below /sys/fs/bpf, with so many Services of three endpoints each, and runs
`kpbpf svc ls` as a new process each time, without a daemon and with one that tells types and
labels; the same interpreter doing nothing stands beside it. CPU is that of the new process alone.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bench.packet import bench_home
from controllers.loop import Loop
from kpbpf import address
from kpbpf.daemon.answers import Answers
from kpbpf.daemon.questions import in_short
from kpbpf.home import Home
from kpbpf.model.service import Service, ServicePort
from maps import abi
from maps.sync import ServiceSync, WantedService
from maps.table import open_tables

TCP = 6
GOALS_MS = {1: 150, 10_000: 1000}


def fill(home: Home, services: int) -> None:
    """Write Services as the daemon would."""
    first = int.from_bytes(address.from_text("10.96.0.1"), "big")
    ends = [address.from_text(f"10.42.0.{host}") for host in (1, 2, 3)]
    backends = b"".join(abi.Backend(end, 8080, 0).pack() for end in ends)
    wanted = (
        WantedService(
            name=f"default/service-{number}:http/IPv4",
            proto=TCP,
            frontends=((abi.FrontendKey((first + number).to_bytes(16, "big"), 80, TCP).pack(), 0),),
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


@contextmanager
def telling(home: Home, services: int) -> Iterator[None]:
    """Answer as a daemon would that knows so many Services."""
    address_ = address.from_text("10.96.0.1")
    models = [
        Service(
            "default",
            f"service-{number}",
            "ClusterIP",
            (address_,),
            (ServicePort("http", TCP, 80, 0),),
            labels=(("app", f"service-{number}"), ("tier", "front")),
        )
        for number in range(services)
    ]
    loop = Loop()
    answers = Answers(
        home, loop, {"services": lambda _: lambda: {one.key.path: in_short(one) for one in models}}
    )
    answers.start()
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield
    finally:
        loop.stop()
        thread.join()
        answers.stop()


class Took(NamedTuple):
    """Medians over several runs, in milliseconds."""

    wall: float
    cpu: float


def measure(command: list[str], runs: int) -> Took:
    """Run a process several times."""
    walls, cpus = [], []
    for _ in range(runs):
        start, before = time.perf_counter(), _children_cpu_sec()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - start)
        cpus.append(_children_cpu_sec() - before)
    return Took(statistics.median(walls) * 1000, statistics.median(cpus) * 1000)


def _children_cpu_sec() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Parse the flags, measure, print."""
    parser = argparse.ArgumentParser(
        prog="bench.cli", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--services", default="1,10000", help="numbers of Services to try")
    parser.add_argument("--runs", type=int, default=15, help="runs of each, of which the median")
    chosen = parser.parse_args()
    print(f"{'COMMAND':27} {'SERVICES':>8} {'MS':>6} {'CPU MS':>6} {'GOAL':>6}")
    _line("python, nothing", "-", measure([sys.executable, "-c", ""], chosen.runs), "-")
    for number in map(int, chosen.services.split(",")):
        goal = str(GOALS_MS.get(number, "-"))
        with bench_home() as home:
            fill(home, number)
            places = ["--pins", str(home.pins), "--run-dir", str(home.run)]
            command = [sys.executable, "-m", "kpbpf", "svc", "ls", *places]
            _line("kpbpf svc ls", str(number), measure(command, chosen.runs), goal)
            with telling(home, number):
                took = measure(command, chosen.runs)
            _line("kpbpf svc ls, with a daemon", str(number), took, goal)


def _line(what: str, number: str, took: Took, goal: str) -> None:
    print(f"{what:27} {number:>8} {took.wall:6.0f} {took.cpu:6.0f} {goal:>6}", flush=True)


if __name__ == "__main__":
    main()
