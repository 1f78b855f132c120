"""What a packet costs: nanoseconds and map lookups of every journey through the programs.

    sudo .venv/bin/python -m bench.packet [--services 1,10000] [--flows 100000] [--json]

Runs the real programs on real maps by BPF_PROG_TEST_RUN, and beside them in the same run the
physical floor: an empty program, and one that does a single lookup that hits. Read differences
and ratios, not the figures themselves: they are the machine's. HOT is one packet again and
again; COLD is a packet of another flow each time, drawn at random from --flows of them, in a
build that changes the client's port before each run (the floor's too). Translated journeys
use a Service whose backend has the Service's own address, so that
a repeated packet stays what it was; the program's work is the same. LOOKUPS counts lookups in
hash maps in a second build of the same source; arrays are inlined and cost next to nothing.

Uses pins of its own below /sys/fs/bpf and removes them. Takes about a minute.
"""

import argparse
import ctypes
import json
import os
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.journeys import (
    CLIENT,
    KEY_AT,
    LOCAL,
    LOOPBACK,
    MAC,
    NODE,
    NODE_PORT,
    OTHER_POD,
    REMOTE,
    SERVICE,
    Journey,
    flow_key,
    journeys,
    packet,
    records,
)
from bpf_src import SOURCE
from kpbpf import address
from kpbpf.datapath import build, frame, programs
from kpbpf.home import Home
from maps import abi, bpf, config
from maps.layout import U32
from maps.table import Tables, open_tables

CLONE_NEWNET = 0x40000000
FLOOR = Path(__file__).parent / "floor"
CONTEXT = bytes(192)
REPEAT = 200
WARM_PORT = 1000
COLD_FIRST = 1024
COLD_RUNS = 20_000
COLD_ROUNDS = 15
MAPS_LINE = '#include "maps.h"\n'
"""Behind it in packet.h, everything that lookups.h needs is known."""

ON_PACKETS = ("from_pod", "to_pod", "from_wire", "to_wire")
"""The programs measured here; those without a link layer are of the same source."""

GOAL_NS = 60
"""A known flow costs at most floor + one cold lookup + this (DESIGN 5)."""


class Row(NamedTuple):
    """One line of the result; times in ns above the empty program, cold None where it has none."""

    journey: str
    services: int
    lookups: int
    hot_ns: float
    cold_ns: float | None


# ---- the node under test ------------------------------------------------------------------


