"""What socket load balancing costs a process of the node: connect() and close(), and sendto().

    sudo .venv/bin/python -m bench.sockets [--rounds 31] [--calls 500]

A node and a pod in namespaces, without a daemon. Each round times every case in turn, so that
they share the machine's moods; CPU time of the calling thread, which counts no waiting; medians
of the rounds are shown, and ratios of those. "off" is without any program attached; "other" names
no Service while the programs are; "service" names a cluster IP, and the packets are the same.
Connections are reset on closing, so that none lingers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kpbpf.datapath import cgroup
from tests.lab.host import VIP, Host
from tests.lab.world import ADDRESS_FAMILY, FAMILIES, Place

PORT = 9000
RESET = struct.pack("ii", 1, 0)
Target = tuple[str, int]


def connect(place: Place, family: int, target: Target, calls: int) -> float:
    """CPU microseconds of one connect() and close()."""
    with place.inside():
        start = time.thread_time()
        for _ in range(calls):
            sock = socket.socket(ADDRESS_FAMILY[family], socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.connect(target)
            sock.close()
        return (time.thread_time() - start) / calls * 1e6


def send(place: Place, family: int, target: Target, calls: int) -> float:
    """CPU microseconds of one sendto() of an unconnected socket."""
    with place.socket(family, socket.SOCK_DGRAM) as sock:
        start = time.thread_time()
        for _ in range(calls):
            sock.sendto(b"x", target)
        return (time.thread_time() - start) / calls * 1e6


WORK: dict[str, Callable[[Place, int, Target, int], float]] = {"connect": connect, "sendto": send}


@contextmanager
def sink(place: Place) -> Iterator[None]:
    """A process that takes connections and drops datagrams, in both families."""
    ready = multiprocessing.Event()

    def take() -> None:
        with place.inside():
            listening = socket.create_server(
                ("::", PORT), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True
            )
            drain = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            drain.bind(("::", PORT))
        ready.set()
        while True:
            listening.accept()[0].close()

    process = multiprocessing.get_context("fork").Process(target=take, daemon=True)
    process.start()
    if not ready.wait(10):
        raise RuntimeError("the sink did not start")
    try:
        yield
    finally:
        process.terminate()
        process.join()


def measure(host: Host, rounds: int, calls: int) -> dict[tuple[str, int, str], float]:
    """Medians in CPU microseconds by (work, family, case)."""
    times: dict[tuple[str, int, str], list[float]] = {}
    for _ in range(rounds):
        for case in ("off", "other", "service"):
            cgroup.attach(host.home, host.pins, cgroup.OFF if case == "off" else "host")
            for work, run in WORK.items():
                for family in FAMILIES:
                    direct = (host.a.addresses[family], PORT)
                    target = (VIP[family], 80) if case == "service" else direct
                    took = run(host.node, family, target, calls)
                    times.setdefault((work, family, case), []).append(took)
    return {key: statistics.median(each) for key, each in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.sockets", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=31, help="of all cases (default 31)")
    parser.add_argument("--calls", type=int, default=500, help="in a row (default 500)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, Host(Path(directory)) as host:
        for family in FAMILIES:
            for protocol in ("TCP", "UDP"):
                host.serve(VIP[family], [host.a], protocol=protocol, target=PORT)
        with sink(host.a):
            found = measure(host, chosen.rounds, chosen.calls)
    print(f"{'':16}{'off':>10}{'other':>10}{'service':>10}   other/off  service/off")
    for work in WORK:
        for family in FAMILIES:
            off, other, service = (found[work, family, c] for c in ("off", "other", "service"))
            print(
                f"{work:8} IPv{family}   {off:8.2f}us{other:8.2f}us{service:8.2f}us"
                f"{other / off:12.2f}{service / off:13.2f}"
            )


if __name__ == "__main__":
    main()
