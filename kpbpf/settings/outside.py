"""What fields about clients outside of pods mean: NodePorts' addresses, and who is a local pod.

SEMANTICS A32 and A42; from canonical values to parts of the settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kpbpf import address
from kpbpf.errors import Usage
from kpbpf.settings.settings import Block, DetectLocal, NodePortAddresses

_NAMED = {"localhost": ("127.0.0.0/8", "::1/128"), "all": ("0.0.0.0/0", "::/0")}
_PLACES = {
    "BridgeInterface": ("detectLocal.bridgeInterface", "--pod-bridge-interface"),
    "InterfaceNamePrefix": ("detectLocal.interfaceNamePrefix", "--pod-interface-name-prefix"),
}


def node_port_addresses(values: Iterable[str], mode: str) -> NodePortAddresses:
    """Where NodePorts are served; nobody said it: as kube-proxy in this mode."""
    given = [word for value in values for word in _NAMED.get(value, (value,))]
    if not given:
        return NodePortAddresses(primary=mode == "nftables")
    blocks = [address.block_from_text(word) for word in given if word != "primary"]
    return NodePortAddresses("primary" in given, tuple(blocks))


def one_family(values: Iterable[str]) -> list[str]:
    """A warning where blocks leave a family without NodePorts."""
    asked = node_port_addresses(values, "")
    families = {address.is_ipv4(base) for base, _ in asked.blocks}
    if asked.primary or len(families) != 1:
        return []
    has, lacks = ("IPv4", "IPv6") if families == {True} else ("IPv6", "IPv4")
    return [f"nodePortAddresses has blocks of {has} only: there are no NodePorts of {lacks}"]


def detect_local(values: Mapping[str, Any]) -> DetectLocal:
    """How local pods are told; a clusterCIDR alone asks for that mode, as with kube-proxy."""
    cidrs = values["clusterCIDR"]
    mode = values["detectLocalMode"] or ("ClusterCIDR" if cidrs else "")
    if mode == "ClusterCIDR":
        return DetectLocal(mode, _first_of_each_family(cidrs.split(",") if cidrs else ()))
    if mode not in _PLACES:
        return DetectLocal(mode)
    field, flag = _PLACES[mode]
    if not values[field]:
        raise Usage(f"detectLocalMode {mode} needs {field}, which {flag} sets")
    return DetectLocal(mode, (), values[field])


def _first_of_each_family(texts: Iterable[str]) -> tuple[Block, ...]:
    first: dict[bool, Block] = {}
    for block in map(address.block_from_text, texts):
        first.setdefault(address.is_ipv4(block[0]), block)
    return tuple(first.values())
