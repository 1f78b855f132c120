"""The text of a manifest to raw objects: YAML of several documents, JSON, and lists of objects.

Holds no Kubernetes knowledge but that a List carries items. Whatever the text is, nothing
but Undecodable is raised; the process neither dies of deep nesting nor of odd tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from kpbpf.errors import KpbpfError

#: A manifest deeper than this is refused: the C library would run out of stack, and die.
MAX_DEPTH = 200

# What PyYAML's constructors raise when a value is not what its tag says (!!int x, !!bool x).
_CONSTRUCTION = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)

_DEEP_BLOCK = re.compile(rf"^[ \t\-?:]{{{MAX_DEPTH}}}", re.MULTILINE)


class Undecodable(KpbpfError):
    """The text is not what its name says; str() tells what, and where in the text."""


class Document(NamedTuple):
    """One raw object; `place` says where in its file: "document 2", "document 1 item 5"."""

    place: str
    raw: Any


def documents(text: str, is_json: bool) -> Iterator[Document]:
    """Raw objects of a manifest, in order; empty documents are left out.

    Raises Undecodable, possibly after some documents: use none of them then.
    """
    found = _json(text) if is_json else _yaml_or_json(text)
    for number, raw in enumerate(found, 1):
        if raw is not None:
            yield from _unlisted(raw, f"document {number}")


def _unlisted(raw: Any, place: str) -> Iterator[Document]:
    """The object itself, or the items of a List (kind List, ServiceList, ...)."""
    kind = raw.get("kind") if isinstance(raw, dict) else None
    items = raw.get("items") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or not kind.endswith("List") or not isinstance(items, list):
        yield Document(place, raw)
        return
    for number, item in enumerate(items, 1):
        named = item
        if isinstance(item, dict) and "kind" not in item and kind != "List":
            # Items of a typed list leave out what the list's own kind already says.
            implied = {"apiVersion": raw.get("apiVersion"), "kind": kind.removesuffix("List")}
            named = {**implied, **item}
        yield Document(f"{place} item {number}", named)


def _json(text: str) -> Iterator[Any]:
    """JSON values, one after the other."""
    decoder = json.JSONDecoder()
    position = 0
    while (start := _skip_blanks(text, position)) < len(text):
        try:
            raw, position = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise Undecodable(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
        except ValueError as error:
            raise Undecodable(str(error)) from None
        except RecursionError:
            raise Undecodable("nesting that is too deep") from None
        yield raw


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _yaml_or_json(text: str) -> Iterator[Any]:
    """JSON in a YAML file is read as JSON, which is many times faster."""
    if text.lstrip()[:1] == "{":
        try:
            return iter(list(_json(text)))
        except Undecodable:
            pass  # braces of YAML's own
    return _yaml(text)


def _yaml(text: str) -> Iterator[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if _may_be_deep(text):
            _refuse_depth(text, loader)
        yield from yaml.load_all(text, Loader=loader)
    except yaml.YAMLError as error:
        raise Undecodable(_told(error)) from None
    except _CONSTRUCTION as error:
        raise Undecodable(f"a value that contradicts its tag ({error})") from None
    except RecursionError:
        raise Undecodable("nesting that is too deep") from None


def _may_be_deep(text: str) -> bool:
    """Cheap and never wrong when it says no: depth needs brackets, or indentation."""
    return text.count("[") + text.count("{") > MAX_DEPTH or bool(_DEEP_BLOCK.search(text))


def _refuse_depth(text: str, loader: Any) -> None:
    """Walk the parser's events, which needs no stack, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise Undecodable(f"nesting deeper than {MAX_DEPTH}{_at(event.start_mark)}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _told(error: yaml.YAMLError) -> str:
    """The parser's complaint in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem or error.context}{_at(error.problem_mark)}"
    return " ".join(str(error).split())


def _at(mark: Any) -> str:
    return f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
