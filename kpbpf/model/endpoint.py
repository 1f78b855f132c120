"""EndpointSlices and their endpoints (SEMANTICS A2, A6 to A8).

There may be 100,000 endpoints: they are plain tuples, and what many of them share (node
names, hints) is one object.
"""

from __future__ import annotations

from typing import NamedTuple

from kpbpf.address import Address
from kpbpf.model.objects import Key

#: Conditions of an endpoint, as bits of Endpoint.conditions.
READY, SERVING, TERMINATING = 1, 2, 4


class Endpoint(NamedTuple):
    """One endpoint of a slice. `node` is "" when unknown, which counts as remote (A8)."""

    addr: Address
    node: str
    conditions: int
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()


class EndpointPort(NamedTuple):
    """A port of all endpoints of a slice; tied to the Service port of the same name."""

    name: str
    proto: int
    port: int


class EndpointSlice(NamedTuple):
    """One slice. `service` is "" when it belongs to none that is ours (A2, A6).

    `family` is "IPv4" or "IPv6"; a slice of FQDNs has no endpoints. `triggered` is when what led
    to this state happened, in seconds of the Unix epoch; 0.0 when the object does not say.
    """

    namespace: str
    name: str
    service: str
    family: str
    ports: tuple[EndpointPort, ...]
    endpoints: tuple[Endpoint, ...]
    triggered: float = 0.0

    @property
    def service_path(self) -> str:
        """namespace/name of its Service."""
        return f"{self.namespace}/{self.service}"

    @property
    def key(self) -> Key:
        """EndpointSlice namespace/name."""
        return Key("EndpointSlice", self.namespace, self.name)
