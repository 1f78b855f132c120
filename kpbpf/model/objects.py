"""The key of an object, and the small objects: Node, Pod, Namespace.

Holds no logic. Service and EndpointSlice have files of their own.
"""

from __future__ import annotations

from typing import NamedTuple

from kpbpf.address import Address


class Key(NamedTuple):
    """Which object: kind, and namespace/name. Node and Namespace have no namespace ("")."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"

    @property
    def path(self) -> str:
        """namespace/name, or the name alone for what has no namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Node(NamedTuple):
    """A node; kpbpf looks at its own only. `zone` is topology.kubernetes.io/zone, or ""."""

    name: str
    zone: str = ""
    addresses: tuple[Address, ...] = ()

    @property
    def key(self) -> Key:
        """Node name."""
        return Key("Node", "", self.name)


class Pod(NamedTuple):
    """A pod with what policies and `ep ls` need: where it is, its addresses and labels.

    `finished` pods (Succeeded, Failed) no longer own their addresses (SEMANTICS C17).
    """

    namespace: str
    name: str
    node: str
    addresses: tuple[Address, ...]
    labels: tuple[tuple[str, str], ...]
    host_network: bool
    finished: bool

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
