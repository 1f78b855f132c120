"""A node under test: the programs in the kernel, with pods and Services put straight in the maps.

A packet goes in by a hook, a `Result` comes out. Each packet is first traced, which must leave
every map as it was and must tell the same verdict; then it is sent, and the verdict is what was
counted. Checksums of whatever comes out are always verified.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any

from scapy.layers.l2 import Ether
from scapy.packet import Packet

from kpbpf import address
from kpbpf.home import Home
from maps import abi, bpf
from maps.abi import BackendFlag, ConfigFlag, FrontendFlag, Hook, MemberFlag, State, Step, Verdict
from maps.layout import U32
from maps.table import Tables, total
from tests.datapath.checksums import wrong_checksums
from tests.datapath.packets import IPV4, IPV6, NUMBERS, End, Talk
from tests.datapath.result import DROP, Pod, Result

WRITTEN_BY_PROGRAMS = ("flows", "fragments", "affinities", "counters", "drops", "buckets")
TRACE_MARKS = (0x6B706270, 0x74726163)
ZERO = U32(0)
SECOND = 1_000_000_000
TICKS = 1 << 16
MONOTONIC_COARSE = 6
"""CLOCK_MONOTONIC_COARSE of linux/time.h, which Python has no name for."""

TIMEOUTS = {
    State.TCP_NEW: 60,
    State.TCP_ESTABLISHED: 86400,
    State.TCP_CLOSING: 10,
    State.UDP_NEW: 30,
    State.UDP_STREAM: 120,
    State.SCTP_NEW: 60,
    State.SCTP_ESTABLISHED: 86400,
    State.SCTP_CLOSING: 10,
    State.ICMP: 30,
    State.OTHER: 120,
}


class Node:
    """The node: hooks to send packets through, and what its daemon would have written."""

    def __init__(
        self, home: Home, tables: Tables, programs: dict[str, int], pods: Sequence[Pod]
    ) -> None:
        self.home = home
        self.tables = tables
        self._programs = programs
        self.client, self.server, self.other = pods
        self._services: dict[tuple[End, str], int] = {}
        self._bases = 0
        self.here = {text for pod in pods for text in pod.addresses}
        """Addresses whose endpoints are of this node."""

    # ---- what the daemon would write ------------------------------------------------------

    def reset(self) -> None:
        """Empty every map; then three pods and a default configuration."""
        for table in self.tables.by_name.values():
            if not table.spec.kind.is_array:
                table.delete_many_raw([key for key, _ in table.items_raw()])
        self.forget_refusals()
        self._services.clear()
        self.configure()
        for pod in (self.client, self.server, self.other):
            self.add_endpoint(pod)

    def configure(self, **changes: Any) -> None:
        """Write the configuration: defaults, and what is to differ."""
        timeouts = tuple(TIMEOUTS.get(State(i), 0) if i < len(State) else 0 for i in range(16))
        config = abi.Config(
            flags=ConfigFlag.READY | ConfigFlag.LOCAL_FAST_PATH | ConfigFlag.DETECT_LOCAL,
            epoch=1,
            udp_epoch=1,
            refusals_per_sec=1_000_000,
            timeout_sec=timeouts,
            hairpin4=address.from_text(IPV4.hairpin),
            hairpin6=address.from_text(IPV6.hairpin),
            node4=address.ZERO,
            node6=address.ZERO,
            node_netns=0,
            uplink_ifindex=0,
            node_port_first=0,
            node_port_last=0,
            masquerade_first=32768,
            masquerade_last=65535,
        )
        self.tables.configs.put(ZERO, config._replace(**changes))

    def change_config(self, **changes: Any) -> None:
        """Change some fields of the configuration that stands."""
        config = self.tables.configs.get(ZERO)
        assert config
        self.tables.configs.put(ZERO, config._replace(**changes))

    def fast_path(self, on: bool) -> None:
        """Switch the local fast path."""
        self.switch(ConfigFlag.LOCAL_FAST_PATH, on=on)

    def switch(self, flag: ConfigFlag, *, on: bool = True) -> None:
        """Set or clear one flag of the configuration."""
        config = self.tables.configs.get(ZERO)
        assert config
        self.change_config(flags=config.flags | flag if on else config.flags & ~flag)

    def raise_epoch(self, udp: bool = False) -> None:
        """Have known flows judged once more."""
        config = self.tables.configs.get(ZERO)
        assert config
        name = "udp_epoch" if udp else "epoch"
        self.change_config(**{name: getattr(config, name) + 1})

    def add_endpoint(self, pod: Pod) -> None:
        """Let the programs know a pod."""
        for text in pod.addresses:
            endpoint = abi.Endpoint(
                id=pod.ifindex,
                ifindex=pod.ifindex,
                pod_mac=address.mac_bytes(pod.mac),
                node_mac=address.mac_bytes(pod.node_mac),
                mode=abi.Mode.VETH,
            )
            self.tables.endpoints.put(abi.EndpointKey(address.from_text(text)), endpoint)

    def remove_endpoint(self, pod: Pod) -> None:
        """Let the programs forget a pod."""
        for text in pod.addresses:
            self.tables.endpoints.delete(abi.EndpointKey(address.from_text(text)))

    def serve(
        self,
        front: End,
        backends: Iterable[End],
        proto: str = "TCP",
        *,
        local: Iterable[End] = (),
        serving: Iterable[End] = (),
        affinity_sec: int = 0,
        local_only: bool = False,
        flags: int = 0,
        same_as: End | None = None,
    ) -> int:
        """Write a Service, or what became of it; return its id.

        `serving` are endpoints that only known UDP flows still use; `flags` are those of
        FrontendFlag; `same_as` is another frontend of the same Service port.
        """
        cluster, node = list(backends), list(local)
        number = self._services.setdefault((same_as or front, proto), len(self._services) + 1)
        self._bases += 1
        for slot, end in enumerate([*cluster, *node]):
            here = BackendFlag.HERE if end.addr in self.here else 0
            backend = abi.Backend(address.from_text(end.addr), end.port, here)
            self.tables.backends.put(abi.BackendKey(self._bases, slot), backend)
        self._write_members(number, cluster, node, serving)
        frontend = abi.Frontend(
            service=number,
            base=self._bases,
            count=len(cluster),
            local_count=len(node),
            affinity_sec=affinity_sec,
            flags=flags | (FrontendFlag.LOCAL_ONLY if local_only else 0),
        )
        self.tables.frontends.put(_frontend_key(front, proto), frontend)
        return number

    def _write_members(
        self, service: int, cluster: list[End], node: list[End], serving: Iterable[End]
    ) -> None:
        old = [key for key, _ in self.tables.members.items() if key.service == service]
        for key in old:
            self.tables.members.delete(key)
        flags: dict[End, int] = dict.fromkeys(serving, MemberFlag.SERVING)
        for ends, flag in ((cluster, MemberFlag.CLUSTER), (node, MemberFlag.LOCAL)):
            for end in ends:
                flags[end] = flags.get(end, MemberFlag.SERVING) | flag
        for end, bits in flags.items():
            here = MemberFlag.HERE if end.addr in self.here else 0
            key = abi.MemberKey(address.from_text(end.addr), service, end.port)
            self.tables.members.put(key, abi.Member(bits | here))

    def remove_service(self, front: End, proto: str = "TCP") -> None:
        """Take a frontend away."""
        self.tables.frontends.delete(_frontend_key(front, proto))

    # ---- what the programs remember -------------------------------------------------------

    def flow(self, talk: Talk, diverted: int = 0) -> abi.Flow | None:
        """The record, or alias, of a connection as one place sees it."""
        return self.tables.flows.get(self._flow_key(talk, diverted))

    def change_flow(self, talk: Talk, diverted: int = 0, **changes: Any) -> None:
        """Change fields of a record or alias."""
        key = self._flow_key(talk, diverted)
        flow = self.tables.flows.get(key)
        assert flow, f"no flow {key}"
        self.tables.flows.put(key, flow._replace(**changes))

    def idle(self, seconds: float, *talks: Talk) -> None:
        """Let time pass for some records, or for all: a tick at least."""
        keys = [self._flow_key(talk, 0) for talk in talks]
        for key, flow in list(self.tables.flows.items()):
            if not keys or key in keys:
                # Wraps where the machine has not been up for so long, as programs expect.
                seen = (flow.last_seen_ns - int(seconds * SECOND)) % (1 << 64)
                tick = (flow.tick - 1) % TICKS
                self.tables.flows.put(key, flow._replace(last_seen_ns=seen, tick=tick))

    def forget(self, talk: Talk) -> None:
        """Take one record or alias away."""
        assert self.tables.flows.delete(self._flow_key(talk, 0))

    def flow_count(self) -> int:
        """How many records and aliases there are."""
        return sum(1 for _ in self.tables.flows.items_raw())

    @staticmethod
    def _flow_key(talk: Talk, diverted: int) -> abi.FlowKey:
        numbers = {**NUMBERS, "ICMP": 1 if talk.net.version == 4 else 58}
        low, high = sorted((talk.src, talk.dst), key=_words)
        return abi.FlowKey(
            address.from_text(low.addr),
            address.from_text(high.addr),
            low.port,
            high.port,
            numbers[talk.proto],
            diverted,
        )

    def forget_refusals(self) -> None:
        """Fill the buckets of refusals again."""
        empty = [abi.Bucket(0, 0)] * bpf.possible_cpus()
        self.tables.buckets.put(ZERO, empty)

    def program(self, name: str) -> int:
        """The file descriptor of a program."""
        return self._programs[name]

    # ---- packets --------------------------------------------------------------------------

    def from_pod(self, pod: Pod, packet: Packet, **fields: int) -> Result:
        """A packet leaves a pod; fields are those of struct __sk_buff."""
        return self.send(Hook.FROM_POD, pod, pod.mac, pod.node_mac, packet, fields)

    def to_pod(self, pod: Pod, packet: Packet, **fields: int) -> Result:
        """A packet enters a pod, from the node's stack."""
        return self.send(Hook.TO_POD, pod, pod.node_mac, pod.mac, packet, fields)

    def send(
        self, hook: Hook, pod: Pod, src: str, dst: str, packet: Packet, fields: dict[str, int]
    ) -> Result:
        """Send a packet through a hook: traced first, then for real. `pod` is whose interface."""
        frame = packet if isinstance(packet, Ether) else Ether(src=src, dst=dst) / packet
        data = bytes(frame)
        before = self.written(WRITTEN_BY_PROGRAMS)
        verdict, steps = self.trace(hook, pod, data, **fields)
        after = self.written(WRITTEN_BY_PROGRAMS)
        changed = [name for name in before if before[name] != after[name]]
        assert not changed, f"tracing changed {changed}: {frame.command()}"
        counted = self.counters()
        done = self.run(hook, pod, data, **fields)
        found, size = self._counted_since(counted, hook)
        assert size == len(done.data), f"counted {size} bytes of {len(done.data)}"
        if found != Verdict.DROP_REFUSAL_RATE:
            assert verdict == found, f"trace said {verdict}, but it was {found}"
        if done.retval != DROP:
            wrong = wrong_checksums(done.data)
            assert not wrong, f"wrong checksums {wrong}: {Ether(done.data).command()}"
        return Result(frame, found.short, done.retval, done.data, steps, hook)

    def run(self, hook: Hook, pod: Pod, data: bytes, **fields: int) -> bpf.TestRun:
        """Run one frame through a program, and nothing else."""
        return bpf.prog_test_run(
            self.program(hook.short), data, context(pod.ifindex, False, **fields)
        )

    def trace(
        self, hook: Hook, pod: Pod, data: bytes, **fields: int
    ) -> tuple[Verdict, frozenset[Step]]:
        """Ask a program what it would do: verdict and steps."""
        marked = context(pod.ifindex, True, **fields)
        done = bpf.prog_test_run(self.program(hook.short), data, marked)
        verdict, bits = struct.unpack_from("=II", done.context, CB)
        return Verdict(verdict), frozenset(step for step in Step if bits >> step & 1)

    def written(self, names: Iterable[str]) -> dict[str, dict[bytes, bytes]]:
        """What stands in maps, in whole."""
        return {name: dict(self.tables.by_name[name].items_raw()) for name in names}

    def counters(self) -> list[abi.Counter]:
        """All counters, summed over CPUs."""
        return [total(values) for _, values in sorted(self.tables.counters.items())]

    def _counted_since(self, before: list[abi.Counter], hook: Hook) -> tuple[Verdict, int]:
        after = self.counters()
        changed = [slot for slot in range(len(after)) if after[slot] != before[slot]]
        assert len(changed) == 1, f"one packet changed counters {changed}"
        (slot,) = changed
        assert after[slot].packets == before[slot].packets + 1
        assert slot // abi.VERDICTS == hook
        return Verdict(slot % abi.VERDICTS), after[slot].bytes - before[slot].bytes


