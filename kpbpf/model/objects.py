"""The key of an object, and the small ones: Node, Pod, Namespace, blocks of addresses.

Holds no logic. Service, EndpointSlice and NetworkPolicy have files of their own.
"""

from __future__ import annotations

from typing import NamedTuple

from kpbpf.address import Address


class Key(NamedTuple):
    """Which object: kind, and namespace/name; Node, Namespace, ServiceCIDR have none ("")."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"

    @property
    def path(self) -> str:
        """namespace/name, or the name alone for what has no namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Block(NamedTuple):
    """A range of addresses: 16-byte base and prefix length (IPv4 counted from 96)."""

    base: Address
    prefix: int


class Node(NamedTuple):
    """A node; kpbpf looks at its own only. `zone` is topology.kubernetes.io/zone, or "".

    `pod_cidrs` are the blocks that its pods have addresses of. `deleting`: somebody asked for the
    object to be deleted. `leaving`: the cluster autoscaler is about to take the machine away; no
    load balancer should send anything new to it (SEMANTICS A53).
    """

    name: str
    zone: str = ""
    addresses: tuple[Address, ...] = ()
    pod_cidrs: tuple[Block, ...] = ()
    deleting: bool = False
    leaving: bool = False

    @property
    def key(self) -> Key:
        """Node name."""
        return Key("Node", "", self.name)


class Pod(NamedTuple):
    """A pod with what policies and `ep ls` need: where it is, its addresses and labels.

    `finished` pods (Succeeded, Failed) no longer own their addresses (SEMANTICS C17). `uid` tells
    a pod from an earlier one of the same name; "" when it is not known.
    """

    namespace: str
    name: str
    node: str
    addresses: tuple[Address, ...]
    labels: tuple[tuple[str, str], ...]
    host_network: bool
    finished: bool
    uid: str = ""

    @property
    def key(self) -> Key:
        """Pod namespace/name."""
        return Key("Pod", self.namespace, self.name)


class Namespace(NamedTuple):
    """A namespace and its labels, sorted by name."""

    name: str
    labels: tuple[tuple[str, str], ...]

    @property
    def key(self) -> Key:
        """Namespace name."""
        return Key("Namespace", "", self.name)


class ServiceRange(NamedTuple):
    """A ServiceCIDR: blocks that cluster IPs are allocated from, at most one a family (A22)."""

    name: str
    blocks: tuple[Block, ...]

    @property
    def key(self) -> Key:
        """ServiceCIDR name."""
        return Key("ServiceCIDR", "", self.name)
