"""What the Service maps should hold, as plain values: made by kpbpf.compile, written by maps.sync.

Knows the packed layouts, and no table.
"""

from __future__ import annotations

from dataclasses import dataclass

#: (address, port, MemberFlag bits): an endpoint that UDP flows or affinity may still name.
MemberOf = tuple[bytes, int, int]

#: (packed FrontendKey, FrontendFlag bits): where a Service port is reached, and what holds there.
FrontendOf = tuple[bytes, int]

#: (prefix 0 to 128 of the 16-byte address, address): clients that may reach a Service port.
RangeOf = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class WantedService:
    """One Service port in one family.

    No two of `frontends` have the same key. `backends` is packed Backends one after the other: the
    cluster set, `count` of them, then the set of this node, `local_count` of them. Equal values
    mean equal maps, so both sets stand in order of address and port. `members` is empty unless
    the protocol is UDP or there is affinity. `ranges` hold for the frontends with SOURCE_RANGES.
    """

    name: str
    proto: int
    frontends: tuple[FrontendOf, ...]
    affinity_sec: int
    backends: bytes
    count: int
    local_count: int
    members: tuple[MemberOf, ...] = ()
    ranges: tuple[RangeOf, ...] = ()

    @property
    def keys(self) -> list[bytes]:
        """The packed FrontendKeys."""
        return [key for key, _ in self.frontends]
