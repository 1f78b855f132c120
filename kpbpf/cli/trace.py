"""`kpbpf trace FROM TO PORT`: what the live programs would do with one packet, in words.

Builds a packet, runs it through the attached from_pod program by BPF_PROG_TEST_RUN (from_wire,
if it comes by an uplink), and tells what the program said. Its mark makes the programs leave the
maps alone, and nothing is sent.
"""

import argparse
import errno
import random
import struct
from _socket import if_nametoindex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kpbpf.address import UNSPECIFIED4, ZERO, Address, from_text, is_ipv4, to_text, with_port
from kpbpf.cli import options
from kpbpf.cli.ep import choose
from kpbpf.cli.output import Row, add_output, document, facts
from kpbpf.datapath.frame import ICMP, PROTOCOLS, Packet, build, read
from kpbpf.errors import NotFound, Usage
from maps import abi, show
from maps.abi import Hook, Step, Verdict, short
from maps.layout import U32
from maps.table import Tables

ORDER = (
    Step.FRAGMENT,
    Step.ICMP_INNER,
    Step.FLOW_KNOWN,
    Step.FLOW_EXPIRED,
    Step.FLOW_JUDGED_AGAIN,
    Step.BACKEND_GONE,
    Step.SOURCE_CHECKED,
    Step.NODE_PORT,
    Step.SERVICE,
    Step.AFFINITY,
    Step.BACKEND_RANDOM,
    Step.MASQUERADED,
    Step.SOURCE_PORT,
    Step.HAIRPIN,
    Step.FLOW_CREATED,
    Step.MASQUERADE_UNDONE,
    Step.DESTINATION_REWRITTEN,
    Step.SOURCE_REWRITTEN,
    Step.TTL_SPENT,
    Step.LOCAL_POD,
    Step.ROUTED,
    Step.TO_NODE,
    Step.TO_STACK,
    Step.REFUSED,
)
"""Steps as a packet takes them; their numbers only say in which order they were thought of."""

_EXAMPLES = """
kpbpf trace 10.42.0.2 10.96.0.100 5201
kpbpf trace pod-a 10.96.0.53 53 --protocol udp
kpbpf trace default/client fd42::3 --protocol icmp
kpbpf trace 1 10.96.0.100 80 --source-port 41000    # a packet of a connection that stands
kpbpf trace --uplink eth0 203.0.113.9 192.0.2.10 30080    # a client outside, and a NodePort
"""


