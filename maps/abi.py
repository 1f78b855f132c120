"""The layouts that programs and Python share. Generated from bpf_src/abi*.h and maps.h.

Do not edit: `python -m maps.gen` writes it. Ports are plain numbers here and network order in
the kernel; addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d; MAC addresses are 6 bytes.
"""

from struct import Struct
from typing import ClassVar, NamedTuple, Self

from maps.layout import (
    NO_PREALLOC,
    U32,
    Bits,
    MapKind,
    MapSpec,
    Packed,
    Word,
    htons,
    ntohs,
    pack_text,
    short,
    short_bits,
    unpack_text,
)

__all__ = [
    "ABI_VERSION",
    "MAPS",
    "STATES",
    "VERDICTS",
    "Address",
    "AddressFlag",
    "AddressKey",
    "Affinity",
    "AffinityKey",
    "Backend",
    "BackendFlag",
    "BackendKey",
    "Bucket",
    "Config",
    "ConfigFlag",
    "Counter",
    "Device",
    "DeviceFlag",
    "Dropped",
    "DroppedKey",
    "Endpoint",
    "EndpointKey",
    "Flow",
    "FlowFlag",
    "FlowKey",
    "Fragment",
    "FragmentKey",
    "Frontend",
    "FrontendFlag",
    "FrontendKey",
    "Hook",
    "Member",
    "MemberFlag",
    "MemberKey",
    "Mode",
    "Name",
    "NameKey",
    "NameKind",
    "RangeKey",
    "RangeScope",
    "Scratch",
    "Socket",
    "SocketKey",
    "State",
    "Step",
    "Verdict",
    "Way",
    "short",
    "short_bits",
]

ABI_VERSION = 2
STATES = 16
# kp_counters has a slot for each hook and verdict: hook * 128 + verdict
VERDICTS = 128


class Hook(Word):
    """enum kp_hook."""

    FROM_POD = 0, "leaving a pod: its host-side interface, tc ingress"
    TO_POD = 1, "entering a pod: its host-side interface, tc egress"
    FROM_WIRE = 2, "entering the node: an uplink, tc ingress"
    TO_WIRE = 3, "leaving the node: an uplink, tc egress"
    SOCKET = 4, "a process connects, sends or receives: no packet yet"


class Verdict(Word):
    """enum kp_verdict.

    0 to 31: the packet goes on. 64 to 127: it is dropped, or refused with an answer.
    """

    PASS_NOT_OURS = 0, "not IP, VLAN-tagged, or link-scope traffic: untouched"
    PASS_DIRECT = 1, "no Service involved: goes on as it is"
    PASS_TO_BACKEND = 2, "sent to a Service: now addressed to a backend"
    PASS_REPLY = 3, "answer of a backend: shows the Service's address again"
    PASS_ICMP_ERROR = 4, "ICMP error about a translated packet: translated back"
    PASS_UNTRACKED = (
        5,
        "connection to a Service that we did not open: left to the node's own tracking",
    )
    DROP_SHORT = 64, "frame ends inside a header"
    DROP_BAD_IP = 65, "IP header that contradicts itself"
    DROP_EXTENSION_HEADERS = 66, "more IPv6 extension headers than we walk"
    DROP_FRAGMENT_UNKNOWN = 67, "later fragment whose first was not seen"
    DROP_SPOOFED_SOURCE = 68, "source address that is not this pod's"
    DROP_NO_BACKEND = 69, "Service without endpoints: refused"
    DROP_NO_LOCAL_BACKEND = 70, "traffic policy Local, and no endpoint on this node"
    DROP_NO_FLOW = 71, "middle of a TCP connection to a Service that we do not know: refused"
    DROP_REFUSAL_RATE = 72, "would be refused, but too many were this second: no answer"
    DROP_NO_PORT = 73, "would be mixed up with another connection, and no source port is free"
    DROP_FLOW_TABLE = 74, "the flow table did not take the connection"
    DROP_REWRITE = 75, "the kernel would not let us rewrite the packet"
    DROP_NOT_CONFIGURED = 76, "the daemon has not written its configuration yet"
    DROP_SOURCE_RANGE = 77, "source address outside the Service's loadBalancerSourceRanges"
    DROP_TOO_BIG = 78, "larger than the MTU on its way: its sender is told"
    DROP_UNKNOWN_PORT = 79, "the address of a Service, but none of its ports: refused"
    DROP_UNKNOWN_SERVICE = 80, "in the range of cluster IPs, but of no Service"


