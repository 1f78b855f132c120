"""The fields of an EndpointSlice that kpbpf uses (SEMANTICS A2, A6 to A8)."""

from __future__ import annotations

import sys

from kpbpf import address
from kpbpf.kube import fields
from kpbpf.kube.fields import (
    MAX_PORT,
    BadObject,
    Raw,
    each,
    mapping,
    number,
    one_of,
    port_name,
    shared,
    text,
    within,
)
from kpbpf.model.endpoint import READY, SERVING, TERMINATING, Endpoint, EndpointPort, EndpointSlice
from kpbpf.model.objects import Key
from kpbpf.model.service import PROTOCOLS

SERVICE_LABEL = "kubernetes.io/service-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"

_FAMILIES = {"IPv4": "IPv4", "IPv6": "IPv6", "FQDN": ""}
_USUAL = READY | SERVING


def read_slice(key: Key, raw: Raw, _remarks: list[BadObject]) -> EndpointSlice:
    """An EndpointSlice."""
    labels = within(raw, "metadata", fields.labels)
    family = one_of(raw, "addressType", _FAMILIES, "")
    service = "" if HEADLESS_LABEL in labels else labels.get(SERVICE_LABEL, "")
    read = {"IPv4": _endpoint4, "IPv6": _endpoint6}.get(family)
    ports = each(raw, "ports", _endpoint_port)
    return EndpointSlice(
        namespace=key.namespace,
        name=key.name,
        service=service,
        family=family,
        ports=shared(tuple(port for port in ports if port is not None)),
        endpoints=each(raw, "endpoints", read) if read else (),
    )


def _endpoint4(value: object) -> Endpoint:
    return _endpoint(value, True)


def _endpoint6(value: object) -> Endpoint:
    return _endpoint(value, False)


def _endpoint(value: object, ipv4: bool) -> Endpoint:
    """One endpoint; only its first address is used (A6)."""
    raw = mapping(value)
    texts = raw.get("addresses")
    if not isinstance(texts, list) or not texts:
        raise BadObject("addresses", "a list of at least one address", fields.shown(texts))
    try:
        addr = fields.ip(texts[0])
    except BadObject as bad:
        raise bad.under("addresses[0]") from None
    if address.is_ipv4(addr) is not ipv4:
        family = "IPv4" if ipv4 else "IPv6"
        raise BadObject("addresses[0]", f"an {family} address", fields.shown(texts[0]))
    conditions = _USUAL if raw.get("conditions") is None else within(raw, "conditions", _conditions)
    node = sys.intern(text(raw, "nodeName"))
    if raw.get("hints") is None:
        return Endpoint(addr, node, conditions)
    zones, nodes = within(raw, "hints", _hints)
    return Endpoint(addr, node, conditions, zones, nodes)


def _conditions(raw: Raw) -> int:
    """Condition bits; what is not said counts as ready, serving, and not terminating (A7)."""
    ready = fields.flag(raw, "ready", True)
    serving = fields.flag(raw, "serving", True)
    terminating = fields.flag(raw, "terminating", False)
    return READY * ready | SERVING * serving | TERMINATING * terminating


def _hints(raw: Raw) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (
        shared(each(raw, "forZones", _hinted)),
        shared(each(raw, "forNodes", _hinted)),
    )


def _hinted(value: object) -> str:
    return sys.intern(text(mapping(value), "name"))


def _endpoint_port(value: object) -> EndpointPort | None:
    """A port of a slice; None when it has no number (A6)."""
    raw = mapping(value)
    if raw.get("port") in (None, 0):
        return None
    return EndpointPort(
        name=port_name(raw),
        proto=one_of(raw, "protocol", PROTOCOLS, "TCP"),
        port=number(raw, "port", 1, MAX_PORT),
    )
