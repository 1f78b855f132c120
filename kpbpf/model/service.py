"""A Service as kube-proxy reads it (SEMANTICS A1, A5, A11, A12, A26 to A34).

All addresses and ports that a Service can be reached by are kept.
"""

from __future__ import annotations

from typing import NamedTuple

from kpbpf.address import Address
from kpbpf.model.labels import Labels
from kpbpf.model.objects import Block, Key

#: IP protocol numbers of the protocols a Service may have.
TCP, UDP, SCTP = 6, 17, 132
PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}

#: Ports that one Service may have: each takes a frontend per address, of 262,144 in all.
MAX_PORTS = 4096

#: Seconds of sessionAffinity ClientIP when the object names none (A34).
DEFAULT_AFFINITY_SEC = 10800


class ServicePort(NamedTuple):
    """One port of a Service; `name` is "" when it is the only one, `node_port` 0 when none."""

    name: str
    proto: int
    port: int
    node_port: int


class Service(NamedTuple):
    """One Service.

    `cluster_ips` holds at most one address per family, and is empty for a headless Service,
    for type ExternalName, and before an address is allocated. `affinity_sec` 0 is no affinity.
    `created` is in seconds of the Unix epoch; 0.0 where nobody says, as in a manifest. `uid` is ""
    there.
    """

    namespace: str
    name: str
    type: str
    cluster_ips: tuple[Address, ...]
    ports: tuple[ServicePort, ...]
    headless: bool = False
    other_proxy: bool = False
    internal_local: bool = False
    external_local: bool = False
    affinity_sec: int = 0
    external_ips: tuple[Address, ...] = ()
    load_balancer_ips: tuple[Address, ...] = ()
    source_ranges: tuple[Block, ...] = ()
    health_check_port: int = 0
    labels: Labels = ()
    created: float = 0.0
    uid: str = ""

    @property
    def key(self) -> Key:
        """Service namespace/name."""
        return Key("Service", self.namespace, self.name)

    @property
    def external(self) -> bool:
        """Whether it has addresses or ports for clients outside the cluster (A21)."""
        return self.type in ("NodePort", "LoadBalancer") or bool(self.external_ips)

    @property
    def served(self) -> bool:
        """Whether this proxy has anything to do with it (A1, A5)."""
        return not (self.headless or self.other_proxy or self.type == "ExternalName")