class Step(Word):
    """enum kp_step.

    What a packet did on its way, one bit each; `kpbpf trace` tells them in words.
    """

    FLOW_KNOWN = 0, "the flow table knows this connection"
    FLOW_EXPIRED = 1, "an older record of it had timed out"
    FLOW_JUDGED_AGAIN = 2, "endpoints changed since it was judged: looked up again"
    SOURCE_CHECKED = 3, "the source address is the pod's own"
    SERVICE = 4, "the destination is a Service"
    AFFINITY = 5, "session affinity named the backend"
    BACKEND_RANDOM = 6, "a backend was drawn at random"
    BACKEND_GONE = 7, "its UDP backend is gone: a new one is chosen"
    SOURCE_PORT = 8, "another source port, to keep two connections apart"
    HAIRPIN = 9, "the pod reaches itself: it sees the hairpin address as the client"
    FLOW_CREATED = 10, "a flow record is made"
    DESTINATION_REWRITTEN = 11, "destination rewritten"
    SOURCE_REWRITTEN = 12, "source rewritten"
    LOCAL_POD = 13, "handed straight into the other pod of this node"
    TO_STACK = 14, "handed to the node's network stack"
    REFUSED = 15, "answered with a TCP reset or ICMP port unreachable"
    FRAGMENT = 16, "a later fragment: ports are those of its first"
    ICMP_INNER = 17, "judged by the packet quoted inside an ICMP error"
    TTL_SPENT = 18, "TTL used up: left to the stack, which says so to the sender"
    NODE_PORT = 19, "the destination is a NodePort of this node"
    MASQUERADED = 20, "the backend sees the node as its client"
    MASQUERADE_UNDONE = 21, "the reply goes to the client behind the masquerade"
    ROUTED = 22, "routed by us, past the node's network stack"
    TO_NODE = 23, "handed to the node's own sockets"


class ConfigFlag(Bits):
    """enum kp_config_flag."""

    READY = 0x1, "the daemon has written this entry"
    LOCAL_FAST_PATH = 0x2, "hand packets between two pods of the node over directly"
    MASQUERADE_ALL = 0x4, "pods that reach a ClusterIP are masqueraded too"
    DETECT_LOCAL = 0x8, "it is told apart which clients are pods of this node"
    DETECT_BY_RANGE = 0x10, "namely by address, KP_RANGE_PODS; else by interface"
    SOCKET_HOST = 0x20, "the node's processes get their backend when they connect"
    SOCKET_PODS = 0x40, "those of pods as well"
    LOCALHOST_NODE_PORTS = 0x80, "NodePorts are reached at 127.0.0.0/8, too"
    SERVICE_RANGES = 0x100, "there are entries of KP_RANGE_SERVICES"
    HAND_OVER = 0x200, "new connections are another proxy's; known ones stay ours"


class State(Word):
    """enum kp_state. State of a flow, and the index of its time-out in kp_config.timeout_sec."""

    TCP_NEW = 0, "SYN seen, no answer yet"
    TCP_ESTABLISHED = 1, "both sides have spoken"
    TCP_CLOSING = 2, "FIN from both sides, or a reset"
    UDP_NEW = 3, "no answer yet"
    UDP_STREAM = 4, "both sides have spoken"
    SCTP_NEW = 5, "INIT seen, no answer yet"
    SCTP_ESTABLISHED = 6, "both sides have spoken"
    SCTP_CLOSING = 7, "ABORT or SHUTDOWN COMPLETE seen"
    ICMP = 8, "echo request and its replies"
    OTHER = 9, "a protocol without ports"


