"""All that is known of one Service, for people who ask: a value, and no more."""

from __future__ import annotations

from typing import NamedTuple

from kpbpf.model.endpoint import EndpointSlice
from kpbpf.model.objects import Node
from kpbpf.model.service import Service


class Known(NamedTuple):
    """One Service, as the main loop saw it at one moment.

    `lost` are packed FrontendKeys that it claims in vain, each with the Service (namespace/name)
    that is served there. `waiting`: something of it is not in the maps yet. `failed` says why a
    Service port could not be written, by its name; `held` are those that stay as an earlier
    process left them.
    """

    service: Service
    slices: tuple[EndpointSlice, ...]
    node: Node
    lost: list[tuple[bytes, str]]
    waiting: bool
    failed: dict[str, str]
    held: list[str]
