"""Rows for people and machines, read from the tables: what the command line prints.

Those about Services are in show_services, those about the node itself in show_node.
Each row is a dict whose keys are stated by its type; addresses and names are text, times are
seconds. Numbers that this version does not know stay visible ("verdict 77"). Only reads.
"""

from _socket import if_indextoname
from collections import defaultdict
from collections.abc import Callable
from typing import TypedDict

from kpbpf.address import to_text, with_port
from maps import abi, config
from maps.abi import FlowFlag, Hook, Mode, NameKind, State, Verdict
from maps.layout import short
from maps.table import Tables, total

SECOND_NS = 1_000_000_000

FIRST_DROP = 64
"""Verdicts from here on drop or refuse; see enum kp_verdict."""

_End = tuple[bytes, int]
"""Address and port."""

PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


class EndpointRow(TypedDict):
    """One pod of this node; `host` is None once its interface is gone."""

    id: int
    name: str
    ips: list[str]
    host: str | None
    ifindex: int
    pod_mac: str
    node_mac: str
    mode: str


class FlowRow(TypedDict):
    """One connection; `backend` and `service` are None for one that goes to no Service."""

    protocol: str
    client: str
    destination: str
    masquerade: str | None
    """Address and port of this node that the backend sees as its client."""
    backend: str | None
    service: str | None
    state: str
    hairpin: bool
    from_node: bool
    """Whether the client is a process of this node."""
    transit: bool
    """A second row of a masqueraded connection: its packets on their way through the stack."""
    age_sec: int
    idle_sec: int
    expires_sec: int
    client_ifindex: int
    backend_ifindex: int


class DropRow(TypedDict):
    """One kind of packet that was dropped or refused, the latest first."""

    verdict: str
    why: str
    hook: str
    protocol: str
    source: str
    destination: str
    packets: int
    age_sec: int
    ifindex: int


class CounterRow(TypedDict):
    """Packets that ended one way at one hook."""

    hook: str
    verdict: str
    why: str
    dropped: bool
    packets: int
    bytes: int


class MapRow(TypedDict):
    """How full a map is."""

    name: str
    kind: str
    entries: int
    limit: int
    percent: float
    key_size: int
    value_size: int


def endpoints(
    tables: Tables, interface: Callable[[int], str | None] | None = None
) -> list[EndpointRow]:
    """One row for each pod, by id; `interface` names an index in another way than the kernel."""
    names = _names(tables, NameKind.ENDPOINT)
    interface = interface or interface_name
    ips: dict[int, list[bytes]] = defaultdict(list)
    pods: dict[int, abi.Endpoint] = {}
    for key, endpoint in tables.endpoints.items():
        ips[endpoint.id].append(key.addr)
        pods[endpoint.id] = endpoint
    return [
        EndpointRow(
            id=number,
            name=names.get(number, ""),
            ips=[to_text(address) for address in sorted(ips[number])],  # IPv4 is mapped: first
            host=interface(pod.ifindex),
            ifindex=pod.ifindex,
            pod_mac=pod.pod_mac.hex(":"),
            node_mac=pod.node_mac.hex(":"),
            mode=short(Mode, pod.mode),
        )
        for number, pod in sorted(pods.items())
    ]


def interface_name(ifindex: int) -> str | None:
    """Ask the kernel; None when there is no such interface in this network namespace."""
    try:
        return if_indextoname(ifindex)
    except OSError:
        return None


def flows(tables: Tables, now_ns: int, transit: bool = False) -> list[FlowRow]:
    """One row for each connection, by client; a translated one's second record is left out.

    With `transit`, only the records of packets on their way through the node's stack.
    """
    names = _names(tables, NameKind.SERVICE)
    timeouts = config.read(tables).timeout_sec
    found = [
        _flow(key, flow, names, timeouts, now_ns)
        for key, flow in tables.flows.items()
        if not flow.flags & FlowFlag.ALIAS and bool(flow.flags & FlowFlag.TRANSIT) == transit
    ]
    return sorted(found, key=lambda row: (row["client"], row["destination"]))


