"""The fields of a Service that kpbpf uses (SEMANTICS A5, A10 to A12, A29, A34)."""

from __future__ import annotations

from collections.abc import Mapping

from kpbpf import address
from kpbpf.address import Address
from kpbpf.kube import fields, values
from kpbpf.kube.fields import (
    MAX_PORT,
    BadObject,
    Raw,
    each,
    mapping,
    number,
    one_of,
    text,
    within,
)
from kpbpf.kube.values import label, shared
from kpbpf.model.objects import Key
from kpbpf.model.service import DEFAULT_AFFINITY_SEC, MAX_PORTS, PROTOCOLS, Service, ServicePort

OTHER_PROXY_LABEL = "service.kubernetes.io/service-proxy-name"


def read_service(key: Key, raw: Raw, remarks: list[BadObject]) -> Service:
    """A Service; what is wrong but can be left out is remarked on (SEMANTICS A10)."""
    labels, uid, created = within(raw, "metadata", _metadata)
    ingress = _ingress(raw, remarks)
    unusable: list[BadObject] = []

    def service(spec: Raw) -> Service:
        cluster_ips, headless = _cluster_ips(spec)
        return Service(
            namespace=key.namespace,
            name=key.name,
            type=one_of(spec, "type", _TYPES, "ClusterIP"),
            cluster_ips=cluster_ips,
            headless=headless,
            other_proxy=OTHER_PROXY_LABEL in labels,
            ports=_service_ports(spec),
            internal_local=one_of(spec, "internalTrafficPolicy", _POLICIES, "Cluster"),
            external_local=one_of(spec, "externalTrafficPolicy", _POLICIES, "Cluster"),
            affinity_sec=_affinity(spec),
            external_ips=fields.usable(spec, "externalIPs", values.reachable_ip, unusable),
            load_balancer_ips=ingress,
            source_ranges=fields.usable(spec, "loadBalancerSourceRanges", values.block, unusable),
            health_check_port=number(spec, "healthCheckNodePort", 0, MAX_PORT, 0),
            labels=shared(tuple(sorted(labels.items()))),
            created=created,
            uid=uid,
        )

    found = within(raw, "spec", service)
    remarks += [remark.under("spec") for remark in unusable]
    return found


_TYPES = {kind: kind for kind in ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")}
_POLICIES = {"Cluster": False, "Local": True}
_AFFINITIES = {"None": False, "ClientIP": True}


def _cluster_ips(spec: Raw) -> tuple[tuple[Address, ...], bool]:
    """One address per family, and whether the Service is headless (A5, A11)."""
    texts = each(spec, "clusterIPs", fields.string)
    single = text(spec, "clusterIP")
    if "None" in (single, *texts[:1]):
        return (), True
    if texts:
        return _one_per_family(each(spec, "clusterIPs", values.reachable_ip)), False
    if not single:
        return (), False
    try:
        return (values.reachable_ip(single),), False
    except BadObject as bad:
        raise bad.under("clusterIP") from None


def _one_per_family(addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    if len(addresses) == 1:
        return addresses
    first = {address.is_ipv4(addr): addr for addr in reversed(addresses)}
    return tuple(addr for addr in addresses if first[address.is_ipv4(addr)] is addr)


def _service_ports(spec: Raw) -> tuple[ServicePort, ...]:
    ports = each(spec, "ports", _service_port, MAX_PORTS)
    if len(ports) == 1:
        return ports
    names: set[str] = set()
    numbers: set[tuple[int, int]] = set()
    for index, port in enumerate(ports):
        if port.name in names:
            got = fields.shown(port.name) if port.name else "nothing"
            raise BadObject(f"ports[{index}].name", "a name that no other port has", got)
        if (port.proto, port.port) in numbers:
            expected = "a port and protocol that no other port has"
            raise BadObject(f"ports[{index}].port", expected, str(port.port))
        names.add(port.name)
        numbers.add((port.proto, port.port))
    return ports


def _service_port(value: object) -> ServicePort:
    raw = mapping(value)
    return ServicePort(
        name=label(raw, "name"),
        proto=one_of(raw, "protocol", PROTOCOLS, "TCP"),
        port=number(raw, "port", 1, MAX_PORT),
        node_port=number(raw, "nodePort", 0, MAX_PORT, 0),
    )


def _affinity(spec: Raw) -> int:
    """Seconds of ClientIP affinity, 0 for none (A34)."""
    if not one_of(spec, "sessionAffinity", _AFFINITIES, "None"):
        return 0

    def timeout(client: Raw) -> int:
        return number(client, "timeoutSeconds", 1, 86400, DEFAULT_AFFINITY_SEC)

    return within(spec, "sessionAffinityConfig", lambda config: within(config, "clientIP", timeout))


def _metadata(raw: Raw) -> tuple[Mapping[str, str], str, float]:
    """Labels, uid, and when the Service was made."""
    created = values.unix_time(raw.get("creationTimestamp"))
    return values.labels(raw), text(raw, "uid"), created


def _ingress(raw: Raw, remarks: list[BadObject]) -> tuple[Address, ...]:
    """Load-balancer addresses that arrive here as they are (A29)."""
    balancer = within(raw, "status", lambda status: fields.section(status, "loadBalancer"))
    if not balancer:
        return ()
    unusable: list[BadObject] = []
    try:
        found = fields.usable(balancer, "ingress", _ingress_ip, unusable)
    except BadObject as bad:
        raise bad.under("status.loadBalancer") from None
    remarks += [remark.under("status.loadBalancer") for remark in unusable]
    return tuple(addr for addr in found if addr is not None)


def _ingress_ip(value: object) -> Address | None:
    raw = mapping(value)
    if text(raw, "ipMode", "VIP") != "VIP" or not text(raw, "ip"):
        return None
    try:
        return values.reachable_ip(raw["ip"])
    except BadObject as bad:
        raise bad.under("ip") from None
