"""What the daemon knows of itself and of the maps, as metrics.

Counters of packets are read from the maps when somebody scrapes; the rest is what the daemon
noted here. Every name begins with kpbpf_.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from kpbpf.errors import Problem
from kpbpf.metrics import Family
from maps import abi, show
from maps.abi import Hook, Verdict
from maps.show import MapRow
from maps.table import Tables

KINDS = ("EndpointSlice", "Namespace", "Node", "Pod", "Service")
"""Kinds of objects that are read: each has its count of problems, zero as well."""


@dataclass(slots=True)
class Observed:
    """The daemon's notes; each field is written by one thread. Times are time.time()."""

    started: float
    synced: bool = False
    last_sync: float = 0.0
    services: int = 0
    pending: int = 0
    flows_swept: int = 0
    problems: Collection[Problem] = ()
    retried: dict[str, int] = field(default_factory=dict)
    """Work that fails now, and how often in a row."""
    maps: Collection[MapRow] = ()


def families(tables: Tables, seen: Observed) -> Iterator[Family]:
    """All metrics but durations."""
    yield from _packets(tables)
    for name, about, column in (
        ("kpbpf_map_entries", "Entries in use.", "entries"),
        ("kpbpf_map_capacity", "Entries that fit.", "limit"),
    ):
        found = [
            ((row["name"],), float(str(dict(row)[column])))
            for row in seen.maps
            if not abi.MAPS[row["name"]].kind.is_array  # its slots are always all there
        ]
        yield Family(name, about, "gauge", ("map",), found)
    wrong = Counter(_kind(problem) for problem in seen.problems)
    counts = [((kind,), float(wrong[kind])) for kind in sorted({*KINDS, "file", *wrong})]
    about = "Objects, or files of them, with something wrong in them now."
    yield Family("kpbpf_object_problems", about, "gauge", ("kind",), counts)
    failing = [((name,), float(count)) for name, count in seen.retried.items()]
    about = "Attempts in a row that failed, of work that is being tried again."
    yield Family("kpbpf_failing_attempts", about, "gauge", ("work",), failing)
    for name, about, value in (
        ("kpbpf_synced", "Whether the maps hold what the sources say.", float(seen.synced)),
        ("kpbpf_last_sync_timestamp_seconds", "When the maps were last written.", seen.last_sync),
        ("kpbpf_services", "Services known.", seen.services),
        ("kpbpf_services_pending", "Services not written yet.", seen.pending),
        ("kpbpf_endpoints", "Pods of this node that are served.", len(show.endpoints(tables))),
    ):
        yield Family(name, about, "gauge", (), [((), value)])
    about = "Connections forgotten because they timed out."
    yield Family("kpbpf_flows_swept", about, "counter", (), [((), seen.flows_swept)])


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


def _kind(problem: Problem) -> str:
    """Kind of the object in "Service default/web"; a file that cannot be read has none."""
    kind = problem.obj.partition(" ")[0]
    return kind if kind[:1].isupper() else "file"
