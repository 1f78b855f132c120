"""Reading the fields of a raw object, with errors that name the field.

Each reader takes a mapping and a key; null and absent are the same, as in the API.
A wrong value raises BadObject with the path from the object's root, such as
spec.ports[0].port; nothing else is ever raised. What is kept of an object is bounded: lists and
strings of any length are refused, whoever let them into the API.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from operator import length_hint
from typing import Any, TypeVar

from kpbpf.errors import KpbpfError

T = TypeVar("T")
Raw = Mapping[Any, Any]

MAX_PORT = 65535

#: Items that a list may have: far more than anybody needs, and read in less than a second.
MAX_ITEMS = 65536

#: Characters that a string may have, if it is kept: as many as the longest name.
MAX_TEXT = 253

#: Of the items of one list that cannot be used, those that are named.
MAX_REMARKS = 10

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
    """A string of at most MAX_TEXT characters."""
    value = raw.get(key)
    if value is None:
        return default
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        return value
    raise _no_text(key, value)


def _no_text(key: str, value: object) -> BadObject:
    if isinstance(value, str):
        expected = f"a string of at most {MAX_TEXT} characters"
        return BadObject(key, expected, f"one of {len(value):,}")
    return BadObject(key, "a string", shown(value))


def one_of(raw: Raw, key: str, choices: Mapping[str, T], default: str) -> T:
    """What the string at `key` stands for in `choices`."""
    value = raw.get(key)
    if value is None:
        value = default
    if isinstance(value, str) and value in choices:
        return choices[value]
    raise BadObject(key, " or ".join(choices), shown(raw.get(key)))


def flag(raw: Raw, key: str, default: bool) -> bool:
    """A boolean."""
    value = raw.get(key)
    if value is None:
        return default
    if value is True or value is False:
        return value
    raise BadObject(key, "true or false", shown(value))


def number(raw: Raw, key: str, low: int, high: int, default: int | None = None) -> int:
    """An integer from low to high; required when there is no default."""
    value = raw.get(key)
    if value is None and default is not None:
        return default
    # Not isinstance: bool is an int in Python, not in the API.
    if type(value) is int and low <= value <= high:
        return value
    raise BadObject(key, f"a number from {low} to {high}", shown(value))


def each(raw: Raw, key: str, read: Callable[[Any], T], at_most: int = MAX_ITEMS) -> tuple[T, ...]:
    """Every item of a list, read by `read`; empty when absent."""
    value = raw.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadObject(key, "a list", shown(value))
    if len(value) > at_most:
        raise BadObject(key, f"a list of at most {at_most:,}", f"one of {len(value):,}")
    left = iter(value)
    try:
        return tuple(map(read, left))
    except BadObject as bad:
        # What is left behind the bad one tells its index.
        raise bad.under(f"{key}[{len(value) - length_hint(left) - 1}]") from None


def usable(
    raw: Raw, key: str, read: Callable[[object], T], remarks: list[BadObject]
) -> tuple[T, ...]:
    """The items that can be read; the others are remarked on and left out (SEMANTICS A10)."""
    if raw.get(key) is None:
        return ()
    good: list[T] = []
    unusable = 0
    for index, value in enumerate(each(raw, key, lambda value: value)):
        try:
            good.append(read(value))
        except BadObject as bad:
            unusable += 1
            if unusable <= MAX_REMARKS:
                remarks.append(bad.under(f"{key}[{index}]"))
    if unusable > MAX_REMARKS:
        got = f"{unusable - MAX_REMARKS:,} more that are not"
        remarks.append(BadObject(key, "items that can be used", got))
    return tuple(good)


def within(raw: Raw, key: str, read: Callable[[Raw], T]) -> T:
    """A section read by `read`."""
    found = section(raw, key)
    try:
        return read(found)
    except BadObject as bad:
        raise bad.under(key) from None


def string(value: object) -> str:
    """A string that stands as an item of a list."""
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        return value
    raise _no_text("", value)
