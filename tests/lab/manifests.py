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

    def manifest(self, number: int) -> list[Manifest]:
        """Ports of that number, named by their protocols."""
        return [{"name": p.lower(), "protocol": p, "port": number} for p in self.protocols]


USUAL_PORTS = Ports()


class Endpoint(NamedTuple):
    """A place that answers for a Service, with the conditions that its slice states."""

    place: Place
    ready: bool = True
    serving: bool = True
    terminating: bool = False

    def manifest(self, family: int) -> Manifest:
        """Its entry in an EndpointSlice of that family."""
        return {
            "addresses": [self.place.addresses[family]],
            "nodeName": NODE_NAME if self.place.host_ifname else OTHER_NODE_NAME,
            "conditions": {
                "ready": self.ready,
                "serving": self.serving,
                "terminating": self.terminating,
            },
        }


def service(name: str, addresses: dict[int, str], ports: Ports, spec: Manifest) -> Manifest:
    """Return a ClusterIP Service; `spec` adds or replaces fields."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses[FAMILIES[0]],
            "clusterIPs": [addresses[family] for family in FAMILIES],
            "ipFamilies": [f"IPv{family}" for family in FAMILIES],
            "ports": ports.manifest(ports.port),
        }
        | spec,
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