def _words(end: End) -> tuple[int, ...]:
    """An end as flow.h orders ends: by the words in memory, the last one first."""
    first, second = struct.unpack("=QQ", address.from_text(end.addr))
    return (second, first, *struct.unpack("=H", struct.pack("!H", end.port)))


def _frontend_key(front: End, proto: str) -> abi.FrontendKey:
    return abi.FrontendKey(address.from_text(front.addr), front.port, NUMBERS.get(proto, 0))


# ---- struct __sk_buff, as far as a test-run takes it (linux/bpf.h) ------------------------

SK_BUFF_SIZE = 192
CB = 48
OFFSETS = {
    "mark": 8,
    "ingress_ifindex": 36,
    "ifindex": 40,
    "cb2": CB + 8,
    "gso_segs": 164,
    "gso_size": 176,
}


def context(ifindex: int, /, trace: bool = False, **fields: int) -> bytes:
    """Lay out the context of a packet that is seen at an interface."""
    packed = bytearray(SK_BUFF_SIZE)
    for name, value in {"ifindex": ifindex, **fields}.items():
        struct.pack_into("=I", packed, OFFSETS[name], value)
    if trace:
        struct.pack_into("=II", packed, CB + 12, *TRACE_MARKS)
    return bytes(packed)


def coarse_now_ns() -> int:
    """The clock of the programs."""
    return time.clock_gettime_ns(MONOTONIC_COARSE)
