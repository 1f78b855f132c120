"""The Service maps in words, one line an entry, for tests to compare."""

from __future__ import annotations

from kpbpf.address import is_ipv4, to_text
from maps.abi import BackendKey, Frontend, FrontendFlag, MemberFlag, NameKey, NameKind
from maps.layout import short_bits
from maps.table import Tables

PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}


def service_lines(tables: Tables) -> list[str]:
    """`10.96.0.1:80/TCP default/web/IPv4: 10.1.0.1:8080 | here: ... [flags]`, sorted."""
    lines = []
    for key, value in tables.frontends.items():
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
