"""Reading the fields of a raw object, with errors that name the field.

Each reader takes a mapping and a key; null and absent are the same, as in the API.
A wrong value raises BadObject with the path from the object's root, such as
spec.ports[0].port; nothing else is ever raised.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from kpbpf import address
from kpbpf.address import Address
from kpbpf.errors import KpbpfError

T = TypeVar("T")
Raw = Mapping[Any, Any]

#: A DNS label: what Services, namespaces and ports may be called (RFC 1123).
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
MAX_PORT = 65535

_SHOWN = 40


class BadObject(KpbpfError):
    """An object, or one item in it, that cannot be used: the field, what belongs there, what is."""

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(field, expected, got)
        self.field, self.expected, self.got = field, expected, got

    def under(self, parent: str) -> BadObject:
        """The same error seen from one level up."""
        joint = "" if not self.field or self.field.startswith("[") else "."
        return BadObject(f"{parent}{joint}{self.field}", self.expected, self.got)

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, got {self.got}"


def shown(value: object) -> str:
    """A value in a few words, whatever it is and however large."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # As JSON: whatever is in it stays on one line, and can be printed.
        return json.dumps(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")
    if isinstance(value, int):
        return str(value) if -(2**64) < value < 2**64 else "a huge number"
    if isinstance(value, float):
        return str(value)
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return f"a {type(value).__name__}"


def mapping(value: object, what: str = "a mapping") -> Raw:
    """The value itself when it is a mapping."""
    if isinstance(value, dict):
        return value
    raise BadObject("", what, shown(value))


def section(raw: Raw, key: str) -> Raw:
    """A mapping, empty when absent."""
    value = raw.get(key)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise BadObject(key, "a mapping", shown(value))


def text(raw: Raw, key: str, default: str = "") -> str:
    """A string."""
    value = raw.get(key)
    if value is None:
        return default
    if isinstance(value, str):
        return value
    raise BadObject(key, "a string", shown(value))


def one_of(raw: Raw, key: str, choices: Mapping[str, T], default: str) -> T:
    """What the string at `key` stands for in `choices`."""
    value = raw.get(key)
    if value is None:
        value = default
    if isinstance(value, str) and value in choices:
        return choices[value]
    raise BadObject(key, " or ".join(choices), shown(value))


def flag(raw: Raw, key: str, default: bool) -> bool:
    """A boolean."""
    value = raw.get(key)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise BadObject(key, "true or false", shown(value))


def number(raw: Raw, key: str, low: int, high: int, default: int | None = None) -> int:
    """An integer from low to high; required when there is no default."""
    value = raw.get(key)
    if value is None and default is not None:
        return default
    # bool is an int in Python, not in the API.
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise BadObject(key, f"a number from {low} to {high}", shown(value))


def each(raw: Raw, key: str, read: Callable[[Any], T]) -> tuple[T, ...]:
    """Every item of a list, read by `read`; empty when absent."""
    value = raw.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadObject(key, "a list", shown(value))
    items: list[T] = []
    try:
        for item in value:
            items.append(read(item))  # noqa: PERF401 (len(items) is the index of the bad one)
    except BadObject as bad:
        raise bad.under(f"{key}[{len(items)}]") from None
    return tuple(items)


def within(raw: Raw, key: str, read: Callable[[Raw], T]) -> T:
    """A section read by `read`."""
    found = section(raw, key)
    try:
        return read(found)
    except BadObject as bad:
        raise bad.under(key) from None


def string(value: object) -> str:
    """A string that stands as an item of a list."""
    if isinstance(value, str):
        return value
    raise BadObject("", "a string", shown(value))


def ip(value: object) -> Address:
    """An IP address; leading zeros are decimal (SEMANTICS A10)."""
    if isinstance(value, str):
        # The strict reader knows nearly all of them, and is several times faster.
        for read in (address.from_text, address.from_text_sloppy):
            try:
                return read(value)
            except ValueError:
                continue
    raise BadObject("", "an IP address", shown(value))


def labels(metadata: Raw) -> dict[str, str]:
    """metadata.labels; every value a string."""
    found = section(metadata, "labels")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise BadObject(f"labels[{shown(name)}]", "a string", shown(value))
    return dict(found)


def port_name(raw: Raw) -> str:
    """The name of a port, "" when it has none."""
    name = raw.get("name")
    if name is None or name == "":
        return ""
    if isinstance(name, str) and LABEL.fullmatch(name):
        return sys.intern(name)
    raise BadObject("name", "a DNS label in lower case", shown(name))


@lru_cache(maxsize=4096)
def shared(value: tuple[T, ...]) -> tuple[T, ...]:
    """One object for equal tuples: thousands of endpoints share few hints and ports."""
    return value
