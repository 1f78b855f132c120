"""Reads a KubeProxyConfiguration file strictly: every mistake in it is named, with its line.

Gives the values that somebody set, in canonical form; what they mean is found in effective.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from kpbpf.errors import Fix
from kpbpf.settings import schema
from kpbpf.settings.document import MAX_BYTES, Broken, Entry, Value, parse, plain
from kpbpf.settings.kinds import Kind
from kpbpf.settings.schema import Field, Section

_MISTAKES_TOLD = 10
_MISTAKES_LOOKED_FOR = 500
_CONFIG_MAP = "this is the ConfigMap: give the file that it holds, which is its key config.conf"

Mistake = tuple[int, str]
"""A line, and what is wrong there."""


def read(path: Path) -> dict[str, Any]:
    """The values of a file by their paths; a Fix names the file and all mistakes."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Fix(
            f"the configuration {path} cannot be read",
            reason,
            "give --config the path of a file that exists and may be read",
        ) from None
    return decode(content, str(path))


def decode(content: bytes, name: str) -> dict[str, Any]:
    """The same for a file's content."""
    mistakes: list[Mistake] = []
    values: dict[str, Any] = {}
    try:
        root = parse(content)
    except Broken as error:
        mistakes.append((error.line, str(error)))
    else:
        mistakes += _identity(root)
        if not mistakes:
            entries = [each for each in root.raw if each.name not in ("apiVersion", "kind")]
            found = _section(entries, schema.sections(), "", values)
            mistakes += islice(found, _MISTAKES_LOOKED_FOR)
    if mistakes:
        raise _complaint(name, mistakes)
    return values


def _complaint(name: str, mistakes: list[Mistake]) -> Fix:
    told = [f"line {line}: {what}" if line else what for line, what in sorted(mistakes)]
    if len(told) > _MISTAKES_TOLD:
        told[_MISTAKES_TOLD:] = [f"and {len(told) - _MISTAKES_TOLD} more"]
    return Fix(
        f"{name} is not a valid configuration",
        "\n       ".join(told),
        "correct the file; `kpbpf run --write-config-to FILE` writes one with every field",
    )


def _identity(root: Value) -> Iterator[Mistake]:
    """Whether it is a KubeProxyConfiguration at all; nothing else is said of one that is not."""
    if root.shape != "mapping":
        yield root.line, f"expected a {schema.KIND}, got {root.text}"
        return
    found = {entry.name: entry.value for entry in reversed(root.raw)}
    kind = found.get("kind")
    if kind is not None and kind.raw == "ConfigMap":
        yield kind.line, _CONFIG_MAP
        return
    names = [entry.name for entry in root.raw]
    for field, expected in (("apiVersion", schema.API_VERSION), ("kind", schema.KIND)):
        value = found.get(field)
        if names.count(field) > 1:
            yield root.line, f"{field} is given twice"
        if value is None:
            yield root.line, f"{field} is missing: expected {field}: {expected}"
        elif value.raw != expected:
            yield value.line, f"{field}: expected {expected}, got {value.text}"


def _section(
    entries: list[Entry], fields: Section, path: str, values: dict[str, Any]
) -> Iterator[Mistake]:
    """Read the fields of one section into `values`."""
    first: dict[str, int] = {}
    for name, line, value in entries:
        place = f"{path}{name}"
        field = fields.get(name)
        if name in first:
            yield line, f"{place} is given twice, first in line {first[name]}"
        elif field is None:
            yield line, f"{place} is not a field{_closest(name, fields, path)}"
        elif isinstance(field, Field):
            yield from _field(field, value, values)
        elif value.shape == "mapping":
            yield from _section(value.raw, field, f"{place}.", values)
        elif value.raw is not None:
            known = ", ".join(list(field)[:3])
            yield line, f"{place}: expected a section with {known}, ..., got {value.text}"
        first.setdefault(name, line)


def _field(field: Field, value: Value, values: dict[str, Any]) -> Iterator[Mistake]:
    if value.raw is None:
        return
    mistakes = list(_mistakes(field.path, field.kind, value))
    yield from mistakes
    if not mistakes:
        canonical = field.kind.read(plain(value))
        if field.zero_counts or canonical != field.kind.empty:
            values[field.path] = canonical


def _mistakes(path: str, kind: Kind, value: Value) -> Iterator[Mistake]:
    """What is wrong with one value: of a list or map, with which of its items."""
    shape = "mapping" if isinstance(kind.empty, dict) else "list"
    if kind.item is not None and value.shape == shape:
        items = ((f"[{number}]", item) for number, item in enumerate(value.raw))
        if shape == "mapping":
            yield from _repeated(path, value.raw)
            items = ((f".{entry.name}", entry.value) for entry in value.raw)
        for name, item in items:
            yield from _mistakes(f"{path}{name}", kind.item, item)
        return
    try:
        kind.read(plain(value))
    except (ValueError, TypeError):
        yield value.line, f"{path}: expected {kind.expected}, got {value.text}"


def _repeated(path: str, entries: list[Entry]) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for name, line, _ in entries:
        if name in first:
            yield line, f"{path}.{name} is given twice, first in line {first[name]}"
        first.setdefault(name, line)


def _closest(name: str, fields: Section, path: str) -> str:
    """Which field may have been meant: one of the same section, or of that name elsewhere."""
    by_lower = {known.lower(): f"{path}{known}" for known in fields}
    close = difflib.get_close_matches(name[:100].lower(), by_lower, n=1)
    elsewhere = [field.path for field in schema.FIELDS if field.path.endswith(f".{name}")]
    meant = [by_lower[word] for word in close] or elsewhere
    return f"; did you mean {meant[0]}?" if meant else ""
