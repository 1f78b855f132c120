"""Forgetting connections, and counting those that stay.

Forgotten are those that timed out and those of a pod that is gone. The programs check time-outs
themselves, at every lookup; sweeping only gives the memory back. Works on columns of packed
entries, because there may be 262,144 of them. Touches the flow table only.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from maps import config
from maps.abi import Flow, FlowFlag, FlowKey, NameKind
from maps.layout import Packed
from maps.table import Tables

_SEC_NS = 1_000_000_000


class Swept(NamedTuple):
    """What a sweep did and saw. A connection through a Service has two entries, and counts once."""

    removed: int
    """Entries, not connections."""
    connections: dict[tuple[int, int], int]
    """That stay, by protocol number and state."""
    of_services: dict[int, int]
    """That stay, by id of the Service port; empty unless asked for."""


Code = Literal["Q", "I", "B"]
"""Of struct: 8, 4 and 1 bytes."""


class _Column(NamedTuple):
    """One field of every entry in a block of entries that lie one behind the other."""

    code: Code
    first: int
    stride: int

    def of(self, block: memoryview) -> list[int]:
        """Read it from every entry."""
        return block.cast("B").cast(self.code)[self.first :: self.stride].tolist()


def _column(record: Any, field: str, code: Code) -> _Column:
    """Find a field by what it leaves in a packed record."""
    width = {"Q": 8, "I": 4, "B": 1}[code]
    ones = int.from_bytes(b"\1" * width)
    at = record.unpack(bytes(record.SIZE))._replace(**{field: ones}).pack().index(1)
    return _Column(code, at // width, record.SIZE // width)


_SEEN_NS = _column(Flow, "last_seen_ns", "Q")
_STATE = _column(Flow, "state", "B")
_FLAGS = _column(Flow, "flags", "B")
_SERVICE = _column(Flow, "service", "I")
_CLIENT = _column(Flow, "client_ifindex", "I")
_BACKEND = _column(Flow, "backend_ifindex", "I")
_PROTO = _column(FlowKey, "proto", "B")


def sweep(tables: Tables, now_ns: int, count_services: bool = False) -> Swept:
    """Remove flows that were idle for longer than their state allows; count the others."""
    timeouts = config.read(tables).timeout_sec
    limits = [now_ns - seconds * _SEC_NS for seconds in timeouts]
    # Most flows are busy: the shortest time-out alone says that they may stay.
    latest = now_ns - min(filter(None, timeouts), default=0) * _SEC_NS
    removed = 0
    kinds: Counter[tuple[int, int, int]] = Counter()
    services: Counter[tuple[int, int]] = Counter()
    for keys, values in tables.flows.blocks_raw():
        states = _STATE.of(values)
        kind = list(zip(_PROTO.of(keys), states, _FLAGS.of(values), strict=True))
        gone = [
            i
            for i, seen_ns in enumerate(_SEEN_NS.of(values))
            if seen_ns < latest and seen_ns < limits[states[i] % len(limits)]
        ]
        kinds.update(kind)
        kinds.subtract(kind[i] for i in gone)
        if count_services:
            service = list(zip(_SERVICE.of(values), _FLAGS.of(values), strict=True))
            services.update(service)
            services.subtract(service[i] for i in gone)
        removed += _remove(tables, keys, gone)
    connections: Counter[tuple[int, int]] = Counter()
    for (proto, state, flags), number in kinds.items():
        connections[proto, state] += 0 if flags & FlowFlag.ALIAS else number
    of_services: Counter[int] = Counter()
    for (id_, flags), number in services.items():
        of_services[id_] += 0 if flags & FlowFlag.ALIAS or not id_ else number
    return Swept(removed, +connections, +of_services)


def forget_interfaces(tables: Tables, ifindexes: Collection[int]) -> int:
    """Remove flows whose client or backend is behind one of these interfaces; return how many."""
    removed = 0
    if ifindexes:
        for keys, values in tables.flows.blocks_raw():
            ends = zip(_CLIENT.of(values), _BACKEND.of(values), strict=True)
            behind = [i for i, (a, b) in enumerate(ends) if a in ifindexes or b in ifindexes]
            removed += _remove(tables, keys, behind)
    return removed


def first_services(tables: Tables, limit: int) -> dict[int, str]:
    """Choose the Services that get numbers of their own: namespace/name, by Service port id.

    The first `limit` by name. Not the busiest: those change, and every one that ever was among
    them would stay a time series.
    """
    if limit <= 0:
        return {}
    paths = {
        key.id: _service_path(name.text)
        for key, name in tables.names.items()
        if key.kind == NameKind.SERVICE
    }
    chosen = set(heapq.nsmallest(limit, set(paths.values())))
    return {id_: path for id_, path in paths.items() if path in chosen}


def _service_path(port_name: str) -> str:
    """Take namespace/name from a Service port's name, namespace/name:port/family."""
    namespace, _, rest = port_name.partition("/")
    return f"{namespace}/{rest.partition('/')[0].partition(':')[0]}"


def _remove(tables: Tables, keys: Packed, doomed: list[int]) -> int:
    """Remove entries of a block by position, right after it was read.

    A record may have come to life again since; losing it costs a retransmission at most.
    """
    size = FlowKey.SIZE
    return tables.flows.delete_many_raw(bytes(keys[i * size : (i + 1) * size]) for i in doomed)
