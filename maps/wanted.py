"""What the Service maps should hold, as plain values: made by kpbpf.compile, written by maps.sync.

Knows the packed layouts, and no table.
"""

from __future__ import annotations

from dataclasses import dataclass

#: (address, port, MemberFlag bits): an endpoint that UDP flows or affinity may still name.
MemberOf = tuple[bytes, int, int]


@dataclass(frozen=True, slots=True)
class WantedService:
    """One Service port in one family.

    `frontends` are packed FrontendKeys; `backends` is packed Backends one after the other: the
    cluster set, `count` of them, then the set of this node, `local_count` of them. Equal values
    mean equal maps, so both sets stand in order of address and port. `members` is empty unless
    the protocol is UDP or there is affinity.
    """

    name: str
    proto: int
    frontends: tuple[bytes, ...]
    flags: int
    affinity_sec: int
    backends: bytes
    count: int
    local_count: int
    members: tuple[MemberOf, ...] = ()
