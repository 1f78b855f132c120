"""Faults that tests order: which requests they meet, how often, and what they do to the answer.

What a fault does to the bytes on the wire is done in wire.py.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What happens to the answer."""

    DROP = "drop"
    """The connection is reset, before the answer or after `after_bytes` of its body."""
    CLOSE = "close"
    """The same, but the connection ends orderly: the body is cut, without its last chunk."""
    STALL = "stall"
    """Nothing more comes after `after_bytes` of the body, until the fault is lifted."""
    STATUS = "status"
    """The answer is an error: `code`, and Retry-After with `retry_after_sec`; 429 is plain text."""
    SLOW = "slow"
    """`bytes_per_sec` of the body, from `after_bytes` on."""
    GARBAGE = "garbage"
    """`line` stands between two lines of the body, after `after_bytes` at the earliest."""
    CONTENT_TYPE = "content-type"
    """The answer states `content_type`, and is `line` where there is one."""
    ERROR_EVENT = "error-event"
    """A watch gets an ERROR event with `code` after `after_bytes`, and ends."""


@dataclass
class Fault:
    """One order. `resource` is a plural, `verb` as in RBAC (list, watch, get ...); "" is any.

    `after_bytes` -1 means before the headers of the answer. `times` None: until lifted.
    """

    kind: Kind
    resource: str = ""
    verb: str = ""
    times: int | None = 1
    after_bytes: int = -1
    code: int = 503
    retry_after_sec: int | None = None
    bytes_per_sec: int = 1000
    line: bytes = b"!! not JSON"
    content_type: str = "text/html"
    hits: int = 0
    lifted: threading.Event = field(default_factory=threading.Event, repr=False)

    def lift(self) -> None:
        """Take it back: no further request meets it, and answers that stall go on."""
        self.lifted.set()

    def meets(self, resource: str, verb: str) -> bool:
        """Is this request one that the fault is for?"""
        return (
            not self.lifted.is_set()
            and (self.times is None or self.hits < self.times)
            and self.resource in ("", resource)
            and self.verb in ("", verb)
            and (self.kind is not Kind.ERROR_EVENT or verb == "watch")
        )


class Faults:
    """The orders that are open. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: list[Fault] = []

    def add(self, kind: Kind | str, resource: str = "", verb: str = "", **more: Any) -> Fault:
        """Order a fault; `more` are fields of Fault. Keep what is returned to lift it."""
        fault = Fault(Kind(kind), resource, verb, **more)
        with self._lock:
            self._orders.append(fault)
        return fault

    def take(self, resource: str, verb: str) -> Fault | None:
        """The oldest order for this request, which is counted as done once more."""
        with self._lock:
            for fault in self._orders:
                if fault.meets(resource, verb):
                    fault.hits += 1
                    return fault
        return None

    def clear(self) -> None:
        """Take all back."""
        with self._lock:
            orders, self._orders = self._orders, []
        for fault in orders:
            fault.lift()
