"""Objects that no API server should hand out, and that harm nobody but themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests import make
from tests.cluster.resources import Raw, by_name
from tests.cluster.store import Store

JUNK: tuple[Any, ...] = (None, True, -1, 1.5, "", "\x00\n\x1b[31m", [], [[]], {}, {"x": {}}, 10**40)


def put(store: Store, kind: str, name: str, raw: Any) -> None:
    """Have the server hand it out like any other."""
    store.put_raw(by_name(kind), ("default", name), raw)


def deep(levels: int = 100_000) -> bytes:
    """A Service with JSON that is nested deeper than any parser likes."""
    head = '{"kind":"Service","apiVersion":"v1","metadata":{"name":"deep","namespace":"default"},'
    return (head + '"spec":{"x":' + "[" * levels + "]" * levels + "}}").encode()


def large(megabytes: int = 10) -> Raw:
    """A good Service with an annotation of that size."""
    raw = make.service("large", "10.98.0.1")
    raw["metadata"]["annotations"] = {"note": "x" * (megabytes << 20)}
    return raw


def many_ports(count: int = 10_000) -> Raw:
    """A Service with more ports than anybody needs, all of them in order."""
    ports: list[Raw | int] = [make.port(1 + number, f"p{number}") for number in range(count)]
    return make.service("many-ports", "10.98.0.2", ports)


def wrong_types() -> Iterator[tuple[str, str, Raw]]:
    """Resource, name and object: one for each field and piece of junk in it."""
    service = make.service("x", "10.98.0.3", [make.port(80, nodePort=30000)], externalIPs=["::1"])
    slice_ = make.slice_([make.endpoint("10.1.0.1", zones=("a",))], of="x")
    for kind, raw in (("services", service), ("endpointslices", slice_)):
        number = 0
        for path in _paths(raw):
            if path[0] in ("kind", "apiVersion") or path == ("metadata", "name"):
                continue
            for junk in JUNK:
                number += 1
                name = f"wrong-{number}"
                bad = _with(raw, path, junk)
                if isinstance(bad.get("metadata"), dict):
                    bad["metadata"] = bad["metadata"] | {"name": name}
                yield kind, name, bad


def _paths(raw: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from _paths(value, (*path, key))
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from _paths(value, (*path, index))


def _with(raw: Any, path: tuple[Any, ...], junk: Any) -> Any:
    """A copy that has junk at that path."""
    if not path:
        return junk
    first, *rest = path
    if isinstance(raw, list):
        return [
            _with(each, tuple(rest), junk) if n == first else each for n, each in enumerate(raw)
        ]
    return {k: _with(v, tuple(rest), junk) if k == first else v for k, v in raw.items()}