class _Config(NamedTuple):
    flags: int  # enum kp_config_flag
    epoch: int  # raised after endpoints change: known flows are judged once more
    udp_epoch: int  # raised after a UDP backend left: known UDP flows are judged once more
    refusals_per_sec: int  # refusals answered per CPU and second
    timeout_sec: tuple[int, ...]  # by enum kp_state: a flow idle for longer is forgotten
    hairpin4: bytes  # the client that a pod sees when it reaches itself by a Service
    hairpin6: bytes  # the same for IPv6
    node4: bytes  # this node's first address, of which masquerade falls back on; zero: none
    node6: bytes  # the same for IPv6
    node_netns: int  # cookie of the node's network namespace
    uplink_ifindex: int  # an uplink that routes; 0: none
    node_port_first: int  # NodePorts in use lie between these two; 0: there are none
    node_port_last: int
    masquerade_first: int  # source ports of masqueraded connections, first and last
    masquerade_last: int


class Config(_Config):
    """struct kp_config."""

    __slots__ = ()
    SIZE: ClassVar[int] = 168
    STRUCT: ClassVar[Struct] = Struct("=IIII16I16s16s16s16sQIHHHH4x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(
            self.flags,
            self.epoch,
            self.udp_epoch,
            self.refusals_per_sec,
            *self.timeout_sec,
            self.hairpin4,
            self.hairpin6,
            self.node4,
            self.node6,
            self.node_netns,
            self.uplink_ifindex,
            self.node_port_first,
            self.node_port_last,
            self.masquerade_first,
            self.masquerade_last,
        )

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        (
            flags,
            epoch,
            udp_epoch,
            refusals_per_sec,
            *timeout_sec,
            hairpin4,
            hairpin6,
            node4,
            node6,
            node_netns,
            uplink_ifindex,
            node_port_first,
            node_port_last,
            masquerade_first,
            masquerade_last,
        ) = cls.STRUCT.unpack(data)
        return cls(
            flags,
            epoch,
            udp_epoch,
            refusals_per_sec,
            tuple(timeout_sec),
            hairpin4,
            hairpin6,
            node4,
            node6,
            node_netns,
            uplink_ifindex,
            node_port_first,
            node_port_last,
            masquerade_first,
            masquerade_last,
        )


class _FlowKey(NamedTuple):
    low: bytes
    high: bytes
    low_port: int  # ICMP echo: the identifier, in both ports
    high_port: int
    proto: int  # IP protocol number
    diverted: int  # 1: direct connection whose plain key a translated one already has


class FlowKey(_FlowKey):
    """struct kp_flow_key.

    A connection in either direction: the smaller (address, port) first, see flow.h.
    """

    __slots__ = ()
    SIZE: ClassVar[int] = 40
    STRUCT: ClassVar[Struct] = Struct("=16s16sHHBB2x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(
            self.low,
            self.high,
            htons(self.low_port),
            htons(self.high_port),
            self.proto,
            self.diverted,
        )

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        low, high, low_port, high_port, proto, diverted = cls.STRUCT.unpack(data)
        return cls(low, high, ntohs(low_port), ntohs(high_port), proto, diverted)


class FlowFlag(Bits):
    """enum kp_flow_flag."""

    ALIAS = 0x1, "keyed (client, Service); else keyed as the backend sees it"
    TRANSLATED = 0x2, "goes through a Service"
    HAIRPIN = 0x4, "client and backend are one pod"
    CLIENT_IS_HIGH = 0x8, "the client is the key's second address"
    CLIENT_FIN = 0x10, "the client has sent FIN"
    BACKEND_FIN = 0x20, "the backend has sent FIN"
    MASQUERADED = 0x40, "the backend sees the node, masq_addr, as its client"
    FROM_NODE = 0x80, "the client is a process of this node"
    BY_STACK = 0x100, "the node's stack brings its packets: never the fast path"
    TRANSIT = 0x200, "keyed (client, backend): a masqueraded packet on its way through the stack"


