"""Durations in Go's writing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpbpf.settings import durations


@pytest.mark.parametrize(
    ("text", "ns", "canonical"),
    [
        ("0", 0, "0s"),
        ("0s", 0, "0s"),
        ("30s", 30 * 10**9, "30s"),
        ("15m", 900 * 10**9, "15m0s"),
        ("1h30m", 5400 * 10**9, "1h30m0s"),
        ("1.5h", 5400 * 10**9, "1h30m0s"),
        (".5s", 5 * 10**8, "500ms"),
        ("1s1ms", 1_001_000_000, "1.001s"),
        ("250ms", 250 * 10**6, "250ms"),
        ("1500us", 1_500_000, "1.5ms"),
        ("3µs", 3000, "3µs"),
        ("7ns", 7, "7ns"),
        ("-1m", -60 * 10**9, "-1m0s"),
        ("+2s", 2 * 10**9, "2s"),
        ("24h0m0s", 86400 * 10**9, "24h0m0s"),
    ],
)
def test_a_duration_is_read_and_written_as_go_does(text: str, ns: int, canonical: str) -> None:
    assert durations.nanoseconds(text) == ns
    assert durations.to_text(ns) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "s",
        "1 s",
        "1d",
        "1h30",
        "1.s.",
        "--1s",
        "1s\n",
        "300000000h",
        "\u0661s",
        "1e3s",
        "9" * 99,
    ],
)
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is"):
        durations.nanoseconds(text)


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_every_duration_comes_back(ns: int) -> None:
    assert durations.nanoseconds(durations.to_text(ns)) == ns


@given(st.text(max_size=80))
def test_no_text_does_worse_than_being_refused(text: str) -> None:
    try:
        durations.nanoseconds(text)
    except ValueError:
        return
