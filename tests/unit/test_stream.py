"""Tests of the bytes of a watch as JSON values, hostile lines included."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpbpf.kube.refusals import Garbled
from kpbpf.kube.stream import BadLine, values


def reader(*pieces: bytes) -> Callable[[], bytes]:
    """Hands out the pieces, one a call, and then the end."""
    rest: Iterator[bytes] = iter(pieces)
    return lambda: next(rest, b"")


def reasons(*pieces: bytes, bound: int = 1000) -> list[object]:
    """Values, and of bad lines what is said of them."""
    found = values(reader(*pieces), bound)
    return [value.reason if isinstance(value, BadLine) else value for value in found]


def test_each_line_is_a_value_and_empty_lines_are_none() -> None:
    assert reasons(b'{"a":1}\n\n[2]\n', b"\r\n3\n") == [{"a": 1}, [2], 3]


def test_a_value_is_there_before_the_next_line_is() -> None:
    pieces = [b'"first"\n', b'"second"\n']
    found = values(lambda: pieces.pop(0) if pieces else b"")
    assert next(found) == "first"
    assert pieces == [b'"second"\n'], "nothing was read ahead"


@given(st.lists(st.recursive(st.integers() | st.text(), st.lists, max_leaves=5)), st.data())
def test_where_the_bytes_are_cut_makes_no_difference(
    lines: list[object], data: st.DataObject
) -> None:
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges) if a < b]
    assert list(values(reader(*pieces))) == lines


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a":', "no JSON at offset 5: Expecting value"),
        (b'{"a":"\xff"}', "a byte that is not UTF-8 at offset 6"),
        (b"[" * 100_000, "JSON that is nested too deeply"),
        (b"1" * 10_000, "a number with too many digits"),
    ],
)
def test_a_bad_line_harms_only_itself(line: bytes, reason: str) -> None:
    assert reasons(b"1\n", line + b"\n", b"2\n", bound=1_000_000) == [1, reason, 2]


def test_a_line_that_is_too_long_is_not_kept_and_harms_only_itself() -> None:
    pieces = [b"1\n", *[b"x" * 300] * 10, b"\n2\n"]
    assert reasons(*pieces) == [1, "a line of more than 1,000 bytes", 2]


def test_a_long_line_in_one_piece_is_as_bad() -> None:
    assert reasons(b"1\n" + b"x" * 1001 + b"\n2\n") == [1, "a line of more than 1,000 bytes", 2]


def test_a_stream_that_ends_within_a_line_is_broken() -> None:
    found = values(reader(b'1\n{"a":'))
    assert next(found) == 1
    with pytest.raises(Garbled, match="ended within a line"):
        next(found)


def test_a_whole_value_without_a_line_end_counts() -> None:
    assert reasons(b'1\n{"a":2}') == [1, {"a": 2}]