class _Flow(NamedTuple):
    last_seen_ns: int  # to within a tick
    nat_addr: bytes  # alias: the backend; translated: the Service that replies show
    nat_port: int  # alias: the backend's port; translated: the Service's port
    client_port: int  # alias: the client's as the backend sees it; translated: its own
    flags: int  # enum kp_flow_flag
    tick: int  # of last_seen_ns, in 1024 jiffies: in the same tick nothing is refreshed
    # host-side interface of the client, 0: not a pod of this node; FROM_NODE: where it left
    client_ifindex: int
    backend_ifindex: int  # the same of the other end
    client_mac: bytes  # of the pod behind client_ifindex
    backend_mac: bytes  # of the pod behind backend_ifindex
    epoch: int  # kp_config.epoch (UDP: udp_epoch) under which it was judged
    service: int  # Service port id, 0: none
    created_sec: int  # when it was made
    state: int  # enum kp_state
    # masqueraded; alias: the node's address that the backend sees; else the client's own
    masq_addr: bytes


class Flow(_Flow):
    """struct kp_flow."""

    __slots__ = ()
    SIZE: ClassVar[int] = 88
    STRUCT: ClassVar[Struct] = Struct("=Q16sHHHHII6s6sIIIB7x16s")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(
            self.last_seen_ns,
            self.nat_addr,
            htons(self.nat_port),
            htons(self.client_port),
            self.flags,
            self.tick,
            self.client_ifindex,
            self.backend_ifindex,
            self.client_mac,
            self.backend_mac,
            self.epoch,
            self.service,
            self.created_sec,
            self.state,
            self.masq_addr,
        )

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        (
            last_seen_ns,
            nat_addr,
            nat_port,
            client_port,
            flags,
            tick,
            client_ifindex,
            backend_ifindex,
            client_mac,
            backend_mac,
            epoch,
            service,
            created_sec,
            state,
            masq_addr,
        ) = cls.STRUCT.unpack(data)
        return cls(
            last_seen_ns,
            nat_addr,
            ntohs(nat_port),
            ntohs(client_port),
            flags,
            tick,
            client_ifindex,
            backend_ifindex,
            client_mac,
            backend_mac,
            epoch,
            service,
            created_sec,
            state,
            masq_addr,
        )


class _FragmentKey(NamedTuple):
    src: bytes
    dst: bytes
    id: int  # the IP identification, as it stands in the packet
    ifindex: int  # where it was seen: a pod cannot speak for another
    proto: int  # IPv4: IP protocol number; IPv6: 0, the id alone is enough


class FragmentKey(_FragmentKey):
    """struct kp_fragment_key. Ports of a fragmented datagram, for its later fragments."""

    __slots__ = ()
    SIZE: ClassVar[int] = 48
    STRUCT: ClassVar[Struct] = Struct("=16s16sIIB7x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.src, self.dst, self.id, self.ifindex, self.proto)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _Fragment(NamedTuple):
    src_port: int
    dst_port: int
    proto: int  # of the transport header, which IPv6 may have behind more headers


class Fragment(_Fragment):
    """struct kp_fragment."""

    __slots__ = ()
    SIZE: ClassVar[int] = 8
    STRUCT: ClassVar[Struct] = Struct("=HHB3x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(htons(self.src_port), htons(self.dst_port), self.proto)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        src_port, dst_port, proto = cls.STRUCT.unpack(data)
        return cls(ntohs(src_port), ntohs(dst_port), proto)


class NameKind(Word):
    """enum kp_name_kind."""

    SERVICE = 0, "id of a Service port: namespace/name:port/family"
    ENDPOINT = 1, "id of an endpoint: how it was found, and the pod where known"


class _NameKey(NamedTuple):
    kind: int  # enum kp_name_kind
    id: int


class NameKey(_NameKey):
    """struct kp_name_key."""

    __slots__ = ()
    SIZE: ClassVar[int] = 8
    STRUCT: ClassVar[Struct] = Struct("=II")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.kind, self.id)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _Name(NamedTuple):
    text: str  # UTF-8, zero padded: two names of 63 bytes, a port's, a family


class Name(_Name):
    """struct kp_name."""

    __slots__ = ()
    SIZE: ClassVar[int] = 200
    STRUCT: ClassVar[Struct] = Struct("=200s")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(pack_text(self.text, 200))

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        (text,) = cls.STRUCT.unpack(data)
        return cls(unpack_text(text))


class _Counter(NamedTuple):
    packets: int
    bytes: int


class Counter(_Counter):
    """struct kp_counter."""

    __slots__ = ()
    SIZE: ClassVar[int] = 16
    STRUCT: ClassVar[Struct] = Struct("=QQ")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.packets, self.bytes)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _DroppedKey(NamedTuple):
    src: bytes
    dst: bytes
    dst_port: int
    proto: int
    hook: int  # enum kp_hook
    verdict: int  # enum kp_verdict