class Bench:
    """Loaded programs with maps of their own, and the ways to run packets through them."""

    def __init__(self, tables: Tables, fds: dict[str, int]) -> None:
        self.tables = tables
        self.fds = fds

    def run(self, program: str, data: bytes, repeat: int = 1) -> int:
        """Nanoseconds of one run, averaged over `repeat`."""
        return bpf.prog_test_run(self.fds[program], data, CONTEXT, repeat).duration_ns

    def fill(self, services: int) -> None:
        """Write the configuration, the pods, and so many Services of one backend each."""
        for family in (4, 6):
            for pod, ifindex in ((CLIENT, LOOPBACK), (LOCAL, OTHER_POD)):
                key = abi.EndpointKey(address.from_text(pod[family]))
                self.tables.endpoints.put(key, abi.Endpoint(1, ifindex, MAC, MAC, 0))
            self._fill_services(family, services)
            node = abi.AddressKey(address.from_text(NODE[family]))
            flags = abi.AddressFlag.NODE | abi.AddressFlag.NODE_PORT
            self.tables.addresses.put(node, abi.Address(flags))
        present = config.read(self.tables)
        config.write(
            self.tables,
            present._replace(
                flags=present.flags | abi.ConfigFlag.DETECT_LOCAL,
                node_port_first=30000,
                node_port_last=32767,
                node4=address.from_text(NODE[4]),
                node6=address.from_text(NODE[6]),
            ),
        )

    def _fill_services(self, family: int, services: int) -> None:
        first = int.from_bytes(address.from_text(SERVICE[family]), "big")
        backend = abi.Backend(address.from_text(REMOTE[family]), 8080, 0).pack()
        frontends, backends = [], []
        everywhere = address.from_text("0.0.0.0" if family == 4 else "::")
        served = abi.Frontend(family, family, 1, 0, 0, abi.FrontendFlag.EXTERNAL).pack()
        frontends.append((abi.FrontendKey(everywhere, NODE_PORT, frame.TCP).pack(), served))
        backends.append((abi.BackendKey(family, 0).pack(), backend))
        for number in range(services):
            addr = (first + number).to_bytes(16, "big")
            base = family * 1_000_000 + number
            frontend = abi.Frontend(base, base, 1, 0, 0, 0)
            frontends.append((abi.FrontendKey(addr, 80, frame.TCP).pack(), frontend.pack()))
            backends.append((abi.BackendKey(base, 0).pack(), backend))
        self.tables.frontends.put_many_raw(frontends)
        self.tables.backends.put_many_raw(backends)

    def forget(self) -> None:
        """Empty the flow table."""
        self.tables.flows.delete_many_raw([key for key, _ in self.tables.flows.items_raw()])

    def tick(self) -> int:
        """The programs' present tick: what one of them writes into a new record."""
        probe = Journey("no service, new", "from_pod", CLIENT[4], REMOTE[4], 9)
        self.run("from_pod", packet(probe, 9, opens=True))
        key, _ = flow_key(CLIENT[4], 9, REMOTE[4], 9)
        record = self.tables.flows.get(key)
        assert record is not None
        self.tables.flows.delete(key)
        return record.tick

    def fresh_tick(self) -> int:
        """Wait until a tick begins, so that what follows falls into one."""
        before = now = self.tick()
        while now == before:
            time.sleep(0.01)
            now = self.tick()
        return now