class Outcome(NamedTuple):
    """What the program said: a verdict's number, steps taken, and the packet afterwards."""

    verdict: int
    steps: int
    after: bytes


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what to send from where."""
    parser.add_argument(
        "source",
        metavar="FROM",
        help="endpoint: id, address, host interface, name; with --uplink any address",
    )
    parser.add_argument("to", metavar="TO", help="address of a Service or anything else")
    parser.add_argument("port", metavar="PORT", nargs="?", help="destination port; none for icmp")
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="tcp", type=str.lower, help="(tcp)"
    )
    parser.add_argument(
        "--source-port",
        metavar="PORT",
        help="of a connection that stands; a random one if not given",
    )
    parser.add_argument(
        "--uplink", metavar="INTERFACE", help="the packet comes from the network, by this uplink"
    )
    add_output(parser)
    options.command(
        parser,
        "Send one packet through the live programs, without sending it, and tell what happened.",
        _call,
        _EXAMPLES,
    )


def _call(arguments: argparse.Namespace) -> int:
    from kpbpf.cli import ready
    from maps.table import open_tables

    home = options.home(arguments)
    with open_tables(home) as tables:
        endpoints = show.endpoints(tables)
        origin = _uplink(tables, arguments) if arguments.uplink else _pod_of(endpoints, arguments)
        sent = _packet(arguments, origin)
        frame = build(sent, origin.src_mac, origin.dst_mac)
        with ready.live_program(home, origin.ifindex, origin.hook) as program:
            outcome = run(program, frame, origin.ifindex)
        row = {"from": origin.row, **explain(tables, read(frame), outcome, endpoints)}
    if arguments.output in ("json", "yaml"):
        document(arguments.output, row)
    else:
        _tell(row)
    return 0


class Origin(NamedTuple):
    """Where a packet comes from: by which interface and hook, from which addresses."""

    hook: Hook
    ifindex: int
    addresses: Sequence[Address]
    src_mac: bytes
    dst_mac: bytes
    row: Row
    """For people and machines; `named` is what people call it."""


def _pod_of(endpoints: Sequence[Row], arguments: argparse.Namespace) -> Origin:
    row = choose(endpoints, arguments.source)
    asked = options.ip_or_none(arguments.source)
    own = [asked] if asked else [from_text(ip) for ip in row["ips"]]
    told = {key: row[key] for key in ("id", "name", "host", "ips")}
    told["named"] = f"endpoint {row['id']} ({row['name'] or row['host']})"
    macs = _mac(row["pod_mac"]), _mac(row["node_mac"])
    return Origin(Hook.FROM_POD, row["ifindex"], own, *macs, told)


def _uplink(tables: Tables, arguments: argparse.Namespace) -> Origin:
    name = arguments.uplink
    try:
        ifindex = if_nametoindex(name)
    except OSError:
        raise NotFound(f"there is no interface {name} in this network namespace") from None
    device = tables.devices.get(U32(ifindex))
    if device is None:
        raise NotFound(f"{name} is no uplink: `kpbpf node` lists those of this node")
    source = options.ip(arguments.source)
    told = {"uplink": name, "ifindex": ifindex, "ips": [to_text(source)]}
    told["named"] = f"the network, by uplink {name}"
    return Origin(Hook.FROM_WIRE, ifindex, [source], _SOMEBODY, device.mac, told)


def run(program: int, frame: bytes, ifindex: int) -> Outcome:
    """Send a frame through a program as if it had come from an interface of this node."""
    from maps import bpf

    try:
        result = bpf.prog_test_run(program, frame, context(ifindex))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        raise NotFound(
            f"interface {ifindex} is not in this network namespace; trace from the node's own: "
            "nsenter --net=/run/netns/NODE kpbpf trace ..."
        ) from None
    verdict, steps = struct.unpack_from("=II", result.context, _CB)
    return Outcome(verdict, steps, result.data)


_SOMEBODY = bytes.fromhex("020000000001")
"""A neighbour's MAC address; nobody looks at it."""

_CB = 48
_MARKS = (0x6B706270, 0x74726163)  # "kpbp", "trac"; the programs know them too, see packet.h


def context(ifindex: int) -> bytes:
    """Make the struct __sk_buff of a marked packet: only ifindex and cb are set."""
    return struct.pack("=40xI4x12xII124x", ifindex, *_MARKS)


def explain(
    tables: Tables, sent: Packet, outcome: Outcome, endpoints: list[show.EndpointRow]
) -> dict[str, Any]:
    """Turn an outcome into a row: verdict, steps in words, packet before and after, names."""
    pods = {ip: row for row in endpoints for ip in row["ips"]}
    dropped = outcome.verdict >= show.FIRST_DROP
    refused = outcome.steps >> Step.REFUSED & 1
    after = read(outcome.after) if refused or not dropped else None
    details: dict[Step, str | None] = {
        Step.SERVICE: _service(tables, sent),
        Step.LOCAL_POD: _pod(pods, after.dst) if after else None,
    }
    if after and outcome.verdict == Verdict.PASS_TO_BACKEND:
        backend = with_port(after.dst, after.dst_port)
        details |= dict.fromkeys((Step.AFFINITY, Step.BACKEND_RANDOM), backend)
        details[Step.DESTINATION_REWRITTEN] = backend
    if after:
        client = with_port(after.src, after.src_port)
        details |= dict.fromkeys((Step.SOURCE_REWRITTEN, Step.MASQUERADED), client)
        details[Step.MASQUERADE_UNDONE] = with_port(after.dst, after.dst_port)
    to_backend = after if outcome.verdict == Verdict.PASS_TO_BACKEND else None
    return {
        "verdict": short(Verdict, outcome.verdict),
        "why": Verdict.CAPTIONS.get(outcome.verdict, "unknown to this version"),
        "dropped": dropped,
        "service": details[Step.SERVICE],
        "backend": with_port(to_backend.dst, to_backend.dst_port) if to_backend else None,
        "backend_pod": _pod(pods, to_backend.dst) if to_backend else None,
        "steps": _steps(outcome.steps, details),
        "before": str(sent),
        "after": str(after) if after else None,
    }


