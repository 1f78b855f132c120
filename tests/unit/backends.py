"""Packed backends from text, for tests of what the maps hold."""

from __future__ import annotations

from kpbpf.cli.options import ip_and_port
from maps.abi import Backend


def packed(*backends: str) -> bytes:
    """Backends as WantedService has them: "10.1.0.1:8080" one behind the other."""
    return b"".join(Backend(*ip_and_port(text), 0).pack() for text in backends)