def own_network() -> None:
    """Be in a network namespace of our own, with routes for what is sent on by route."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", name).write_text("1")
    lines = ["link set lo up", "link add up-1 type veth peer name far-1"]
    lines += ["link set far-1 up", "link set up-1 addrgenmode none up"]
    for family, length in ((4, "24"), (6, "64 nodad")):
        router = NODE[family][:-1] + "1"
        lines.append(f"address add {NODE[family]}/{length} dev up-1")
        lines.append(f"neighbour add {router} lladdr 02:00:00:00:00:fe dev up-1 nud permanent")
        lines.append(f"route add default via {router} dev up-1 onlink")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), check=True, text=True)


@contextmanager
def bench_home() -> Iterator[Home]:
    """Pins and a run directory of our own, removed at the end."""
    home = Home(Path(f"/sys/fs/bpf/kpbpf-bench-{os.getpid()}"), Path(tempfile.mkdtemp()))
    try:
        yield home
    finally:
        shutil.rmtree(home.pins, ignore_errors=True)
        shutil.rmtree(home.run, ignore_errors=True)


@contextmanager
def variant(files: Iterable[Path] = (), counting: bool = False, cold: int = 0) -> Iterator[Path]:
    """The programs' source with some files in place of its own.

    `counting` counts lookups; `cold` is a number of flows, another of which each run meets.
    """
    with tempfile.TemporaryDirectory() as directory:
        for file in (*SOURCE.glob("*.[ch]"), *FLOOR.glob("*.h"), *files):
            shutil.copy(file, directory)
        if counting:
            header = Path(directory, "packet.h")
            text = header.read_text()
            header.write_text(text.replace(MAPS_LINE, f'{MAPS_LINE}#include "lookups.h"\n'))
        if cold:
            for name in ON_PACKETS:
                chill(Path(directory, build.PROGRAMS[name].file), name, cold)
        yield Path(directory)


def chill(file: Path, name: str, flows: int) -> None:
    """Wrap a program in one that turns to another flow first."""
    text = file.read_text()
    head = f"KP_PROGRAM({name}) int {name}(struct __sk_buff *skb)"
    assert head in text
    wrapped = text.replace(head, "KP_INLINE int kp_journey(struct __sk_buff *skb)")
    file.write_text(
        f"{wrapped}\n#define KP_COLD_FIRST {COLD_FIRST}\n#define KP_COLD_FLOWS {flows}\n"
        f'#include "cold.h"\n\n{head}\n{{\n\tkp_another_flow(skb);\n\treturn kp_journey(skb);\n}}\n'
    )


@contextmanager
def loaded(home: Home, counting: bool = False, cold: int = 0) -> Iterator[Bench]:
    """Compile and load the programs, and the floor's, over the home's maps."""
    with (
        open_tables(home, create=True) as tables,
        variant(counting=counting, cold=cold) as source,
        variant(FLOOR.glob("*.c"), cold=cold) as floor,
    ):
        config.ensure(tables)
        config.write(tables, config.read(tables)._replace(epoch=1, udp_epoch=1))
        pins = programs.ensure_programs(home, source)
        below = programs.ensure_programs(home, floor)
        fds = {name: bpf.obj_get(pin) for name, pin in pins.items()}
        fds |= {"lookup": bpf.obj_get(below["from_pod"]), "empty": bpf.obj_get(below["to_pod"])}
        try:
            yield Bench(tables, fds)
        finally:
            for fd in fds.values():
                os.close(fd)


# ---- measurements -------------------------------------------------------------------------


def hot(bench: Bench, journey: Journey, rounds: int) -> float:
    """Median ns above the empty program, of one packet again and again."""
    data = packet(journey, WARM_PORT, opens=not journey.known)
    bench.forget()
    times, empty = [], []
    for _ in range(rounds):
        if journey.known:
            for key, flow in records(journey, WARM_PORT, bench.tick(), still=True):
                bench.tables.flows.put(key, flow)
        times.append(bench.run(journey.program, data, REPEAT if journey.known else 1))
        empty.append(bench.run("empty", data, REPEAT if journey.known else 1))
        if not journey.known:
            bench.forget()
    return statistics.median(times) - statistics.median(empty)


def cold(bench: Bench, journey: Journey, flows: int) -> tuple[float, float]:
    """Ns above the empty program, of another flow with every run: (journey, bare lookup).

    `bench` is a cold build. Medians of test-runs of COLD_RUNS each, which take turns within one
    tick of the programs.
    """
    data = packet(journey, COLD_FIRST, opens=False)
    context = cold_context(journey, data)
    bench.forget()
    ports = range(COLD_FIRST, COLD_FIRST + flows)
    made = [pair for port in ports for pair in records(journey, port, 0, still=True)]
    tick, now = bench.fresh_tick(), time.monotonic_ns()
    bench.tables.flows.put_many_raw(
        [(key.pack(), flow._replace(tick=tick, last_seen_ns=now).pack()) for key, flow in made]
    )
    times: dict[str, list[int]] = {journey.program: [], "lookup": [], "empty": []}
    for _ in range(COLD_ROUNDS):
        for program, runs in times.items():
            done = bpf.prog_test_run(bench.fds[program], data, context, COLD_RUNS)
            runs.append(done.duration_ns)
    median = {program: statistics.median(runs) for program, runs in times.items()}
    return median[journey.program] - median["empty"], median["lookup"] - median["empty"]


def cold_context(journey: Journey, data: bytes) -> bytes:
    """A struct __sk_buff whose mark and priority tell cold.h where the client's port stands."""
    is_reply = journey.name.startswith("reply")
    transport = 34 if data[12:14] == b"\x08\x00" else 54
    port = COLD_FIRST.to_bytes(2, "big")
    key_ports = KEY_AT + 32
    key_at = key_ports if data[key_ports : key_ports + 2] == port else key_ports + 2
    context = bytearray(CONTEXT)
    struct.pack_into("=I", context, 8, transport + (2 if is_reply else 0))
    struct.pack_into("=I", context, 32, key_at)
    return bytes(context)


def lookups(home: Home) -> dict[str, int]:
    """Lookups in hash maps of every journey of IPv4, counted by a build that counts them."""
    counted = {}
    with loaded(home, counting=True) as bench:
        bench.fill(1)
        for journey in journeys(4):
            bench.forget()
            if journey.known:
                for key, flow in records(journey, WARM_PORT, bench.tick(), still=False):
                    bench.tables.flows.put(key, flow)
            before = counter(bench.tables)
            bench.run(journey.program, packet(journey, WARM_PORT, opens=not journey.known))
            counted[journey.name] = counter(bench.tables) - before
    return counted