def _steps(taken: int, details: Mapping[Step, str | None]) -> list[dict[str, str | None]]:
    """Put the steps in order of travel; bits that this version does not know come last."""
    steps: list[dict[str, str | None]] = [
        {"step": step.short, "what": step.caption, "detail": details.get(step)}
        for step in ORDER
        if taken >> step & 1
    ]
    unknown = [bit for bit in range(32) if taken >> bit & 1 and bit not in Step.CAPTIONS]
    return steps + [
        {"step": short(Step, bit), "what": "unknown to this version", "detail": None}
        for bit in unknown
    ]


def _tell(row: Row) -> None:
    facts(
        [
            ("From", row["from"]["named"]),
            ("Packet", row["before"]),
        ]
    )
    print()
    for number, step in enumerate(row["steps"], 1):
        detail = f": {step['detail']}" if step["detail"] else ""
        print(f"{number:3}. {step['what']}{detail}")
    print()
    pairs = [("Verdict", f"{row['verdict']}: {row['why']}")]
    if row["backend"]:
        pairs.append(("Backend", f"{row['backend']} ({row['backend_pod'] or 'not on this node'})"))
    if row["after"]:
        pairs.append(("Answer" if row["dropped"] else "Leaves as", row["after"]))
    facts(pairs)


def _packet(arguments: argparse.Namespace, origin: Origin) -> Packet:
    dst = options.ip(arguments.to)
    proto = PROTOCOLS[arguments.protocol]
    src_port = options.port(arguments.source_port) if arguments.source_port else _ephemeral_port()
    if proto == ICMP:
        if arguments.port:
            raise Usage("ICMP has no ports: leave PORT out")
        dst_port = src_port
    elif arguments.port:
        dst_port = options.port(arguments.port)
    else:
        raise Usage(
            f"which port? say PORT, as in `kpbpf trace {arguments.source} {arguments.to} 80`"
        )
    return Packet(_source_address(arguments, origin, dst), dst, proto, src_port, dst_port)


def _source_address(arguments: argparse.Namespace, origin: Origin, dst: Address) -> Address:
    fitting = [addr for addr in origin.addresses if is_ipv4(addr) == is_ipv4(dst)]
    if not fitting:
        family = "IPv4" if is_ipv4(dst) else "IPv6"
        raise Usage(f"{arguments.source} has no {family} address to reach {to_text(dst)} from")
    return fitting[0]


def _ephemeral_port() -> int:
    return random.randint(32768, 60999)


def _service(tables: Tables, sent: Packet) -> str | None:
    for addr in (sent.dst, UNSPECIFIED4 if is_ipv4(sent.dst) else ZERO):
        frontend = tables.frontends.get(abi.FrontendKey(addr, sent.dst_port, sent.proto))
        # At the unspecified address stand NodePorts, which only this node's addresses have.
        if frontend is not None and (addr == sent.dst or _serves_node_ports(tables, sent.dst)):
            name = tables.names.get(abi.NameKey(abi.NameKind.SERVICE, frontend.service))
            return name.text if name else f"service {frontend.service}"
    return None


def _serves_node_ports(tables: Tables, addr: Address) -> bool:
    found = tables.addresses.get(abi.AddressKey(addr))
    return found is not None and bool(found.flags & abi.AddressFlag.NODE_PORT)


def _pod(pods: Mapping[str, Row], addr: Address) -> str | None:
    row = pods.get(to_text(addr))
    return f"endpoint {row['id']}, {row['name']}" if row else None


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
