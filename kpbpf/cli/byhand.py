"""Services made by hand: what `kpbpf svc add` was told, as ordinary manifests.

One JSON file for each Service, a List of the Service and its EndpointSlices, in the run
directory's `by-hand`. The daemon reads them like all others. Files are put in place in whole and
removed in whole; nothing here looks into a map.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kpbpf.address import Address, from_text, is_ipv4, to_text
from kpbpf.cli.options import PROTOCOLS

NAMESPACE = "by-hand"
"""Of Services that were given no name."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

_Raw = dict[str, Any]


class ByHand(NamedTuple):
    """One Service: a frontend, its backends, and its affinity time-out (0: none)."""

    namespace: str
    name: str
    addr: Address
    port: int
    proto: int
    backends: tuple[tuple[Address, int], ...] = ()
    affinity_sec: int = 0

    @property
    def path(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"


def is_label(text: str) -> bool:
    """Whether a text may be the name of a Service or a namespace (RFC 1123)."""
    return _LABEL.fullmatch(text) is not None


def default_name(addr: Address, port: int, proto: int) -> str:
    """Name a Service by its frontend, as a DNS label: "svc-10-96-0-100-5201-tcp"."""
    ip = to_text(addr).replace(".", "-").replace(":", "-")
    return f"svc-{ip}-{port}-{_proto_name(proto).lower()}"


def write(directory: Path, service: ByHand) -> Path:
    """Put its manifest in place, in whole, instead of one that was there."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{service.namespace}.{service.name}.json"
    draft = directory / f".{path.name}.{os.getpid()}"
    draft.write_text(json.dumps(manifest(service), indent=2) + "\n")
    draft.replace(path)
    return path


def read_all(directory: Path) -> Iterator[tuple[Path, ByHand]]:
    """Read back what `write` wrote, in order of names; files of another shape are passed over."""
    for path in sorted(directory.glob("*.json")):
        service = _read(path)
        if service is not None:
            yield path, service


def manifest(service: ByHand) -> _Raw:
    """Make the List of a Service and one EndpointSlice for each backend port."""
    by_port: defaultdict[int, list[Address]] = defaultdict(list)
    for addr, port in service.backends:
        by_port[port].append(addr)
    slices = [_slice(service, port, addrs) for port, addrs in by_port.items()]
    return {"apiVersion": "v1", "kind": "List", "items": [_service(service), *slices]}


def _service(service: ByHand) -> _Raw:
    spec: _Raw = {
        "clusterIP": to_text(service.addr),
        "ports": [{"port": service.port, "protocol": _proto_name(service.proto)}],
    }
    if service.affinity_sec:
        spec["sessionAffinity"] = "ClientIP"
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": service.affinity_sec}}
    metadata = {"namespace": service.namespace, "name": service.name}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _slice(service: ByHand, port: int, addrs: Iterable[Address]) -> _Raw:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": service.namespace,
            "name": f"{service.name}-{port}",
            "labels": {"kubernetes.io/service-name": service.name},
        },
        "addressType": "IPv4" if is_ipv4(service.addr) else "IPv6",
        "ports": [{"name": "", "port": port, "protocol": _proto_name(service.proto)}],
        "endpoints": [{"addresses": [to_text(addr)]} for addr in addrs],
    }


def _read(path: Path) -> ByHand | None:
    try:
        service, *slices = json.loads(path.read_text())["items"]
        (port,) = service["spec"]["ports"]
        affinity = service["spec"].get("sessionAffinityConfig", {}).get("clientIP", {})
        return ByHand(
            namespace=service["metadata"]["namespace"],
            name=service["metadata"]["name"],
            addr=from_text(service["spec"]["clusterIP"]),
            port=port["port"],
            proto=PROTOCOLS[port["protocol"].lower()],
            backends=tuple(
                (from_text(endpoint["addresses"][0]), one["ports"][0]["port"])
                for one in slices
                for endpoint in one["endpoints"]
            ),
            affinity_sec=affinity.get("timeoutSeconds", 0),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _proto_name(proto: int) -> str:
    return next(name for name, number in PROTOCOLS.items() if number == proto).upper()
