"""The fields of Nodes, Pods and Namespaces that kpbpf uses (SEMANTICS A3, C17, C18)."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from kpbpf.address import Address
from kpbpf.kube import fields
from kpbpf.kube.fields import BadObject, Raw, each, mapping, shared, text, within
from kpbpf.model.objects import Key, Namespace, Node, Pod

ZONE_LABEL = "topology.kubernetes.io/zone"


def read_node(key: Key, raw: Raw, _remarks: list[BadObject]) -> Node:
    """A Node."""
    labels = within(raw, "metadata", fields.labels)
    found = within(raw, "status", lambda status: each(status, "addresses", _node_address))
    kept = tuple(addr for addr in found if addr is not None)
    return Node(key.name, labels.get(ZONE_LABEL, ""), kept)


def _node_address(value: object) -> Address | None:
    raw = mapping(value)
    if text(raw, "type") not in ("InternalIP", "ExternalIP"):
        return None
    try:
        return fields.ip(raw.get("address"))
    except BadObject as bad:
        raise bad.under("address") from None


def read_pod(key: Key, raw: Raw, _remarks: list[BadObject]) -> Pod:
    """A Pod."""
    labels = within(raw, "metadata", fields.labels)
    node, host_network = within(raw, "spec", _pod_spec)
    phase, addresses = within(raw, "status", _pod_status)
    return Pod(
        namespace=key.namespace,
        name=key.name,
        node=node,
        addresses=addresses,
        labels=shared(_sorted(labels)),
        host_network=host_network,
        finished=phase in ("Succeeded", "Failed"),
    )


def _pod_spec(raw: Raw) -> tuple[str, bool]:
    return sys.intern(text(raw, "nodeName")), fields.flag(raw, "hostNetwork", False)


def _pod_status(raw: Raw) -> tuple[str, tuple[Address, ...]]:
    def pod_ip(value: object) -> Address:
        try:
            return fields.ip(mapping(value).get("ip"))
        except BadObject as bad:
            raise bad.under("ip") from None

    several = each(raw, "podIPs", pod_ip)
    if several or not raw.get("podIP"):
        return text(raw, "phase"), several
    try:
        return text(raw, "phase"), (fields.ip(raw["podIP"]),)
    except BadObject as bad:
        raise bad.under("podIP") from None


def read_namespace(key: Key, raw: Raw, _remarks: list[BadObject]) -> Namespace:
    """A Namespace."""
    labels = within(raw, "metadata", fields.labels)
    return Namespace(key.name, shared(_sorted(labels)))


def _sorted(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))