class DroppedKey(_DroppedKey):
    """struct kp_dropped_key.

    Who was dropped, why and when; ports of the client are left out on purpose.
    """

    __slots__ = ()
    SIZE: ClassVar[int] = 40
    STRUCT: ClassVar[Struct] = Struct("=16s16sHBBB3x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(
            self.src, self.dst, htons(self.dst_port), self.proto, self.hook, self.verdict
        )

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        src, dst, dst_port, proto, hook, verdict = cls.STRUCT.unpack(data)
        return cls(src, dst, ntohs(dst_port), proto, hook, verdict)


class _Dropped(NamedTuple):
    packets: int
    last_seen_ns: int
    ifindex: int  # of the last one


class Dropped(_Dropped):
    """struct kp_dropped."""

    __slots__ = ()
    SIZE: ClassVar[int] = 24
    STRUCT: ClassVar[Struct] = Struct("=QQI4x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.packets, self.last_seen_ns, self.ifindex)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _Bucket(NamedTuple):
    since_ns: int  # start of the present second
    spent: int  # refusals answered since


class Bucket(_Bucket):
    """struct kp_bucket. Tokens for refusals, one bucket per CPU."""

    __slots__ = ()
    SIZE: ClassVar[int] = 16
    STRUCT: ClassVar[Struct] = Struct("=QI4x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.since_ns, self.spent)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _Scratch(NamedTuple):
    words: tuple[int, ...]


class Scratch(_Scratch):
    """struct kp_scratch.

    Room for what a program notes of one packet (struct kp_packet): never read from outside.
    """

    __slots__ = ()
    SIZE: ClassVar[int] = 320
    STRUCT: ClassVar[Struct] = Struct("=40Q")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(*self.words)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        (*words,) = cls.STRUCT.unpack(data)
        return cls(tuple(words))


class AddressFlag(Bits):
    """enum kp_address_flag."""

    NODE = 0x1, "an address of this node"
    NODE_PORT = 0x2, "at which NodePorts are served: nodePortAddresses"


class _AddressKey(NamedTuple):
    addr: bytes


class AddressKey(_AddressKey):
    """struct kp_address_key. An address of this node."""

    __slots__ = ()
    SIZE: ClassVar[int] = 16
    STRUCT: ClassVar[Struct] = Struct("=16s")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.addr)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _Address(NamedTuple):
    flags: int  # enum kp_address_flag


class Address(_Address):
    """struct kp_address."""

    __slots__ = ()
    SIZE: ClassVar[int] = 4
    STRUCT: ClassVar[Struct] = Struct("=I")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.flags)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class DeviceFlag(Bits):
    """enum kp_device_flag."""

    NO_ETHERNET = 0x1, "packets have no Ethernet header there"


class _Device(NamedTuple):
    masquerade4: bytes  # what a backend reached that way sees as its client; zero: none
    masquerade6: bytes  # the same for IPv6
    flags: int  # enum kp_device_flag
    mac: bytes  # its own


