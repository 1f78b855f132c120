"""Durations as Go and Kubernetes write them: "30s", "1h30m", "1.5h", "250ms", "0s".

Nanoseconds in between, because that is what Go counts in and what comes back without rounding.
"""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LONGEST_NS = 2**63 - 1
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_LONGEST_TEXT = 64


def nanoseconds(text: str) -> int:
    """Read a duration; ValueError on anything that Go would refuse."""
    sign, body = (text[0], text[1:]) if text[:1] in ("-", "+") else ("", text)
    if body == "0":
        return 0
    parts = list(_PART.finditer(body)) if len(text) <= _LONGEST_TEXT and body.isprintable() else []
    if not body or "".join(part[0] for part in parts) != body:
        raise ValueError(f"{text!r} is not a duration")
    total = sum(int(Decimal(part[1]) * _UNITS_NS[part[2]]) for part in parts)
    if total > _LONGEST_NS:
        raise ValueError(f"{text!r} is longer than 292 years")
    return -total if sign == "-" else total


def to_text(ns: int) -> str:
    """Write a duration as Go does: "1h0m0s", "15m0s", "1.5s", "250ms", "0s"."""
    sign, rest = ("-", -ns) if ns < 0 else ("", ns)
    if rest < 1_000_000_000:
        if rest == 0:
            return "0s"
        unit = "ms" if rest >= 1_000_000 else "µs" if rest >= 1_000 else "ns"
        return f"{sign}{_fraction(rest, _UNITS_NS[unit])}{unit}"
    minutes, rest = divmod(rest, _UNITS_NS["m"])
    hours, minutes = divmod(minutes, 60)
    leading = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{leading}{_fraction(rest, _UNITS_NS['s'])}s"


def seconds(text: str) -> float:
    """Read a duration in seconds."""
    return nanoseconds(text) / 1_000_000_000


def _fraction(amount: int, unit: int) -> str:
    whole, rest = divmod(amount, unit)
    digits = str(rest).zfill(len(str(unit)) - 1).rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
