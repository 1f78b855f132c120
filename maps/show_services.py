"""Rows about Services, read from the tables: where each one is served, and by whom.

As in maps/show.py: plain values, only reading, and what this version does not know stays visible.
There may be 262,144 frontends and a million backends, so all are read in blocks.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TypedDict

from kpbpf.address import UNSPECIFIED4, ZERO, to_text, with_port
from maps import abi
from maps.abi import BackendFlag, FrontendFlag, NameKind
from maps.layout import ntohs
from maps.show import protocol
from maps.table import Tables

CLUSTER_IP, NODE_PORT, EXTERNAL = "ClusterIP", "NodePort", "External"
"""Kinds of frontends that the maps tell apart; External: a load balancer's or an external IP."""


class ServiceRow(TypedDict):
    """One address at which a Service port is served: a frontend."""

    name: str
    id: int
    frontend: str
    """One of CLUSTER_IP, NODE_PORT, EXTERNAL."""
    address: str
    """"0.0.0.0" or "::" of a NodePort: any address of the node that serves them."""
    port: int
    protocol: str
    endpoints: int
    """In the set for cluster-wide traffic."""
    here: int
    """Endpoints of this node, in either set."""
    elsewhere: int
    local_endpoints: int
    """In the set of this node, for traffic policy Local."""
    traffic_policy: str
    """"Cluster" or "Local": the internal policy at a ClusterIP, the external one elsewhere."""
    source_ranges: bool
    """Whether loadBalancerSourceRanges hold here."""
    affinity_sec: int | None
    backends: list[str]
    """"10.1.0.2:8080", all of the cluster; empty unless asked for."""
    local_backends: list[str]


# Plain numbers: operations on IntFlag cost more than all the rest of a row.
_EXTERNAL = int(FrontendFlag.EXTERNAL)
_LOCAL_ONLY = int(FrontendFlag.LOCAL_ONLY)
_EXTERNAL_LOCAL = int(FrontendFlag.EXTERNAL_LOCAL)
_SOURCE_RANGES = int(FrontendFlag.SOURCE_RANGES)
_WHOLE_ADDRESS = int(FrontendFlag.WHOLE_ADDRESS)
_HERE = int(BackendFlag.HERE)
_NODE_PORTS = {UNSPECIFIED4, ZERO}

_BACKEND_FLAGS_AT = 18
"""Offset in a packed Backend; tests compare it with the layout."""


def services(tables: Tables) -> list[ServiceRow]:
    """One row for each served address, by name, without the backends' addresses."""
    frontends = list(_frontends(tables))
    here = _here(tables, {base: count for _, (_, base, count, *_) in frontends})
    names = _names(tables)
    found = [
        _row(names, key, frontend, here.get(frontend[1], 0))
        for key, frontend in frontends
        if not frontend[5] & _WHOLE_ADDRESS
    ]
    return sorted(found, key=_order)


def service(tables: Tables, name: str) -> list[ServiceRow]:
    """The rows of one Service port, with its backends."""
    names = _names(tables)
    found = []
    for key, frontend in _frontends(tables):
        id_, base, count, local_count, _, flags = frontend
        if flags & _WHOLE_ADDRESS or (names.get(id_) or f"service {id_}") != name:
            continue
        backends = [
            tables.backends.get(abi.BackendKey(base, slot)) for slot in range(count + local_count)
        ]
        here = sum(1 for one in backends[:count] if one and one.flags & _HERE)
        row = _row(names, key, frontend, here)
        shown = [
            with_port(one.addr, one.port) if one else f"missing slot {slot}"
            for slot, one in enumerate(backends)
        ]
        row["backends"], row["local_backends"] = shown[:count], shown[count:]
        found.append(row)
    return sorted(found, key=_order)


def _row(names: dict[int, str], key: "_Key", frontend: "_Value", in_cluster: int) -> ServiceRow:
    """One row; `in_cluster`: how many of the set for cluster-wide traffic are here."""
    addr, port, proto = key
    id_, _, count, local_count, affinity_sec, flags = frontend
    local = flags & (_EXTERNAL_LOCAL if flags & _EXTERNAL else _LOCAL_ONLY)
    return {
        "name": names.get(id_) or f"service {id_}",
        "id": id_,
        "frontend": _kind(addr, flags),
        "address": to_text(addr),
        "port": ntohs(port),
        "protocol": protocol(proto),
        "endpoints": count,
        # Whoever is chosen for the whole cluster and is here is in the local set, too.
        "here": max(in_cluster, local_count),
        "elsewhere": count - in_cluster,
        "local_endpoints": local_count,
        "traffic_policy": "Local" if local else "Cluster",
        "source_ranges": bool(flags & _SOURCE_RANGES),
        "affinity_sec": affinity_sec or None,
        "backends": [],
        "local_backends": [],
    }


_Key = tuple[bytes, int, int]
"""Address, port in network byte order, protocol."""
_Value = tuple[int, int, int, int, int, int]
"""As the fields of a Frontend."""


def _frontends(tables: Tables) -> Iterator[tuple[_Key, _Value]]:
    for keys, values in tables.frontends.blocks_raw():
        unpacked = abi.FrontendKey.STRUCT.iter_unpack(keys)
        yield from zip(unpacked, abi.Frontend.STRUCT.iter_unpack(values), strict=True)


def _names(tables: Tables) -> dict[int, str]:
    """Names of Service ports, by id."""
    found: dict[int, str] = {}
    for keys, values in tables.names.blocks_raw():
        size = abi.Name.SIZE
        text = bytes(values)
        for number, (kind, id_) in enumerate(abi.NameKey.STRUCT.iter_unpack(keys)):
            if kind == NameKind.SERVICE:
                found[id_] = abi.Name.unpack(text[number * size : (number + 1) * size]).text
    return found


def _here(tables: Tables, counts: dict[int, int]) -> dict[int, int]:
    """Endpoints of this node in each set for cluster-wide traffic, whose sizes are given."""
    found: Counter[int] = Counter()
    step = abi.Backend.SIZE // 2
    for keys, values in tables.backends.blocks_raw():
        flags = values.cast("B").cast("H")[_BACKEND_FLAGS_AT // 2 :: step].tolist()
        if not any(flags):
            continue
        words = keys.cast("B").cast("I")
        for base, slot, flag in zip(words[::2].tolist(), words[1::2].tolist(), flags, strict=True):
            if flag & _HERE and slot < counts.get(base, 0):
                found[base] += 1
    return found


def _kind(addr: bytes, flags: int) -> str:
    if not flags & _EXTERNAL:
        return CLUSTER_IP
    return NODE_PORT if addr in _NODE_PORTS else EXTERNAL


_KINDS = {CLUSTER_IP: 0, EXTERNAL: 1, NODE_PORT: 2}


def _order(row: ServiceRow) -> tuple[str, int, str, int]:
    """By name, and of one port the ClusterIP first."""
    return row["name"], _KINDS[row["frontend"]], row["address"], row["port"]
