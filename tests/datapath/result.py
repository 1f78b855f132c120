"""What became of a packet at a hook, and how it is compared with what should have.

A failure shows all packets as Scapy commands, the verdict, and the steps on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from maps.abi import Hook, Step

PASS, DROP, REDIRECT = 0xFFFFFFFF, 2, 7
ACTIONS = {PASS: "goes on", DROP: "dropped", REDIRECT: "handed over"}


class Pod(NamedTuple):
    """A pod of the node, with an address of each family."""

    name: str
    ifindex: int
    mac: str
    node_mac: str
    addresses: tuple[str, ...]


def _text(packet: Packet | None) -> str:
    return "nothing" if packet is None else packet.command()


@dataclass(frozen=True)
class Result:
    """What became of one packet. `verdict` is the short name that was counted."""

    sent: Packet
    verdict: str
    action: int
    data: bytes
    steps: frozenset[Step]
    hook: Hook

    @property
    def frame(self) -> Packet:
        """The frame that came out."""
        return Ether(self.data)

    @property
    def packet(self) -> Packet:
        """What came out, without link layer."""
        return self.frame.payload

    def expect(self, verdict: str, packet: Packet | None = None, into: Pod | None = None) -> None:
        """Compare with the verdict and the packet expected, byte by byte.

        No packet: it is dropped. With `into` it is handed to that pod, as a router would;
        else it goes on with its link layer as it was.
        """
        action = DROP if packet is None else REDIRECT if into else PASS
        frame = packet
        if packet is not None and not isinstance(packet, Ether):
            frame = Ether(src=self.sent.src, dst=self.sent.dst) / packet
            if into:
                frame = Ether(src=self._sender(into), dst=into.mac) / self._later(packet)
        self._compare(verdict, action, frame)

    def expect_routed(self, verdict: str, packet: Packet) -> None:
        """It is sent on by route, by way of the kernel, which writes the link layer."""
        frame = Ether(src=self.sent.src, dst=self.sent.dst) / self._later(packet)
        self._compare(verdict, REDIRECT, frame)

    def expect_to_node(self, verdict: str, packet: Packet, uplink: Pod) -> None:
        """It enters by an uplink, for the node's own sockets."""
        self._compare(verdict, REDIRECT, Ether(src=uplink.mac, dst=uplink.mac) / packet)

    def _sender(self, pod: Pod) -> str:
        """Who hands a packet to a pod: the address of the node that the hook knows."""
        known: dict[Hook, str] = {
            Hook.FROM_POD: self.sent.dst,
            Hook.FROM_WIRE: pod.node_mac,
            Hook.TO_WIRE: self.sent.src,
        }
        return known[self.hook]

    def _later(self, packet: Packet) -> Packet:
        """The node's own packets have not come any way yet."""
        return packet if self.hook == Hook.TO_WIRE else one_hop_later(packet)

    def expect_refused(self, verdict: str, answer: Packet, into: Pod | None = None) -> None:
        """Compare with the answer that the sender is to get at once.

        With `into` the sender is a pod whose packet has come as far as an uplink.
        """
        src, dst = (into.node_mac, into.mac) if into else (self.sent.dst, self.sent.src)
        self._compare(verdict, REDIRECT, Ether(src=src, dst=dst) / answer)

    def _compare(self, verdict: str, action: int, frame: Packet | None) -> None:
        same = frame is None or self.data == bytes(frame)
        if (self.verdict, self.action) == (verdict, action) and same:
            return
        steps = ", ".join(step.short for step in sorted(self.steps))
        raise AssertionError(
            f"expected {verdict}, {ACTIONS[action]}: {_text(frame)}\n"
            f"but it was {self.verdict}, {ACTIONS[self.action]}: {_text(self.frame)}\n"
            f"steps: {steps}\nfor: {_text(self.sent)}"
        )


def one_hop_later(packet: Packet) -> Packet:
    """The packet with its TTL one less, if there was one to spare."""
    later = packet.copy()
    if isinstance(packet, IP):
        later.ttl = packet.ttl - (packet.ttl > 1)
    else:
        later.hlim = packet.hlim - (packet.hlim > 1)
    return later
