"""The fields of Nodes, Pods, Namespaces and ServiceCIDRs that kpbpf uses (A3, A4, C17, C18)."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from kpbpf.address import Address
from kpbpf.kube import fields, values
from kpbpf.kube.fields import BadObject, Raw, each, mapping, text, within
from kpbpf.kube.values import shared
from kpbpf.model.objects import Block, Key, Namespace, Node, Pod, ServiceRange

ZONE_LABEL = "topology.kubernetes.io/zone"


#: Key of the taint on a node that is about to be taken away.
LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"


def read_node(key: Key, raw: Raw, remarks: list[BadObject]) -> Node:
    """A Node; blocks that are none are remarked on, and left out."""
    labels = within(raw, "metadata", values.labels)
    found = within(raw, "status", lambda status: each(status, "addresses", _node_address))
    unusable: list[BadObject] = []
    pod_cidrs, taints = within(raw, "spec", lambda spec: _node_spec(spec, unusable))
    remarks += [remark.under("spec") for remark in unusable]
    return Node(
        name=key.name,
        zone=labels.get(ZONE_LABEL, ""),
        addresses=tuple(addr for addr in found if addr is not None),
        pod_cidrs=pod_cidrs,
        deleting=fields.section(raw, "metadata").get("deletionTimestamp") is not None,
        leaving=LEAVING_TAINT in taints,
    )


def _node_spec(spec: Raw, remarks: list[BadObject]) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """The blocks of its pods, and the keys of its taints."""
    taints = each(spec, "taints", lambda value: text(mapping(value), "key"))
    blocks = fields.usable(spec, "podCIDRs", values.block, remarks)
    if not blocks and text(spec, "podCIDR"):
        try:
            return (values.block(spec["podCIDR"]),), taints
        except BadObject as bad:
            remarks.append(bad.under("podCIDR"))
    return blocks, taints


def _node_address(value: object) -> Address | None:
    raw = mapping(value)
    if text(raw, "type") not in ("InternalIP", "ExternalIP"):
        return None
    try:
        return values.ip(raw.get("address"))
    except BadObject as bad:
        raise bad.under("address") from None


def read_pod(key: Key, raw: Raw, _remarks: list[BadObject]) -> Pod:
    """A Pod."""
    labels = within(raw, "metadata", values.labels)
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
        uid=within(raw, "metadata", lambda metadata: text(metadata, "uid")),
    )


def _pod_spec(raw: Raw) -> tuple[str, bool]:
    return sys.intern(text(raw, "nodeName")), fields.flag(raw, "hostNetwork", False)


def _pod_status(raw: Raw) -> tuple[str, tuple[Address, ...]]:
    def pod_ip(value: object) -> Address:
        try:
            return values.ip(mapping(value).get("ip"))
        except BadObject as bad:
            raise bad.under("ip") from None

    several = each(raw, "podIPs", pod_ip)
    if several or not raw.get("podIP"):
        return text(raw, "phase"), several
    try:
        return text(raw, "phase"), (values.ip(raw["podIP"]),)
    except BadObject as bad:
        raise bad.under("podIP") from None


def read_namespace(key: Key, raw: Raw, _remarks: list[BadObject]) -> Namespace:
    """A Namespace."""
    labels = within(raw, "metadata", values.labels)
    return Namespace(key.name, shared(_sorted(labels)))


def read_service_range(key: Key, raw: Raw, remarks: list[BadObject]) -> ServiceRange:
    """A ServiceCIDR; a block that is none is remarked on, and left out."""
    unusable: list[BadObject] = []
    blocks = within(raw, "spec", lambda spec: fields.usable(spec, "cidrs", values.block, unusable))
    remarks += [remark.under("spec") for remark in unusable]
    return ServiceRange(key.name, blocks)


def _sorted(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))
