"""What the command line may ask: types and labels, one Service in whole, this node's uplinks.

Each question has a look, quick and in the main loop, and makes plain values of what it saw later,
in another thread: models are never changed in place. How a question gets here is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from controllers.known import Known
from controllers.services import ServicesController
from controllers.uplinks import UplinkStatus
from kpbpf.address import is_ipv4, to_text, with_port
from kpbpf.compile.frontends import frontends_of
from kpbpf.daemon.answers import Finish, Look
from kpbpf.errors import NotFound, Usage
from kpbpf.model.endpoint import READY, SERVING, TERMINATING
from kpbpf.model.explain import Explained, explain
from kpbpf.model.objects import Block
from kpbpf.model.service import PROTOCOLS, Service
from maps.abi import FrontendFlag, FrontendKey

_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_IPV4_BITS = 96


def questions(
    services: ServicesController, node: str, uplinks: Callable[[], Sequence[UplinkStatus]]
) -> dict[str, Look]:
    """All questions by name. `uplinks` is Uplinks.status, called in the main loop."""

    def all_services(_words: Mapping[str, Any]) -> Finish:
        models = services.models()
        return lambda: {model.key.path: in_short(model) for model in models}

    def one_service(words: Mapping[str, Any]) -> Finish:
        known = services.known(_path(words))
        if known is None:
            raise NotFound(f"no source names a Service {words['name']}")
        return lambda: in_whole(known)

    def this_node(_words: Mapping[str, Any]) -> Finish:
        found = uplinks()
        return lambda: {"node": node, "uplinks": [one._asdict() for one in found]}

    return {"services": all_services, "service": one_service, "node": this_node}


def _path(words: Mapping[str, Any]) -> str:
    name = words.get("name")
    if not isinstance(name, str):
        raise Usage("which Service? expected its namespace/name as name")
    return name


def in_short(service: Service) -> dict[str, Any]:
    """Of each of many Services, what the maps do not tell; what there is none of is left out."""
    found: dict[str, Any] = {"type": service.type}
    if service.labels:
        found["labels"] = dict(service.labels)
    if service.load_balancer_ips:
        found["load_balancer_ips"] = [to_text(addr) for addr in service.load_balancer_ips]
    if service.external_ips:
        found["external_ips"] = [to_text(addr) for addr in service.external_ips]
    return found


def in_whole(known: Known) -> dict[str, Any]:
    """All of one Service, its endpoints, and what stands between it and the maps."""
    service, node = known.service, known.node
    return {
        "name": service.key.path,
        "type": service.type,
        "not_served": _not_served(service),
        "labels": dict(service.labels),
        "cluster_ips": [to_text(addr) for addr in service.cluster_ips],
        "load_balancer_ips": [to_text(addr) for addr in service.load_balancer_ips],
        "external_ips": [to_text(addr) for addr in service.external_ips],
        "ports": [
            {
                "name": port.name,
                "protocol": _PROTOCOL_NAMES.get(port.proto, str(port.proto)),
                "port": port.port,
                "node_port": port.node_port or None,
            }
            for port in service.ports
        ],
        "internal_traffic_policy": _policy(service.internal_local),
        "external_traffic_policy": _policy(service.external_local) if service.external else None,
        "affinity_sec": service.affinity_sec or None,
        "source_ranges": [_block(block) for block in service.source_ranges],
        "health_check_port": service.health_check_port or None,
        "node": {"name": node.name, "zone": node.zone or None},
        "frontends": [
            _frontend(key)
            for key, flags in frontends_of(service).items()
            if not flags & FrontendFlag.WHOLE_ADDRESS
        ],
        "endpoints": [_endpoint(one, node.name) for one in explain(service, known.slices, node)],
        "claimed_by_others": [_claim(frontend, holder) for frontend, holder in known.lost],
        "waiting": known.waiting,
        "failed": known.failed,
        "held": known.held,
    }


def _not_served(service: Service) -> str | None:
    """Why no address of it is this proxy's business (A1, A5)."""
    if service.type == "ExternalName":
        return "type ExternalName is a name for DNS, and has no address"
    if service.headless:
        return "it is headless: clients reach its endpoints directly"
    if service.other_proxy:
        return "its label service.kubernetes.io/service-proxy-name gives it to another proxy"
    if not service.cluster_ips:
        return "no ClusterIP was allocated for it yet"
    return None


def _endpoint(found: Explained, node: str) -> dict[str, Any]:
    endpoint = found.endpoint
    return {
        "port": found.port_name,
        "protocol": _PROTOCOL_NAMES.get(found.proto, str(found.proto)),
        "family": "IPv4" if is_ipv4(endpoint.addr) else "IPv6",
        "address": with_port(endpoint.addr, found.port),
        "node": endpoint.node or None,
        "here": endpoint.node == node,
        "ready": bool(endpoint.conditions & READY),
        "serving": bool(endpoint.conditions & SERVING),
        "terminating": bool(endpoint.conditions & TERMINATING),
        "for_zones": list(endpoint.for_zones),
        "for_nodes": list(endpoint.for_nodes),
        "in_cluster_set": found.cluster,
        "in_local_set": found.local,
        "why_not": found.why_not or None,
    }


def _claim(frontend: bytes, holder: str) -> dict[str, str]:
    return {"frontend": _frontend(frontend), "service": holder}


def _frontend(packed: bytes) -> str:
    """10.96.0.1:80/TCP; whose address is 0.0.0.0 or [::] is a NodePort."""
    key = FrontendKey.unpack(packed)
    if not key.port:
        return f"{to_text(key.addr)}, all other ports"
    name = _PROTOCOL_NAMES.get(key.proto, str(key.proto))
    return f"{with_port(key.addr, key.port)}/{name}"


def _policy(local: bool) -> str:
    return "Local" if local else "Cluster"


def _block(block: Block) -> str:
    bits = block.prefix - _IPV4_BITS if is_ipv4(block.base) else block.prefix
    return f"{to_text(block.base)}/{bits}"