class Device(_Device):
    """struct kp_device. An uplink of this node, keyed by its ifindex."""

    __slots__ = ()
    SIZE: ClassVar[int] = 48
    STRUCT: ClassVar[Struct] = Struct("=16s16sI6s6x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.masquerade4, self.masquerade6, self.flags, self.mac)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class Way(Word):
    """enum kp_way."""

    TO_BACKEND = 0, "address and port are the Service's, the value the backend's"
    TO_SERVICE = 1, "the other way round"


class _SocketKey(NamedTuple):
    cookie: int  # of the socket
    addr: bytes
    port: int
    proto: int
    way: int  # enum kp_way


class SocketKey(_SocketKey):
    """struct kp_socket_key."""

    __slots__ = ()
    SIZE: ClassVar[int] = 32
    STRUCT: ClassVar[Struct] = Struct("=Q16sHBB4x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.cookie, self.addr, htons(self.port), self.proto, self.way)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        cookie, addr, port, proto, way = cls.STRUCT.unpack(data)
        return cls(cookie, addr, ntohs(port), proto, way)


class _Socket(NamedTuple):
    last_used_ns: int
    netns: int  # cookie of its network namespace
    addr: bytes
    port: int
    service: int  # Service port id


class Socket(_Socket):
    """struct kp_socket."""

    __slots__ = ()
    SIZE: ClassVar[int] = 40
    STRUCT: ClassVar[Struct] = Struct("=QQ16sH2xI")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(
            self.last_used_ns, self.netns, self.addr, htons(self.port), self.service
        )

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        last_used_ns, netns, addr, port, service = cls.STRUCT.unpack(data)
        return cls(last_used_ns, netns, addr, ntohs(port), service)


class Mode(Word):
    """enum kp_mode."""

    VETH = 0, "programs at the host end of a veth pair"


class _EndpointKey(NamedTuple):
    addr: bytes


class EndpointKey(_EndpointKey):
    """struct kp_endpoint_key.

    A pod of this node, by address. One pod has one id and an entry for each address.
    """

    __slots__ = ()
    SIZE: ClassVar[int] = 16
    STRUCT: ClassVar[Struct] = Struct("=16s")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.addr)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _Endpoint(NamedTuple):
    id: int
    ifindex: int  # host-side interface
    pod_mac: bytes
    node_mac: bytes
    mode: int  # enum kp_mode


class Endpoint(_Endpoint):
    """struct kp_endpoint."""

    __slots__ = ()
    SIZE: ClassVar[int] = 24
    STRUCT: ClassVar[Struct] = Struct("=II6s6sB3x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.id, self.ifindex, self.pod_mac, self.node_mac, self.mode)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _FrontendKey(NamedTuple):
    addr: bytes
    port: int
    proto: int


class FrontendKey(_FrontendKey):
    """struct kp_frontend_key.

    A NodePort has the unspecified address of its family. Port and protocol 0 stand for all the
    rest of a ClusterIP, which is refused (KP_FRONTEND_WHOLE_ADDRESS).
    """

    __slots__ = ()
    SIZE: ClassVar[int] = 24
    STRUCT: ClassVar[Struct] = Struct("=16sHB5x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.addr, htons(self.port), self.proto)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        addr, port, proto = cls.STRUCT.unpack(data)
        return cls(addr, ntohs(port), proto)


class FrontendFlag(Bits):
    """enum kp_frontend_flag."""

    LOCAL_ONLY = 0x1, "internalTrafficPolicy Local: only endpoints of this node"
    EXTERNAL = 0x2, "NodePort, load balancer's or external IP: not a ClusterIP"
    EXTERNAL_LOCAL = 0x4, "externalTrafficPolicy Local"
    SOURCE_RANGES = 0x8, "loadBalancerSourceRanges hold here: see kp_ranges"
    WHOLE_ADDRESS = 0x10, "not a port: what no port of this ClusterIP takes"


class _Frontend(NamedTuple):
    service: int  # Service port id: one namespace/name:port in one family
    base: int  # the backend set; fresh for every new set
    count: int  # type: ignore[assignment]  # endpoints for cluster-wide traffic
    local_count: int  # endpoints on this node
    affinity_sec: int  # session affinity ClientIP time-out, 0: none
    flags: int  # enum kp_frontend_flag


class Frontend(_Frontend):
    """struct kp_frontend.

    Backends of a set stand at (base, 0..count-1); those of the local set behind them.
    """

    __slots__ = ()
    SIZE: ClassVar[int] = 24
    STRUCT: ClassVar[Struct] = Struct("=IIIIII")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(
            self.service, self.base, self.count, self.local_count, self.affinity_sec, self.flags
        )

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _BackendKey(NamedTuple):
    base: int
    slot: int


class BackendKey(_BackendKey):
    """struct kp_backend_key."""

    __slots__ = ()
    SIZE: ClassVar[int] = 8
    STRUCT: ClassVar[Struct] = Struct("=II")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.base, self.slot)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class BackendFlag(Bits):
    """enum kp_backend_flag."""

    HERE = 0x1, "an endpoint of this node: never masqueraded"


class _Backend(NamedTuple):
    addr: bytes
    port: int
    flags: int  # enum kp_backend_flag


class Backend(_Backend):
    """struct kp_backend."""

    __slots__ = ()
    SIZE: ClassVar[int] = 24
    STRUCT: ClassVar[Struct] = Struct("=16sHH4x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.addr, htons(self.port), self.flags)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        addr, port, flags = cls.STRUCT.unpack(data)
        return cls(addr, ntohs(port), flags)


class _MemberKey(NamedTuple):
    addr: bytes
    service: int
    port: int


class MemberKey(_MemberKey):
    """struct kp_member_key.

    Is this address still an endpoint of that Service port? For UDP and affinity only.
    """

    __slots__ = ()
    SIZE: ClassVar[int] = 24
    STRUCT: ClassVar[Struct] = Struct("=16sIH2x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.addr, self.service, htons(self.port))

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        addr, service, port = cls.STRUCT.unpack(data)
        return cls(addr, service, ntohs(port))


class MemberFlag(Bits):
    """enum kp_member_flag."""

    CLUSTER = 0x1, "in the set for cluster-wide traffic"
    LOCAL = 0x2, "in the set of this node"
    SERVING = 0x4, "still serves: known UDP flows stay"
    HERE = 0x8, "an endpoint of this node"


class _Member(NamedTuple):
    flags: int  # enum kp_member_flag


class Member(_Member):
    """struct kp_member."""

    __slots__ = ()
    SIZE: ClassVar[int] = 4
    STRUCT: ClassVar[Struct] = Struct("=I")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.flags)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _AffinityKey(NamedTuple):
    client: bytes
    service: int


class AffinityKey(_AffinityKey):
    """struct kp_affinity_key."""

    __slots__ = ()
    SIZE: ClassVar[int] = 24
    STRUCT: ClassVar[Struct] = Struct("=16sI4x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.client, self.service)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


class _Affinity(NamedTuple):
    last_used_ns: int  # refreshed by each new connection
    addr: bytes
    port: int


class Affinity(_Affinity):
    """struct kp_affinity."""

    __slots__ = ()
    SIZE: ClassVar[int] = 32
    STRUCT: ClassVar[Struct] = Struct("=Q16sH6x")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.last_used_ns, self.addr, htons(self.port))

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        last_used_ns, addr, port = cls.STRUCT.unpack(data)
        return cls(last_used_ns, addr, ntohs(port))


class RangeScope(Word):
    """enum kp_range_scope."""

    RANGE_PODS = 0xFFFFFF01, "addresses of pods: kube-proxy's clusterCIDR, or NodeCIDR"
    RANGE_SERVICES = 0xFFFFFF02, "cluster IPs are allocated from here"


class _RangeKey(NamedTuple):
    prefix: int  # bits that count: 32 of the scope, and 0 to 128 of the address
    scope: int
    addr: bytes


class RangeKey(_RangeKey):
    """struct kp_range_key.

    A range of addresses. `scope` is the id of the Service port that it may reach, or an enum
    kp_range_scope.
    """

    __slots__ = ()
    SIZE: ClassVar[int] = 24
    STRUCT: ClassVar[Struct] = Struct("=II16s")

    def pack(self) -> bytes:
        """Lay it out for the kernel."""
        return self.STRUCT.pack(self.prefix, self.scope, self.addr)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it as it lies in the kernel."""
        return cls(*cls.STRUCT.unpack(data))


MAPS = {
    "flows": MapSpec(
        "flows",
        MapKind.LRU_HASH,
        FlowKey.SIZE,
        Flow.SIZE,
        262144,
        0,
        FlowKey,
        Flow,
    ),
    "fragments": MapSpec(
        "fragments",
        MapKind.LRU_HASH,
        FragmentKey.SIZE,
        Fragment.SIZE,
        8192,
        0,
        FragmentKey,
        Fragment,
    ),
    "affinities": MapSpec(
        "affinities",
        MapKind.LRU_HASH,
        AffinityKey.SIZE,
        Affinity.SIZE,
        65536,
        0,
        AffinityKey,
        Affinity,
    ),
    "sockets": MapSpec(
        "sockets",
        MapKind.LRU_HASH,
        SocketKey.SIZE,
        Socket.SIZE,
        65536,
        0,
        SocketKey,
        Socket,
    ),
    "counters": MapSpec(
        "counters",
        MapKind.PERCPU_ARRAY,
        U32.SIZE,
        Counter.SIZE,
        640,
        0,
        U32,
        Counter,
    ),
    "drops": MapSpec(
        "drops",
        MapKind.LRU_HASH,
        DroppedKey.SIZE,
        Dropped.SIZE,
        4096,
        0,
        DroppedKey,
        Dropped,
    ),
    "buckets": MapSpec(
        "buckets",
        MapKind.PERCPU_ARRAY,
        U32.SIZE,
        Bucket.SIZE,
        1,
        0,
        U32,
        Bucket,
    ),
    "scratches": MapSpec(
        "scratches",
        MapKind.PERCPU_ARRAY,
        U32.SIZE,
        Scratch.SIZE,
        1,
        0,
        U32,
        Scratch,
    ),
    "configs": MapSpec(
        "configs",
        MapKind.ARRAY,
        U32.SIZE,
        Config.SIZE,
        1,
        0,
        U32,
        Config,
    ),
    "frontends": MapSpec(
        "frontends",
        MapKind.HASH,
        FrontendKey.SIZE,
        Frontend.SIZE,
        262144,
        NO_PREALLOC,
        FrontendKey,
        Frontend,
    ),
    "backends": MapSpec(
        "backends",
        MapKind.HASH,
        BackendKey.SIZE,
        Backend.SIZE,
        1048576,
        NO_PREALLOC,
        BackendKey,
        Backend,
    ),
    "members": MapSpec(
        "members",
        MapKind.HASH,
        MemberKey.SIZE,
        Member.SIZE,
        524288,
        NO_PREALLOC,
        MemberKey,
        Member,
    ),
    "ranges": MapSpec(
        "ranges",
        MapKind.LPM_TRIE,
        RangeKey.SIZE,
        U32.SIZE,
        65536,
        NO_PREALLOC,
        RangeKey,
        U32,
    ),
    "addresses": MapSpec(
        "addresses",
        MapKind.HASH,
        AddressKey.SIZE,
        Address.SIZE,
        1024,
        NO_PREALLOC,
        AddressKey,
        Address,
    ),
    "devices": MapSpec(
        "devices",
        MapKind.HASH,
        U32.SIZE,
        Device.SIZE,
        64,
        NO_PREALLOC,
        U32,
        Device,
    ),
    "endpoints": MapSpec(
        "endpoints",
        MapKind.HASH,
        EndpointKey.SIZE,
        Endpoint.SIZE,
        4096,
        NO_PREALLOC,
        EndpointKey,
        Endpoint,
    ),
    "names": MapSpec(
        "names",
        MapKind.HASH,
        NameKey.SIZE,
        Name.SIZE,
        131072,
        NO_PREALLOC,
        NameKey,
        Name,
    ),
}
