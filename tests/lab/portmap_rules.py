"""The rules that the CNI plugin portmap makes for a pod's hostPorts, in a node's namespace.

Chains do what its do: DNAT of whatever is addressed to the node itself, and masquerade of what
comes from the pod's own address or from 127.0.0.1, so that replies come back. They have its names
with the port behind, so that each hostPort comes and goes by itself. Its `masqAll` is not written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.lab import iptables
from tests.lab.world import FAMILIES, IPV4, Place

PROTOCOLS = ("tcp", "udp")
_MARK = "0x2000/0x2000"


class HostPort(NamedTuple):
    """A port of the node, and the pod's port behind it."""

    host_port: int
    pod: Place
    port: int


def tables(mapped: HostPort, family: int) -> dict[str, list[str]]:
    """All rules of one family."""
    address = mapped.pod.addresses[family]
    own = f"{address}/{32 if family == IPV4 else 128}"
    target = f"{address if family == IPV4 else f'[{address}]'}:{mapped.port}"
    to_pod, dnat, masq, mark = (
        f"CNI-{name}-{mapped.host_port}"
        for name in ("DN", "HOSTPORT-DNAT", "HOSTPORT-MASQ", "HOSTPORT-SETMARK")
    )
    rules = [
        f"-A PREROUTING -m addrtype --dst-type LOCAL -j {dnat}",
        f"-A OUTPUT -m addrtype --dst-type LOCAL -j {dnat}",
        f"-A POSTROUTING -j {masq}",
        f"-A {masq} -m mark --mark {_MARK} -j MASQUERADE",
        f"-A {mark} -j MARK --set-xmark {_MARK}",
    ]
    for protocol in PROTOCOLS:
        at = f"-p {protocol} --dport {mapped.host_port}"
        rules += [
            f"-A {dnat} {at} -j {to_pod}",
            f"-A {to_pod} -s {own} {at} -j {mark}",
            *([f"-A {to_pod} -s 127.0.0.1/32 {at} -j {mark}"] * (family == IPV4)),
            f"-A {to_pod} {at} -j DNAT --to-destination {target}",
        ]
    return {"nat": rules}


@contextmanager
def host_port(node: Place, mapped: HostPort, make: str = "legacy") -> Iterator[None]:
    """A pod's hostPort on a node, TCP and UDP, for the length of the block."""
    for family in FAMILIES:
        iptables.put(node, family, tables(mapped, family), make)
    try:
        yield
    finally:
        for family in FAMILIES:
            iptables.remove(node, family, tables(mapped, family), make)
