"""From Kubernetes objects to pinned maps: how long it takes, and how much memory.

What runs is what the daemon runs: kpbpf.kube.parse, controllers.services and maps.sync on
real maps, in a process that does nothing else. The objects are made one at a time, as they
would come from a stream, so neither their memory nor the time to make them is counted.
Peak RSS is VmHWM of that process; maps live in kernel memory, which is not part of it. As in the
daemon, Python's cyclic garbage collector rests during the first sync, and then counts what is
there as permanent. A restart is the median of several.

Needs root. Maps are pinned in a directory of their own, which is removed at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controllers.services import ServicesController
from kpbpf.home import Home
from kpbpf.kube.parse import parse
from maps import config
from maps.table import Tables, open_tables

EXAMPLES = """examples:
  python -m bench.sync                                  10,000 Services x 10 endpoints
  python -m bench.sync --services 30000 --endpoints 4
  python -m bench.sync --udp-percent 100                every Service needs member entries too
"""

#: For 10,000 Services x 10 endpoints.
GOALS = {
    "first sync": (3.0, "s"),
    "peak RSS": (120.0, "MB"),
    "one change, median": (5.0, "ms"),
    "restart: entries written": (0.0, ""),
}


class Cluster:
    """Raw objects of an invented cluster; endpoints are spread over nodes of 100 pods."""

    def __init__(self, services: int, endpoints: int, udp_percent: int) -> None:
        self.services, self.endpoints, self.udp_percent = services, endpoints, udp_percent
        self.nodes = max(1, services * endpoints // 100)

    def objects(self) -> Iterator[dict[str, Any]]:
        """Each Service, followed by its slice."""
        for number in range(self.services):
            yield self.service(number)
            yield self.slice(number)

    def service(self, number: int) -> dict[str, Any]:
        """One Service with one port."""
        high, low = divmod(number, 65536)
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self._metadata(number, f"service-{number}"),
            "spec": {
                "clusterIP": (ip := f"10.{96 + high}.{low >> 8}.{low & 255}"),
                "clusterIPs": [ip],
                "ipFamilies": ["IPv4"],
                "internalTrafficPolicy": "Cluster",
                "ports": [self._port(number) | {"targetPort": 8080, "port": 80}],
                "selector": {"app": f"service-{number}"},
                "sessionAffinity": "None",
                "type": "ClusterIP",
            },
        }

    def slice(self, number: int, ready_but: int = -1) -> dict[str, Any]:
        """The slice of a Service; the endpoint `ready_but` is not ready."""
        metadata = self._metadata(number, f"service-{number}-abcde")
        metadata["labels"] = {"kubernetes.io/service-name": f"service-{number}"}
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": "IPv4",
            "ports": [self._port(number) | {"port": 8080}],
            "endpoints": [
                self._endpoint(number * self.endpoints + index, index != ready_but)
                for index in range(self.endpoints)
            ],
        }

    def _metadata(self, number: int, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": f"namespace-{number % 100}",
            "resourceVersion": str(1000 + number),
            "uid": f"00000000-0000-4000-8000-{number:012d}",
        }

    def _port(self, number: int) -> dict[str, Any]:
        return {"name": "main", "protocol": "UDP" if number % 100 < self.udp_percent else "TCP"}

    def _endpoint(self, pod: int, ready: bool) -> dict[str, Any]:
        zone = {"name": f"zone-{pod % 3}"}
        return {
            "addresses": [f"10.{128 + (pod >> 16 & 63)}.{pod >> 8 & 255}.{pod & 255}"],
            "conditions": {"ready": ready, "serving": ready, "terminating": False},
            "nodeName": f"node-{pod % self.nodes}",
            "targetRef": {"kind": "Pod", "name": f"pod-{pod}"},
            "zone": zone["name"],
        }


# ---- the measured process ---------------------------------------------------------------


def measured(home: Home, cluster: Cluster, changes: int) -> dict[str, float]:
    """Sync everything, then make single changes; times in seconds and milliseconds."""
    gc.disable()
    with open_tables(home, create=True) as tables:
        config.ensure(tables)
        controller = ServicesController(tables, "node-0", home.writer_lock)
        result = _first_sync(controller, cluster)
        gc.collect()
        gc.freeze()
        gc.enable()
        result["peak RSS MB"] = _status_mb("VmHWM")
        result["RSS after MB"] = _status_mb("VmRSS")
        if changes:
            result |= _single_changes(controller, cluster, changes)
        result["backends"] = _entries(tables)
    return result


def _first_sync(controller: ServicesController, cluster: Cluster) -> dict[str, float]:
    objects = cluster.objects()
    reading = 0.0
    for raw in objects:
        begin = time.perf_counter()
        model = parse(raw).model
        controller.changed(model.key, model)
        reading += time.perf_counter() - begin
    begin = time.perf_counter()
    report = controller.reconcile()
    writing = time.perf_counter() - begin
    if report.failed:
        sys.exit(f"not written: {report.failed}")
    return {"read s": reading, "write s": writing, "writes": report.writes}


def _single_changes(
    controller: ServicesController, cluster: Cluster, changes: int
) -> dict[str, float]:
    choice = random.Random(1)
    took_ms: list[float] = []
    for _ in range(changes):
        number = choice.randrange(cluster.services)
        raw = cluster.slice(number, ready_but=choice.randrange(cluster.endpoints))
        begin = time.perf_counter()
        model = parse(raw).model
        controller.changed(model.key, model)
        report = controller.reconcile()
        took_ms.append((time.perf_counter() - begin) * 1e3)
        if report.failed or not report.writes:
            sys.exit(f"a change was not written: {report}")
        # And back, so that a restart finds what it was told of first.
        model = parse(cluster.slice(number)).model
        controller.changed(model.key, model)
        controller.reconcile()
    took_ms.sort()
    return {
        "change median ms": statistics.median(took_ms),
        "change p99 ms": took_ms[len(took_ms) * 99 // 100],
    }


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"no {field} in /proc/self/status")


def _entries(tables: Tables) -> int:
    return sum(1 for _ in tables.backends.items_raw())


# ---- the process that asks ----------------------------------------------------------------


def main() -> int:
    """Run the measured process several times and show what it told."""
    options = _options()
    if options.child:
        home = Home(Path(options.child), Path(options.run_dir))
        cluster = Cluster(options.services, options.endpoints, options.udp_percent)
        print(json.dumps(measured(home, cluster, options.changes)))
        return 0
    if os.geteuid() != 0:
        sys.exit("bench/sync.py writes real maps: run it as root")
    pins = Path(f"/sys/fs/bpf/kpbpf-bench-{os.getpid()}")
    run_dir = tempfile.mkdtemp(prefix="kpbpf-bench-")
    try:
        first = _child(options, pins, run_dir, options.changes)
        restarts = [_child(options, pins, run_dir, 0) for _ in range(options.restarts)]
    finally:
        shutil.rmtree(run_dir)
        _remove_pins(pins)
    return _show(options, first, restarts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=10000, help="default: 10000")
    parser.add_argument("--endpoints", type=int, default=10, help="for each; default: 10")
    parser.add_argument("--udp-percent", type=int, default=5, help="Services on UDP; default: 5")
    parser.add_argument("--changes", type=int, default=300, help="single changes; default: 300")
    parser.add_argument("--restarts", type=int, default=5, help="default: 5")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--run-dir", help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(options: argparse.Namespace, pins: Path, run_dir: str, changes: int) -> dict[str, float]:
    numbers = {
        "--services": options.services,
        "--endpoints": options.endpoints,
        "--udp-percent": options.udp_percent,
        "--changes": changes,
    }
    arguments = [text for name, value in numbers.items() for text in (name, str(value))]
    command = [
        sys.executable,
        "-m",
        "bench.sync",
        "--child",
        str(pins),
        "--run-dir",
        run_dir,
        *arguments,
    ]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=-1).stdout)
    return found


def _remove_pins(pins: Path) -> None:
    """bpffs has no files to speak of: unlink pins, then the directories, innermost first."""
    for path in sorted(pins.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if pins.exists():
        pins.rmdir()


def _show(
    options: argparse.Namespace, first: dict[str, float], restarts: list[dict[str, float]]
) -> int:
    rows: list[tuple[str, float, str]] = [
        ("first sync", first["read s"] + first["write s"], "s"),
        ("  read and keep the objects", first["read s"], "s"),
        ("  compile and write", first["write s"], "s"),
        ("  entries written", first["writes"], ""),
        ("peak RSS", first["peak RSS MB"], "MB"),
        ("one change, median", first["change median ms"], "ms"),
        ("one change, 99 of 100", first["change p99 ms"], "ms"),
        ("restart: entries written", max(again["writes"] for again in restarts), ""),
        ("restart: time to the same state", _median(restarts, "read s", "write s"), "s"),
        ("  read and keep the objects", _median(restarts, "read s"), "s"),
        ("  read the maps and compare", _median(restarts, "write s"), "s"),
        ("restart: peak RSS", _median(restarts, "peak RSS MB"), "MB"),
    ]
    print(f"{options.services:,} Services x {options.endpoints} endpoints", end=", ")
    print(f"{options.udp_percent} % UDP, {first['backends']:,.0f} backends in the map")
    missed = 0
    sizes = (options.services, options.endpoints)
    for name, value, unit in rows:
        shown = f"{value:,.2f}" if unit else f"{value:,.0f}"
        goal = GOALS.get(name) if sizes == (10000, 10) else None
        note = ""
        if goal is not None:
            held = value <= goal[0]
            missed += not held
            note = f"goal: at most {goal[0]:g} {goal[1]}".rstrip() + ("" if held else "  MISSED")
        print(f"  {name:34} {shown:>10} {unit:3} {note}".rstrip())
    return 1 if missed and options.check else 0


def _median(runs: list[dict[str, float]], *names: str) -> float:
    """The median of the sum of some of what each run told."""
    return statistics.median(sum(run[name] for name in names) for run in runs)


if __name__ == "__main__":
    sys.exit(main())