def counter(tables: Tables) -> int:
    """What the counting build has counted: the last word of kp_scratches, over all CPUs."""
    values = tables.scratches.get(U32(0)) or []
    return sum(scratch.words[-1] for scratch in values)


def measure(services: list[int], family: int, flows: int, rounds: int) -> list[Row]:
    """Run everything; the floor comes first, as a journey of its own."""
    rows: list[Row] = []
    with bench_home() as home:
        counted = lookups(home)
    for number in services:
        below: list[tuple[float, float]] = []
        measured: list[Row] = []
        with bench_home() as home, loaded(home) as bench, loaded(home, cold=flows) as chilled:
            bench.fill(number)
            for journey in journeys(family):
                warm, chill = hot(bench, journey, rounds), None
                if journey.known:
                    chill, floor = cold(chilled, journey, flows)
                    below.append((hot_lookup(bench, journey, rounds), floor))
                measured.append(Row(journey.name, number, counted[journey.name], warm, chill))
        medians = [statistics.median(column) for column in zip(*below, strict=True)]
        rows += [Row("floor: one lookup", number, 1, *medians), *measured]
    return rows


def hot_lookup(bench: Bench, journey: Journey, rounds: int) -> float:
    """Median ns above the empty program, of a bare lookup of the journey's key."""
    data = packet(journey, WARM_PORT, opens=False)
    key, _ = flow_key(journey.source, 1000, journey.target, journey.port)
    if journey.name.startswith("reply"):
        key, _ = flow_key(journey.source, journey.port, journey.target, 1000)
    bench.forget()
    bench.tables.flows.put(key, records(journeys(4)[1], 1000, 0, still=True)[0][1])
    times = [bench.run("lookup", data, REPEAT) for _ in range(rounds)]
    empty = [bench.run("empty", data, REPEAT) for _ in range(rounds)]
    return statistics.median(times) - statistics.median(empty)


def table(rows: list[Row]) -> str:
    """The result for people, with the goal's line below."""
    lines = [f"{'JOURNEY':34} {'SERVICES':>8} {'LOOKUPS':>7} {'HOT NS':>7} {'COLD NS':>7}"]
    for row in rows:
        chill = "-" if row.cold_ns is None else f"{row.cold_ns:.0f}"
        lines.append(f"{row[0]:34} {row[1]:8} {row[2]:7} {row.hot_ns:7.0f} {chill:>7}")
    known = [row for row in rows if ", known" in row.journey]
    floors = {row.services: row for row in rows if row.journey.startswith("floor")}
    hot_over = max(row.hot_ns - floors[row.services].hot_ns for row in known)
    cold_over = max((row.cold_ns or 0) - (floors[row.services].cold_ns or 0) for row in known)
    lines.append(
        f"All above an empty program. The dearest known flow costs one lookup + {hot_over:.0f} ns"
        f" hot, + {cold_over:.0f} ns cold; the goal is + {GOAL_NS} ns."
    )
    return "\n".join(lines)


def main() -> None:
    """Parse the flags, measure, print."""
    parser = argparse.ArgumentParser(
        prog="bench.packet", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--services", default="1,10000", help="numbers of Services to try")
    parser.add_argument("--family", type=int, choices=(4, 6), default=4, help="IPv4 or IPv6")
    parser.add_argument("--flows", type=int, default=50_000, help="flows in the table when cold")
    parser.add_argument("--rounds", type=int, default=200, help="hot test-runs a journey")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    chosen = parser.parse_args()
    own_network()
    numbers = [int(number) for number in chosen.services.split(",")]
    rows = measure(numbers, chosen.family, chosen.flows, chosen.rounds)
    print(json.dumps([row._asdict() for row in rows], indent=1) if chosen.json else table(rows))


if __name__ == "__main__":
    main()
