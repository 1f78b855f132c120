"""What the daemon knows of itself and of the maps, as metrics whose names begin with kpbpf_.

Counters of packets are read from the maps when somebody scrapes; the rest is what the daemon
noted here. kube-proxy's metrics are in controllers.kubeproxy, the histograms too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from controllers.flows import Swept
from controllers.services import Status
from kpbpf.errors import Problem
from kpbpf.metrics import Family
from maps import abi, show
from maps.abi import Hook, State, Verdict
from maps.layout import short
from maps.show import MapRow
from maps.table import Tables

KINDS = ("EndpointSlice", "Namespace", "NetworkPolicy", "Node", "Pod", "Service")
"""Kinds of objects that are read: each has its count of problems, zero as well."""

FOUND = ("route", "neighbour", "prefix", "far-end")
"""How the interface of a pod is found, as in controllers.origin."""


class Reflected(Protocol):
    """What a reflector tells of itself; kube.cluster.ReflectorStats is one."""

    @property
    def resource(self) -> str:
        """As in "endpointslices"."""

    @property
    def synced(self) -> bool:
        """Whether all of it was read once."""

    @property
    def objects(self) -> int:
        """Objects known."""

    @property
    def lists(self) -> int:
        """Times all of it was read."""

    @property
    def watches(self) -> int:
        """Watches begun."""

    @property
    def failures(self) -> int:
        """Attempts that failed."""

    @property
    def last_heard(self) -> float:
        """time.time() of the last sign of life, 0.0: none yet."""


class FoundPod(Protocol):
    """What is told of a pod of this node; controllers.pods.PodStatus is one."""

    @property
    def found(self) -> str:
        """One of FOUND, or "" when it was not."""

    @property
    def why_not(self) -> str:
        """Why its programs could not be attached; "" when they are."""


class FoundUplink(Protocol):
    """What is told of an uplink; controllers.uplinks.UplinkStatus is one."""

    @property
    def ifname(self) -> str:
        """Name of the interface."""

    @property
    def why_not(self) -> str:
        """Why its programs could not be attached; "" when they are."""


@dataclass(slots=True)
class Observed:
    """The daemon's notes; each field is written by one thread. Times are time.time()."""

    started: float
    version: str = ""
    synced: bool = False
    last_sync: float = 0.0
    last_queued: float = 0.0
    """When a source last had news."""
    services: Status = field(default_factory=lambda: Status(0, 0, 0, 0))
    swept: Swept = field(default_factory=lambda: Swept(0, {}, {}))
    """The last sweep's account of flows."""
    flows_swept: int = 0
    """Entries removed by all sweeps."""
    own_services: Mapping[int, str] = field(default_factory=dict)
    """Services with numbers of their own: namespace/name, by Service port id."""
    problems: Collection[Problem] = ()
    retried: dict[str, int] = field(default_factory=dict)
    """Work that fails now, and how often in a row."""
    maps: Collection[MapRow] = ()
    pods: Collection[FoundPod] = ()
    uplinks: Collection[FoundUplink] = ()
    program_loads: int = 0
    """Times the loader had to compile and load."""
    program_swaps: int = 0
    """Programs replaced in place by those of this version."""
    reattachments: int = 0
    """Programs attached again, because somebody had removed them."""
    reflectors: Callable[[], Iterable[Reflected]] = tuple
    """Asked at each scrape, from another thread."""
    events_dropped: Callable[[], int] = int
    """The same: Events that were not told, because there were too many."""

    def take_sweep(self, swept: Swept) -> None:
        """Note what a sweep of the flows did and saw."""
        self.swept = swept
        self.flows_swept += swept.removed


def families(tables: Tables, seen: Observed) -> Iterator[Family]:
    """All of our own metrics but durations."""
    yield from _daemon(tables, seen)
    yield from _packets(tables)
    yield from _maps(seen.maps)
    yield from _flows(seen)
    yield from _reflectors(seen, time.time())
    yield from _places(seen)


def _daemon(tables: Tables, seen: Observed) -> Iterator[Family]:
    """The daemon's own state and work."""
    about = "Always 1; the label tells the version that runs."
    yield Family("kpbpf_build_info", about, "gauge", ("version",), [((seen.version,), 1.0)])
    about = "Objects, or files of them, with something wrong in them now."
    wrong = Counter(_kind(problem) for problem in seen.problems)
    counts = [((kind,), float(wrong[kind])) for kind in sorted({*KINDS, "file", *wrong})]
    yield Family("kpbpf_object_problems", about, "gauge", ("kind",), counts)
    failing = [((name,), float(count)) for name, count in seen.retried.items()]
    about = "Attempts in a row that failed, of work that is being tried again."
    yield Family("kpbpf_failing_attempts", about, "gauge", ("work",), failing)
    for name, about, value in (
        ("kpbpf_synced", "Whether the maps hold what the sources say.", float(seen.synced)),
        ("kpbpf_last_sync_timestamp_seconds", "When the maps were last written.", seen.last_sync),
        ("kpbpf_services", "Services known.", seen.services.services),
        ("kpbpf_services_pending", "Services not written yet.", seen.services.pending),
        ("kpbpf_endpoints", "Pods of this node that are served.", len(show.endpoints(tables))),
    ):
        yield _one(name, about, "gauge", value)
    for name, about, value in (
        ("kpbpf_program_loads", "Times the programs were compiled and loaded.", seen.program_loads),
        ("kpbpf_program_swaps", "Programs replaced in place.", seen.program_swaps),
        ("kpbpf_events_dropped", "Kubernetes Events not told: too many.", seen.events_dropped()),
    ):
        yield _one(name, about, "counter", value)


