"""Builders of raw Kubernetes objects, as an API server would hand them out.

Good defaults; keywords override. `text(...)` makes a manifest of them, `model(...)` reads one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from kpbpf.kube.parse import Model, parse

Raw = dict[str, Any]


def service(
    name: str = "web",
    ip: str | list[str] = "10.96.0.10",
    ports: Iterable[Raw | int] = (80,),
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    ingress: Iterable[str] = (),
    created: str = "",
    **spec: Any,
) -> Raw:
    """A ClusterIP Service; a bare number in `ports` is a TCP port, and `ip` may be a list.

    `ingress` are its load balancer's addresses, `created` when it was made, as RFC 3339 writes it.
    """
    ips = [ip] if isinstance(ip, str) else ip
    status = {"status": {"loadBalancer": {"ingress": [{"ip": each} for each in ingress]}}}
    metadata = _metadata(name, namespace, labels)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata | ({"creationTimestamp": created} if created else {}),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ports": [port(item) if isinstance(item, int) else item for item in ports],
            **spec,
        },
    } | (status if ingress else {})


def port(number: int, name: str = "", protocol: str = "TCP", **more: Any) -> Raw:
    """A port of a Service or of a slice."""
    return {"name": name, "port": number, "protocol": protocol, **more}


def slice_(
    endpoints: Iterable[Raw | str] = ("10.1.0.1",),
    of: str = "web",
    name: str = "",
    ports: Iterable[Raw | int] = (8080,),
    family: str = "IPv4",
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    triggered: str = "",
) -> Raw:
    """An EndpointSlice of Service `of`; a bare address in `endpoints` is a ready one.

    `triggered` is the time in its annotation of that purpose, as RFC 3339 writes it.
    """
    raw: Raw = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _metadata(
            name or f"{of}-abcde",
            namespace,
            {"kubernetes.io/service-name": of, **(labels or {})},
        ),
        "addressType": family,
        "ports": [port(item) if isinstance(item, int) else item for item in ports],
        "endpoints": [endpoint(item) if isinstance(item, str) else item for item in endpoints],
    }
    if triggered:
        raw["metadata"]["annotations"] = {
            "endpoints.kubernetes.io/last-change-trigger-time": triggered
        }
    return raw


def endpoint(
    address: str,
    node: str = "node-b",
    *,
    ready: bool = True,
    serving: bool | None = None,
    terminating: bool = False,
    zones: Iterable[str] = (),
    nodes: Iterable[str] = (),
) -> Raw:
    """One endpoint, on another node than the tests' own node-a unless told."""
    raw: Raw = {
        "addresses": [address],
        "conditions": {
            "ready": ready,
            "serving": ready if serving is None else serving,
            "terminating": terminating,
        },
        "nodeName": node,
    }
    hints = {
        key: [{"name": name} for name in names]
        for key, names in (("forZones", list(zones)), ("forNodes", list(nodes)))
        if names
    }
    return raw | ({"hints": hints} if hints else {})


def node(
    name: str = "node-a",
    zone: str = "",
    addresses: Iterable[str] = ("192.0.2.1",),
    **spec: Any,
) -> Raw:
    """A node; `zone` becomes its topology label."""
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in addresses]},
    }


def pod(
    name: str = "web-0",
    ip: str = "10.1.0.1",
    node: str = "node-a",
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    phase: str = "Running",
    uid: str = "",
) -> Raw:
    """A pod with one address."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(name, namespace, labels) | ({"uid": uid} if uid else {}),
        "spec": {"nodeName": node},
        "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]},
    }


def namespace(name: str = "default", **labels: str) -> Raw:
    """A namespace."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, **labels}},
    }


def service_range(*cidrs: str, name: str = "kubernetes") -> Raw:
    """A ServiceCIDR; "kubernetes" is the one that the API server makes."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": list(cidrs)},
    }


def policy(
    name: str = "guard",
    namespace: str = "default",
    pods: Raw | None = None,
    **spec: Any,
) -> Raw:
    """A NetworkPolicy for the pods that `pods` selects, all of them unless told.

    `ingress`, `egress` and `policyTypes` are absent unless given.
    """
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(name, namespace, None),
        "spec": {"podSelector": pods or {}, **spec},
    }


def text(*objects: Raw) -> str:
    """A manifest: the objects as documents of one YAML file."""
    return "\n---\n".join(json.dumps(raw, indent=1) for raw in objects) + "\n"


def model(raw: Raw) -> Model:
    """The model value of a raw object that is in order."""
    return parse(raw).model


def _metadata(name: str, namespace: str, labels: dict[str, str] | None) -> Raw:
    return {"name": name, "namespace": namespace, "labels": labels or {}}