def _flow(
    key: abi.FlowKey,
    flow: abi.Flow,
    names: dict[int, str],
    timeouts: tuple[int, ...],
    now_ns: int,
) -> FlowRow:
    idle = max(0, now_ns - flow.last_seen_ns) // SECOND_NS
    service = names.get(flow.service, f"service {flow.service}") if flow.service else None
    client, destination, masquerade, backend = _ends(key, flow)
    return FlowRow(
        protocol=protocol(key.proto),
        client=with_port(*client),
        destination=with_port(*destination),
        masquerade=with_port(*masquerade) if masquerade else None,
        backend=with_port(*backend) if backend else None,
        service=service,
        state=short(State, flow.state),
        hairpin=bool(flow.flags & FlowFlag.HAIRPIN),
        from_node=bool(flow.flags & FlowFlag.FROM_NODE),
        transit=bool(flow.flags & FlowFlag.TRANSIT),
        age_sec=max(0, now_ns // SECOND_NS - flow.created_sec),
        idle_sec=idle,
        expires_sec=max(0, timeouts[flow.state] - idle) if flow.state < len(timeouts) else 0,
        client_ifindex=flow.client_ifindex,
        backend_ifindex=flow.backend_ifindex,
    )


def _ends(key: abi.FlowKey, flow: abi.Flow) -> tuple[_End, _End, _End | None, _End | None]:
    """Client, destination, what the backend sees instead of the client, and backend."""
    low, high = (key.low, key.low_port), (key.high, key.high_port)
    client, other = (high, low) if flow.flags & FlowFlag.CLIENT_IS_HIGH else (low, high)
    if not flow.flags & FlowFlag.TRANSLATED:
        return client, other, None, None
    service = (flow.nat_addr, flow.nat_port)
    own_port = flow.client_port
    if flow.flags & FlowFlag.TRANSIT:
        return client, service, (flow.masq_addr, own_port), other
    if flow.flags & FlowFlag.MASQUERADED:
        return (flow.masq_addr, own_port), service, client, other
    if flow.flags & FlowFlag.HAIRPIN:
        return (other[0], own_port), service, None, other
    return (client[0], own_port), service, None, other


def drops(tables: Tables, now_ns: int) -> list[DropRow]:
    """One row for each source, destination and reason, the latest first."""
    latest = sorted(tables.drops.items(), key=lambda item: -item[1].last_seen_ns)
    return [
        DropRow(
            verdict=short(Verdict, key.verdict),
            why=_caption(key.verdict),
            hook=short(Hook, key.hook),
            protocol=protocol(key.proto),
            source=to_text(key.src),
            destination=with_port(key.dst, key.dst_port),
            packets=dropped.packets,
            age_sec=max(0, now_ns - dropped.last_seen_ns) // SECOND_NS,
            ifindex=dropped.ifindex,
        )
        for key, dropped in latest
    ]


def counters(tables: Tables) -> list[CounterRow]:
    """One row for each hook and verdict that was ever reached, summed over all CPUs."""
    found = []
    for slot, values in sorted(tables.counters.items()):
        added = total(values)
        hook, verdict = divmod(slot, abi.VERDICTS)
        if added.packets:
            found.append(
                CounterRow(
                    hook=short(Hook, hook),
                    verdict=short(Verdict, verdict),
                    why=_caption(verdict),
                    dropped=verdict >= FIRST_DROP,
                    packets=added.packets,
                    bytes=added.bytes,
                )
            )
    return found


def map_usage(tables: Tables) -> list[MapRow]:
    """One row for each map; counting reads every key, so it takes a moment on a large node."""
    found = []
    for name, table in tables.by_name.items():
        spec = table.spec
        used = spec.entries if spec.kind.is_array else table.count()
        found.append(
            MapRow(
                name=name,
                kind=spec.kind.name.lower(),
                entries=used,
                limit=spec.entries,
                percent=round(100 * used / spec.entries, 1),
                key_size=spec.key_size,
                value_size=spec.value_size,
            )
        )
    return found


def protocol(number: int) -> str:
    """Name an IP protocol; one without a name here is its number."""
    return PROTOCOLS.get(number, str(number))


def _names(tables: Tables, kind: NameKind) -> dict[int, str]:
    return {key.id: name.text for key, name in tables.names.items() if key.kind == kind}


def _caption(verdict: int) -> str:
    return Verdict.CAPTIONS.get(verdict, "unknown to this version")
