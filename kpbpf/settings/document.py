"""The text of a configuration file to values that know their line. Knows no field.

YAML, of which JSON is a part. Aliases, tags of one's own, several documents and deep nesting
are refused before anything is built: whatever the text is, nothing but Broken is raised.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

from kpbpf.errors import KpbpfError

MAX_DEPTH = 30
MAX_BYTES = 1 << 20
"""What a ConfigMap can hold."""

_SHOWN = 60

# What PyYAML's constructors raise when a value is not what its tag says (!!int x, !!bool x).
_CONSTRUCTION = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Broken(KpbpfError):
    """The text is not YAML or JSON that we read; `line` counts from 1, 0 is unknown."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class Value(NamedTuple):
    """One value: a scalar, a list of Values, or a list of Entries (a mapping)."""

    raw: Any
    """Of a scalar: what it is in Python; otherwise its items."""
    line: int
    shape: str
    """"scalar", "list" or "mapping"."""
    text: str
    """How a message shows it."""


class Entry(NamedTuple):
    """One key of a mapping, which may occur twice."""

    name: str
    line: int
    value: Value


def parse(content: bytes) -> Value:
    """Read a file's content; Broken when it is not one readable document."""
    if len(content) > MAX_BYTES:
        raise Broken(f"the file is larger than {MAX_BYTES >> 20} MiB", 0)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Broken("this is not text in UTF-8", line) from None
    if text.lstrip()[:1] == "{":
        text = text.replace("\t", " ")  # JSON may be indented with tabs, YAML may not
    try:
        _refuse_tricks(text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise _told(error) from None
    return _value(node) if node is not None else Value(None, 1, "scalar", "nothing")


def plain(value: Value) -> Any:
    """The value without lines, as json.loads would give it."""
    if value.shape == "list":
        return [plain(item) for item in value.raw]
    if value.shape == "mapping":
        return {entry.name: plain(entry.value) for entry in value.raw}
    return value.raw


def _refuse_tricks(text: str) -> None:
    """Walk the parser's events, which needs no stack and expands nothing."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise Broken("aliases (*name) are not understood: write the value out", line)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise Broken("a second document starts here: one is expected", line)
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise Broken(f"nesting deeper than {MAX_DEPTH}", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _value(node: yaml.Node) -> Value:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return Value([_value(item) for item in node.value], line, "list", "a list")
    if isinstance(node, yaml.MappingNode):
        entries = [
            Entry(_name(key), key.start_mark.line + 1, _value(value)) for key, value in node.value
        ]
        return Value(entries, line, "mapping", "a section")
    try:
        raw = yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, *_CONSTRUCTION):
        raise Broken(f"{_cut(node.value)} is not what its tag says", line) from None
    text = "nothing" if raw is None else _cut(node.value) if isinstance(raw, str) else node.value
    return Value(raw, line, "scalar", text if len(text) <= _SHOWN + 10 else text[:_SHOWN] + "...")


def _name(key: yaml.Node) -> str:
    if not isinstance(key, yaml.ScalarNode):
        raise Broken("a name is expected here", key.start_mark.line + 1)
    return str(key.value)


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _told(error: yaml.YAMLError) -> Broken:
    mark = getattr(error, "problem_mark", None)
    told = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    return Broken(" ".join(str(told).split()), mark.line + 1 if mark else 0)
