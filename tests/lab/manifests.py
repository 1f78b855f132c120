"""Kubernetes objects for the lab and the demo, as plain dicts, and files of them.

Every Service here has one cluster IP a family and one port, for one or more protocols.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.lab.world import FAMILIES, Place

NODE_NAME = "node-1"
OTHER_NODE_NAME = "node-2"
Manifest = dict[str, Any]


class Ports(NamedTuple):
    """The port of a Service and that of its endpoints, for each of the protocols."""

    port: int = 80
    target: int = 8080
    protocols: tuple[str, ...] = ("TCP", "UDP")
    node_port: int = 0

    def manifest(self, number: int, **more: int) -> list[Manifest]:
        """Ports of that number, named by their protocols."""
        return [{"name": p.lower(), "protocol": p, "port": number, **more} for p in self.protocols]


USUAL_PORTS = Ports()


class Endpoint(NamedTuple):
    """A place that answers for a Service, with the conditions that its slice states."""

    place: Place
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    hints: Manifest | None = None

    @property
    def node_name(self) -> str:
        """The Node that it runs on; outside of it where the place does not say."""
        return self.place.on_node or (NODE_NAME if self.place.host_ifname else OTHER_NODE_NAME)

    def manifest(self, family: int) -> Manifest:
        """Its entry in an EndpointSlice of that family."""
        return {
            "addresses": [self.place.addresses[family]],
            "nodeName": self.node_name,
            "conditions": {
                "ready": self.ready,
                "serving": self.serving,
                "terminating": self.terminating,
            },
            **({"hints": self.hints} if self.hints else {}),
        }


def service(
    name: str,
    addresses: dict[int, str],
    ports: Ports,
    spec: Manifest,
    status: Manifest | None = None,
) -> Manifest:
    """Return a ClusterIP Service; `spec` adds or replaces fields."""
    more = {"nodePort": ports.node_port} if ports.node_port else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses[FAMILIES[0]],
            "clusterIPs": [addresses[family] for family in FAMILIES],
            "ipFamilies": [f"IPv{family}" for family in FAMILIES],
            "ports": ports.manifest(ports.port, **more),
        }
        | spec,
        **({"status": status} if status else {}),
    }


def node(name: str, addresses: list[str], pod_cidrs: list[str], labels: dict[str, str]) -> Manifest:
    """Return a Node with these internal addresses."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs},
        "status": {"addresses": [{"type": "InternalIP", "address": one} for one in addresses]},
    }


def service_cidr(name: str, *blocks: str) -> Manifest:
    """Return a ServiceCIDR: cluster IPs come from these."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": list(blocks)},
    }


def slices(name: str, endpoints: list[Endpoint], ports: Ports) -> list[Manifest]:
    """Return the EndpointSlices of a Service, one a family."""
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-ipv{family}",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": f"IPv{family}",
            "ports": ports.manifest(ports.target),
            "endpoints": [endpoint.manifest(family) for endpoint in endpoints],
        }
        for family in FAMILIES
    ]


def write(path: Path, *manifests: Manifest) -> None:
    """Replace a file as editors and kubelets do: written beside it, then renamed."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(yaml.safe_dump_all(manifests, sort_keys=False))
    beside.rename(path)
