"""The journeys that bench/packet.py measures: one packet each, and what makes it a known one."""

import struct
import time
from typing import NamedTuple

from kpbpf import address
from kpbpf.datapath import frame
from maps import abi

LOOPBACK = 1
"""Interface of the client pod: a test-run without a device is on loopback."""

OTHER_POD = 4242
MAC = b"\2\0\0\0\0\1"
SYN, ACK = 0x02, 0x10
KEY_AT = 80
"""Where in the frame the floor's lookup finds its key."""

NO_MAC = bytes(6)
"""The loopback's: what an uplink gets must be addressed to it."""

CLIENT = {4: "10.1.0.1", 6: "fd00:1::1"}
LOCAL = {4: "10.1.0.2", 6: "fd00:1::2"}
REMOTE = {4: "10.2.0.1", 6: "fd00:2::1"}
SERVICE = {4: "10.96.0.1", 6: "fd00:96::1"}
OUTSIDE = {4: "192.0.2.9", 6: "2001:db8:9::9"}
NODE = {4: "198.51.100.2", 6: "2001:db8:71::2"}
NODE_PORT = 30080


class Journey(NamedTuple):
    """One packet's way: `known` says whether its flow is in the table already.

    Its name tells the rest: "reply" comes from a backend, "service" goes to one; "none" has no
    flow, "local pod" is handed over here, and "masqueraded" shows a backend the node.
    """

    name: str
    program: str
    source: str
    target: str
    port: int
    known: bool = True


def journeys(family: int) -> list[Journey]:
    """The journeys of one address family, in the order in which they are shown."""
    client, local, remote = CLIENT[family], LOCAL[family], REMOTE[family]
    outside, node = OUTSIDE[family], NODE[family]
    return [
        Journey("no service, new", "from_pod", client, remote, 80, known=False),
        Journey("no service, known, by the stack", "from_pod", client, remote, 80),
        Journey("no service, known, to a local pod", "from_pod", client, local, 80),
        Journey("service, new", "from_pod", client, SERVICE[family], 80, known=False),
        Journey("service, known, to a remote pod", "from_pod", client, SERVICE[family], 80),
        Journey("service, known, to a local pod", "from_pod", client, SERVICE[family], 81),
        Journey("reply, known, by the stack", "to_pod", remote, client, 8080),
        Journey("reply, known, from a local pod", "from_pod", client, local, 8080),
        Journey("wire: host traffic in, none", "from_wire", outside, node, 22),
        Journey("wire: host traffic out, none", "to_wire", node, outside, 22),
        Journey("wire: pod traffic in", "from_wire", outside, client, 80),
        Journey("wire: pod traffic out", "to_wire", client, outside, 80),
        Journey("wire: NodePort, new", "from_wire", outside, node, NODE_PORT, known=False),
        Journey("wire: service, to a local pod", "from_wire", outside, node, NODE_PORT + 1),
        Journey("wire: service, masqueraded", "from_wire", outside, node, NODE_PORT + 2),
        Journey("reply at the wire, masqueraded", "from_wire", remote, node, 8080),
        Journey("reply of a pod, to the wire", "from_pod", client, outside, 8080),
        Journey("wire: routed, out once more", "to_wire", node, remote, 8081),
    ]


def flow_key(source: str, source_port: int, target: str, port: int) -> tuple[abi.FlowKey, bool]:
    """Key of a TCP connection, and whether its source is the second address: as in flow.h."""
    ends = [(address.from_text(source), source_port), (address.from_text(target), port)]

    def words(end: tuple[bytes, int]) -> tuple[int, int, int]:
        first, second = struct.unpack("=QQ", end[0])
        return second, first, int.from_bytes(end[1].to_bytes(2, "big"), "little")

    low, high = sorted(ends, key=words)
    return abi.FlowKey(low[0], high[0], low[1], high[1], frame.TCP, 0), ends[0] == high


def packet(journey: Journey, client_port: int, opens: bool) -> bytes:
    """A TCP segment of the journey, with its flow key at KEY_AT, ready for the floor's lookup."""
    ports = client_port, journey.port
    if journey.name.startswith("reply"):
        ports = journey.port, client_port
    ends = address.from_text(journey.source), address.from_text(journey.target)
    to = NO_MAC if journey.program == "from_wire" else MAC
    data = bytearray(frame.build(frame.Packet(*ends, frame.TCP, *ports, ttl=255), MAC, to))
    data[(34 if address.is_ipv4(ends[0]) else 54) + 13] = SYN if opens else ACK
    key, _ = flow_key(journey.source, ports[0], journey.target, ports[1])
    data += bytes(KEY_AT - len(data)) + key.pack()
    at, length = (16, len(data) - 14) if address.is_ipv4(ends[0]) else (18, len(data) - 54)
    data[at : at + 2] = length.to_bytes(2, "big")
    return bytes(data)


def records(
    journey: Journey, client_port: int, tick: int, still: bool
) -> list[tuple[abi.FlowKey, abi.Flow]]:
    """The flow records under which the journey's packet is a known one.

    `still`: rewriting changes nothing, so that the same packet may come again.
    """
    if journey.name.endswith("none"):
        return []
    local, at_wire = "local pod" in journey.name, "wire" in journey.name
    masqueraded = abi.FlowFlag.MASQUERADED if "masqueraded" in journey.name else 0
    plain = abi.Flow(
        last_seen_ns=time.monotonic_ns(),
        nat_addr=address.ZERO,
        nat_port=0,
        client_port=0,
        state=abi.State.TCP_ESTABLISHED,
        flags=0,
        tick=tick,
        client_ifindex=0 if at_wire else LOOPBACK,
        backend_ifindex=OTHER_POD if local else 0,
        client_mac=MAC,
        backend_mac=MAC,
        epoch=1,
        service=1,
        created_sec=0,
        masq_addr=address.ZERO,
    )
    if journey.name.startswith("reply"):
        record = plain._replace(
            flags=abi.FlowFlag.TRANSLATED | masqueraded,
            nat_addr=address.from_text(journey.source if still else SERVICE[4]),
            nat_port=journey.port if still else 80,
            client_port=client_port,
            client_ifindex=OTHER_POD if local else plain.client_ifindex,
            backend_ifindex=LOOPBACK if journey.program == "from_pod" else 0,
            masq_addr=address.from_text(journey.target),
        )
        return [directed(journey.target, client_port, journey.source, journey.port, record)]
    if "service," not in journey.name or journey.name.startswith("no service"):
        return [directed(journey.source, client_port, journey.target, journey.port, plain)]
    backend = journey.target if still else REMOTE[6 if ":" in journey.target else 4]
    alias = plain._replace(
        flags=abi.FlowFlag.ALIAS | abi.FlowFlag.TRANSLATED | masqueraded,
        nat_addr=address.from_text(backend),
        nat_port=journey.port,
        client_port=client_port,
        masq_addr=address.from_text(journey.source),
    )
    return [directed(journey.source, client_port, journey.target, journey.port, alias)]


def directed(
    client: str, client_port: int, far: str, port: int, flow: abi.Flow
) -> tuple[abi.FlowKey, abi.Flow]:
    """Key of a record, and the record knowing which end of it is the client."""
    key, high = flow_key(client, client_port, far, port)
    flags = flow.flags | (abi.FlowFlag.CLIENT_IS_HIGH if high else 0)
    return key, flow._replace(flags=flags)
