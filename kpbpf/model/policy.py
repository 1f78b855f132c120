"""NetworkPolicies as values (SEMANTICS C1 to C9), and which objects are needed to judge by them.

Nothing here says whether a packet may pass: that is compiled elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from kpbpf.model.labels import Selector
from kpbpf.model.objects import Block, Key


class PolicyPort(NamedTuple):
    """Ports that a rule speaks of: a number, a range up to and with `end_port`, or a name.

    Neither number nor name (0 and ""): every port of the protocol. A name is what the destination
    pod's containers call a port, and may be another number in every pod (C6).
    """

    proto: int
    port: int = 0
    end_port: int = 0
    name: str = ""


class PodPeer(NamedTuple):
    """Pods on the other side: those that `pods` selects (None: all) in some namespaces.

    `namespaces` None is the policy's own namespace (C8).
    """

    pods: Selector | None
    namespaces: Selector | None


class BlockPeer(NamedTuple):
    """Addresses on the other side: those of a block without some blocks inside it (C9).

    A block of IPv6 holds no IPv4 address, though ::/0 covers how those are written here.
    """

    block: Block
    excepted: tuple[Block, ...] = ()


class Rule(NamedTuple):
    """What may pass: any of the peers at any of the ports. Empty means all (C5)."""

    peers: tuple[PodPeer | BlockPeer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """One policy: in each direction it covers, only what a rule allows may pass (C1, C2).

    `pods` selects, in the policy's namespace, whom it is for. `ingress` and `egress` are None in a
    direction that it does not cover, and empty where it allows nothing.
    """

    namespace: str
    name: str
    pods: Selector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None

    @property
    def key(self) -> Key:
        """NetworkPolicy namespace/name."""
        return Key("NetworkPolicy", self.namespace, self.name)


class Needs(NamedTuple):
    """Whether all pods of the cluster, and all namespaces, must be known. Own pods always are."""

    pods: bool = False
    namespaces: bool = False


def needs(policies: Iterable[NetworkPolicy]) -> Needs:
    """What has to be known to judge by these policies."""
    pods = namespaces = False
    for policy in policies:
        for rule in (*(policy.ingress or ()), *(policy.egress or ())):
            peers = [peer for peer in rule.peers if isinstance(peer, PodPeer)]
            pods = pods or bool(peers)
            namespaces = namespaces or any(peer.namespaces is not None for peer in peers)
        # Whoever may be the destination, only its own containers know the number of a named port.
        pods = pods or any(
            not rule.peers and any(port.name for port in rule.ports) for rule in policy.egress or ()
        )
    return Needs(pods, namespaces)
