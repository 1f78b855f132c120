"""The bytes of a watch to JSON values, one a line.

This is the hot path: 60,000 objects pass here when a node starts. A line that cannot be
decoded harms only itself; it is handed on as a BadLine, so that somebody can name it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kpbpf.kube.refusals import Garbled

#: etcd takes 1.5 MiB; a longer line is a mistake or an attack, and is not kept in memory.
MAX_LINE_BYTES = 64 << 20

_decode = json.JSONDecoder().decode


class BadLine(NamedTuple):
    """A line that is no JSON, and what is wrong with it."""

    reason: str


def values(read: Callable[[], bytes], max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Any]:
    """Every line's value, or a BadLine; `read` hands out bytes as they come, b"" at the end.

    Garbled when the stream ends within a line. Empty lines are left out.
    """
    parts: list[bytes] = []
    size = 0
    while data := read():
        first, *rest = data.split(b"\n")
        size += len(first)
        if size <= max_line_bytes:
            # Joined only once the line is whole: a long one comes in thousands of pieces.
            parts.append(first)
        else:
            parts.clear()
        if not rest:
            continue
        yield from _line(b"".join(parts), size, max_line_bytes)
        last = rest.pop()
        for line in rest:
            yield from _line(line, len(line), max_line_bytes)
        parts, size = [last], len(last)
    if size:
        # Some servers leave out the last line end; half a line is never valid JSON.
        for value in _line(b"".join(parts), size, max_line_bytes):
            if isinstance(value, BadLine):
                raise Garbled("the stream ended within a line")
            yield value


def value_of(text: bytes) -> Any:
    """The JSON value of some text; a BadLine when it has none."""
    try:
        return _decode(text.decode())
    except UnicodeDecodeError as error:
        return BadLine(f"a byte that is not UTF-8 at offset {error.start}")
    except json.JSONDecodeError as error:
        return BadLine(f"no JSON at offset {error.pos}: {error.msg}")
    except RecursionError:
        return BadLine("JSON that is nested too deeply")
    except ValueError:
        return BadLine("a number with too many digits")


def _line(line: bytes, size: int, max_line_bytes: int) -> Iterator[Any]:
    if size > max_line_bytes:
        yield BadLine(f"a line of more than {max_line_bytes:,} bytes")
    elif line and not line.isspace():
        yield value_of(line)
