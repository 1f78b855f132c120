"""The Service maps in words, one line an entry, for tests to compare."""

from __future__ import annotations

from kpbpf.address import is_ipv4, to_text
from maps import config
from maps.abi import BackendKey, Frontend, FrontendFlag, MemberFlag, NameKey, NameKind
from maps.layout import short_bits
from maps.table import Tables

PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}


def service_lines(tables: Tables) -> list[str]:
    """`10.96.0.1:80/TCP default/web/IPv4: 10.1.0.1:8080 | here: ... [flags]`, sorted.

    Without what is there only to be refused: see `whole_lines`.
    """
    lines = []
    for key, value in tables.frontends.items():
        if value.flags & FrontendFlag.WHOLE_ADDRESS:
            continue
        cluster = _backends(tables, value, range(value.count))
        here = _backends(tables, value, range(value.count, value.count + value.local_count))
        name = tables.names.get(NameKey(NameKind.SERVICE, value.service))
        assert name is not None, "a frontend without a name"
        marks = short_bits(FrontendFlag, value.flags)
        marks += [f"affinity {value.affinity_sec}"] if value.affinity_sec else []
        lines.append(
            f"{place(key.addr, key.port)}/{PROTOCOLS[key.proto]} {name.text}: "
            + (" ".join(cluster) or "nothing")
            + (f" | here: {' '.join(here)}" if here else "")
            + (f" [{', '.join(marks)}]" if marks else "")
        )
    return sorted(lines)


def whole_lines(tables: Tables) -> list[str]:
    """`10.96.0.1, all else: refused by default/web/IPv4`, sorted."""
    lines = []
    for key, value in tables.frontends.items():
        if value.flags & FrontendFlag.WHOLE_ADDRESS:
            assert (key.port, key.proto, value.base, value.count) == (0, 0, 0, 0)
            name = tables.names.get(NameKey(NameKind.SERVICE, value.service))
            assert name is not None, "an address without a name"
            lines.append(f"{to_text(key.addr)}, all else: refused by {name.text}")
    return sorted(lines)


def range_lines(tables: Tables) -> list[str]:
    """`to default/web/IPv4 from 192.0.2.0/24`, sorted."""
    lines = []
    for key, there in tables.ranges.items():
        name = tables.names.get(NameKey(NameKind.SERVICE, key.scope))
        assert name is not None, "a range of nothing"
        assert there == 1
        # 32 bits of the scope; an IPv4 address has 96 that say so.
        prefix = key.prefix - 32 - (96 if is_ipv4(key.addr) and key.prefix >= 128 else 0)
        lines.append(f"to {name.text} from {to_text(key.addr)}/{prefix}")
    return sorted(lines)


def node_port_lines(tables: Tables) -> list[str]:
    """`NodePorts from 30000 to 30001`, or nothing."""
    span = config.node_ports(tables)
    return [f"NodePorts from {span.first} to {span.last}"] if any(span) else []


def member_lines(tables: Tables) -> list[str]:
    """`member of default/dns:dns/IPv4: 10.1.0.1:53 cluster serving`, sorted."""
    lines = []
    for key, value in tables.members.items():
        name = tables.names.get(NameKey(NameKind.SERVICE, key.service))
        assert name is not None, "a member of nothing"
        flags = " ".join(short_bits(MemberFlag, value.flags))
        lines.append(f"member of {name.text}: {place(key.addr, key.port)} {flags}")
    return sorted(lines)


def place(addr: bytes, port: int) -> str:
    """Address and port as people write them."""
    return f"{to_text(addr)}:{port}" if is_ipv4(addr) else f"[{to_text(addr)}]:{port}"


def _backends(tables: Tables, value: Frontend, slots: range) -> list[str]:
    found = [tables.backends.get(BackendKey(value.base, slot)) for slot in slots]
    assert None not in found, "a frontend without all its backends"
    return [place(backend.addr, backend.port) for backend in found if backend]