def _packets(tables: Tables) -> Iterator[Family]:
    """Packets and bytes by hook and verdict; those that never happened are zero."""
    rows = {(row["hook"], row["verdict"]): row for row in show.counters(tables)}
    known = {(hook.short, verdict.short) for hook in Hook for verdict in Verdict}
    for name, about, column in (
        ("kpbpf_packets", "Packets by how their stay at a hook ended.", "packets"),
        ("kpbpf_bytes", "Bytes of packets by how their stay at a hook ended.", "bytes"),
    ):
        samples = [
            (place, float(str(dict(rows[place])[column])) if place in rows else 0.0)
            for place in sorted(known | rows.keys())
        ]
        yield Family(name, about, "counter", ("hook", "verdict"), samples)


def _maps(rows: Collection[MapRow]) -> Iterator[Family]:
    """How full the maps are, but for arrays, whose slots are always all there."""
    kept = [row for row in rows if not abi.MAPS[row["name"]].kind.is_array]
    for name, about, numbers in (
        ("kpbpf_map_entries", "Entries in use.", [row["entries"] for row in kept]),
        ("kpbpf_map_capacity", "Entries that fit.", [row["limit"] for row in kept]),
        (
            "kpbpf_map_pressure_ratio",
            "Entries in use, of those that fit: 1 is full.",
            [row["entries"] / row["limit"] for row in kept],
        ),
    ):
        samples = [((row["name"],), number) for row, number in zip(kept, numbers, strict=True)]
        yield Family(name, about, "gauge", ("map",), samples)


def _flows(seen: Observed) -> Iterator[Family]:
    """Connections, as the last sweep counted them."""
    counted = {
        (show.protocol(proto), short(State, state)): number
        for (proto, state), number in seen.swept.connections.items()
    }
    possible = dict.fromkeys(
        (protocol, state.short)
        for protocol in show.PROTOCOLS.values()
        for state in State
        if protocol.upper().startswith(state.name.partition("_")[0])
    )
    samples = [(kind, counted.get(kind, 0)) for kind in {**possible, **counted}]
    about = "Connections that are remembered; one through a Service counts once."
    yield Family("kpbpf_flows", about, "gauge", ("protocol", "state"), samples)
    about = "Connections forgotten because they timed out."
    yield _one("kpbpf_flows_swept", about, "counter", seen.flows_swept)
    connections = dict.fromkeys(sorted(set(seen.own_services.values())), 0)
    for id_, path in seen.own_services.items():
        connections[path] += seen.swept.of_services.get(id_, 0)
    yield Family(
        "kpbpf_service_connections",
        "Connections through a Service that are remembered; of the first Services by name.",
        "gauge",
        ("service_namespace", "service_name"),
        [(_names(path), number) for path, number in connections.items()],
    )


def _reflectors(seen: Observed, now: float) -> Iterator[Family]:
    """How well the API server is heard, by resource."""
    each = list(seen.reflectors())
    kinds: tuple[tuple[str, str, Literal["counter", "gauge"], list[float]], ...] = (
        ("synced", "Whether all of it was read once.", "gauge", [one.synced for one in each]),
        ("objects", "Objects known.", "gauge", [one.objects for one in each]),
        ("lists", "Times all of it was read.", "counter", [one.lists for one in each]),
        ("watches", "Watches begun.", "counter", [one.watches for one in each]),
        ("failures", "Attempts that failed.", "counter", [one.failures for one in each]),
        (
            "silence_seconds",
            "Time since the API server last said anything about it, or since the start.",
            "gauge",
            [max(0.0, now - max(one.last_heard, seen.started)) for one in each],
        ),
    )
    for name, about, kind, numbers in kinds:
        samples = [((one.resource,), float(n)) for one, n in zip(each, numbers, strict=True)]
        yield Family(f"kpbpf_reflector_{name}", about, kind, ("resource",), samples)


def _places(seen: Observed) -> Iterator[Family]:
    """Pods and uplinks: those that have our programs, and those that should."""
    off = sum(1 for uplink in seen.uplinks if uplink.why_not)
    attached = Counter(dict.fromkeys(FOUND, 0))
    attached.update(pod.found for pod in seen.pods if not pod.why_not)
    about = "Pods of this node with programs attached, by how their interface was found."
    samples = [((found,), number) for found, number in attached.items()]
    yield Family("kpbpf_pods_attached", about, "gauge", ("found",), samples)
    about = "Pods of this node that should have programs attached and have not."
    without = sum(1 for pod in seen.pods if pod.why_not)
    yield _one("kpbpf_pods_not_attached", about, "gauge", without)
    for name, about, number in (
        ("kpbpf_uplinks_attached", "Uplinks with programs attached.", len(seen.uplinks) - off),
        ("kpbpf_uplinks_not_attached", "Uplinks that should have programs and have not.", off),
    ):
        yield _one(name, about, "gauge", number)
    about = "Programs attached again, because somebody had removed them."
    yield _one("kpbpf_reattachments", about, "counter", seen.reattachments)


def _one(name: str, about: str, kind: Literal["counter", "gauge"], number: float) -> Family:
    """Make a family of one number."""
    return Family(name, about, kind, (), [((), number)])


def _names(path: str) -> tuple[str, str]:
    namespace, _, name = path.partition("/")
    return namespace, name


def _kind(problem: Problem) -> str:
    """Kind of the object in "Service default/web"; a file that cannot be read has none."""
    kind = problem.obj.partition(" ")[0]
    return kind if kind[:1].isupper() else "file"
