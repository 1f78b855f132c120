"""Forgetting connections: those that timed out, and those of a pod that is gone.

The programs check time-outs themselves, at every lookup; sweeping only gives the memory back.
Works on packed entries, because there may be 262,144 of them. Touches the flow table only.
"""

from collections.abc import Callable, Collection
from struct import Struct

from maps import config
from maps.abi import Flow
from maps.layout import Packed
from maps.table import Tables

BATCH = 1024
"""Keys removed at once. Small, because a record may have come to life again since it was read;
losing it then costs a retransmission at most."""

_SEC_NS = 1_000_000_000

# Most flows are busy: their time stamp, which comes first, says that they may stay.
_seen_ns = Struct("=Q").unpack_from

# A flow is unpacked to plain numbers, not to a Flow: it is done for every one of them.
_unpack = Flow.STRUCT.unpack
_LAST_SEEN, _STATE, _CLIENT, _BACKEND = map(
    Flow._fields.index, ("last_seen_ns", "state", "client_ifindex", "backend_ifindex")
)


def sweep(tables: Tables, now_ns: int) -> int:
    """Remove flows that were idle for longer than their state allows; return how many."""
    timeouts = config.read(tables).timeout_sec
    limits = [now_ns - seconds * _SEC_NS for seconds in timeouts]
    latest = now_ns - min(filter(None, timeouts), default=0) * _SEC_NS

    def expired(flow: Packed) -> bool:
        if _seen_ns(flow)[0] >= latest:
            return False
        found = _unpack(flow)
        return bool(found[_LAST_SEEN] < limits[found[_STATE] % len(limits)])

    return _remove(tables, expired)


def forget_interfaces(tables: Tables, ifindexes: Collection[int]) -> int:
    """Remove flows whose client or backend is behind one of these interfaces; return how many."""

    def behind(flow: Packed) -> bool:
        found = _unpack(flow)
        return found[_CLIENT] in ifindexes or found[_BACKEND] in ifindexes

    return _remove(tables, behind) if ifindexes else 0


def _remove(tables: Tables, doomed: Callable[[Packed], bool]) -> int:
    """Remove the flows that `doomed` picks, a batch at a time, soon after they were read."""
    removed = 0
    keys: list[bytes] = []
    for key, flow in tables.flows.items_raw():
        if doomed(flow):
            keys.append(bytes(key))
            if len(keys) == BATCH:
                removed += tables.flows.delete_many_raw(keys)
                keys = []
    return removed + (tables.flows.delete_many_raw(keys) if keys else 0)
