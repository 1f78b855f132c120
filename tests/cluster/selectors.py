"""Label and field selectors: from their text to "does this object match?".

Which fields a resource supports is in resources.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.cluster import failures
from tests.cluster.resources import Resource

Test = Callable[[Mapping[str, str]], bool]

_KEY = r"(?:[a-zA-Z0-9.-]+/)?[a-zA-Z0-9](?:[a-zA-Z0-9._-]*[a-zA-Z0-9])?"
_VALUE = r"[a-zA-Z0-9._-]*"
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_EQUALS = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_IN = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_FIELD = re.compile(r"([^=!,]+?)(==|=|!=)(.*)")


class Selector(NamedTuple):
    """What is asked of labels and of fields; an object must pass every test."""

    labels: tuple[Test, ...] = ()
    fields: tuple[Test, ...] = ()
    name: str = ""
    """The one name that metadata.name asks for."""
    node: str = ""
    """The one node that spec.nodeName asks for."""

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        """Does an object with these labels and fields match?"""
        return all(test(labels) for test in self.labels) and all(
            test(fields) for test in self.fields
        )


def read(labels: str, fields: str, resource: Resource) -> Selector:
    """The selector of a request; Failure 400 when it cannot be read or is not supported."""
    tests, name, node = [], "", ""
    for part in _split(fields):
        found = _FIELD.fullmatch(part)
        if not found:
            raise failures.bad_request(f'invalid selector: "{fields}"; can\'t understand "{part}"')
        field, operator, value = found.groups()
        if field not in resource.fields:
            raise failures.bad_request(resource.unsupported(field))
        tests.append(_equal(field, value, operator != "!="))
        if field == "metadata.name" and operator != "!=":
            name = value
        if field == "spec.nodeName" and operator != "!=":
            node = value
    wanted = tuple(_label(part, labels) for part in _split(labels))
    return Selector(wanted, tuple(tests), name, node)


def _label(part: str, whole: str) -> Test:
    if found := _EQUALS.fullmatch(part):
        key, operator, value = found.groups()
        return _one_of(key, {value}, wanted=operator != "!=")
    if found := _IN.fullmatch(part):
        key, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        return _one_of(key, values, wanted=operator == "in")
    if found := _EXISTS.fullmatch(part):
        key, absent = found[2], bool(found[1])
        return lambda labels: (key in labels) != absent
    raise failures.bad_request(f"unable to parse requirement: {part!r} in {whole!r}")


def _one_of(key: str, values: set[str], *, wanted: bool) -> Test:
    """A label with one of the values; the opposite holds for objects without the label too."""
    if wanted:
        return lambda labels: key in labels and labels[key] in values
    return lambda labels: key not in labels or labels[key] not in values


def _equal(field: str, value: str, wanted: bool) -> Test:
    return lambda fields: (fields.get(field, "") == value) == wanted


def _split(text: str) -> list[str]:
    """The requirements: commas part them, but not within parentheses."""
    parts = re.split(r",(?![^(]*\))", text) if text.strip() else []
    return [part.strip() for part in parts]
