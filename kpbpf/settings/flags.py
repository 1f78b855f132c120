"""The flags of `kpbpf run`, as far as they are fields: which there are, and what they set.

Follows from the table in schema.py. The command line makes a parser of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kpbpf.settings import kinds
from kpbpf.settings.schema import BY_PATH, FIELDS, Field
from kpbpf.settings.settings import Asked

PORTS = {"healthz-port": "healthzBindAddress", "metrics-port": "metricsBindAddress"}
"""Deprecated flags that only replace the port of an address, and the address."""

PORT = kinds.whole(0, 65535)


def by_name() -> Mapping[str, tuple[Field, ...]]:
    """Every flag that sets fields, without dashes."""
    found: dict[str, tuple[Field, ...]] = {}
    for field in FIELDS:
        if field.flag:
            found[field.flag] = (*found.get(field.flag, ()), field)
    return found


def path(name: str) -> str:
    """The (first) field that a flag sets."""
    return PORTS.get(name) or by_name()[name][0].path


def reader(name: str) -> Callable[[str], Any]:
    """A function from a flag's words to its canonical value; ValueError says what is expected."""
    kind = PORT if name in PORTS else by_name()[name][0].kind

    def read(text: str) -> Any:
        try:
            return kind.read(kind.from_text(text))
        except (ValueError, TypeError):
            one = kind.item if kind.item and kind.empty == [] else kind
            raise ValueError(f"expected {one.expected}, got {text!r}") from None

    return read


def values(asked: Asked) -> dict[str, Any]:
    """What the flags say, by the paths of the fields they set."""
    found: dict[str, Any] = {}
    flags = by_name()
    for name, value in asked.flags:
        for field in flags.get(name, ()):
            if field.zero_counts or value != field.kind.empty:
                found[field.path] = not value if name.startswith("no-") else value
    for name, value in asked.flags:
        if name in PORTS and value == 0:
            found[PORTS[name]] = kinds.OFF
        elif name in PORTS:
            host = BY_PATH[PORTS[name]].default.rpartition(":")[0]
            found.setdefault(PORTS[name], f"{host}:{value}")
    return found
