"""The fields of an EndpointSlice that kpbpf uses (SEMANTICS A2, A6 to A8)."""

from __future__ import annotations

import sys
from functools import partial

from kpbpf import address
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
from kpbpf.model.endpoint import READY, SERVING, TERMINATING, Endpoint, EndpointPort, EndpointSlice
from kpbpf.model.objects import Key
from kpbpf.model.service import MAX_PORTS, PROTOCOLS

SERVICE_LABEL = "kubernetes.io/service-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"

_FAMILIES = {"IPv4": "IPv4", "IPv6": "IPv6", "FQDN": ""}
_USUAL = READY | SERVING


def read_slice(key: Key, raw: Raw, _remarks: list[BadObject]) -> EndpointSlice:
    """An EndpointSlice."""
    labels = within(raw, "metadata", values.labels)
    family = one_of(raw, "addressType", _FAMILIES, "")
    service = "" if HEADLESS_LABEL in labels else labels.get(SERVICE_LABEL, "")
    found = each(raw, "ports", _endpoint_port, MAX_PORTS)
    return EndpointSlice(
        namespace=key.namespace,
        name=key.name,
        service=service,
        family=family,
        ports=shared(tuple([port for port in found if port is not None])),
        endpoints=each(raw, "endpoints", partial(_endpoint, family == "IPv4")) if family else (),
        triggered=_triggered(fields.section(raw, "metadata").get("annotations")),
    )


def _triggered(annotations: object) -> float:
    """When what led to this state happened; a time that cannot be read is none."""
    told = annotations.get(TRIGGER_ANNOTATION) if isinstance(annotations, dict) else None
    return values.unix_time(told)


def _endpoint(ipv4: bool, value: object) -> Endpoint:
    """One endpoint; only its first address is used (A6)."""
    raw = mapping(value)
    texts = raw.get("addresses")
    if not isinstance(texts, list) or not texts:
        raise BadObject("addresses", "a list of at least one address", fields.shown(texts))
    try:
        addr = values.ip(texts[0])
    except BadObject as bad:
        raise bad.under("addresses[0]") from None
    if address.is_ipv4(addr) is not ipv4:
        family = "IPv4" if ipv4 else "IPv6"
        raise BadObject("addresses[0]", f"an {family} address", fields.shown(texts[0]))
    conditions = within(raw, "conditions", _conditions)
    node = sys.intern(text(raw, "nodeName"))
    if raw.get("hints") is None:
        return Endpoint(addr, node, conditions)
    zones, nodes = within(raw, "hints", _hints)
    return Endpoint(addr, node, conditions, zones, nodes)


def _conditions(raw: Raw) -> int:
    """Condition bits; what is not said counts as ready, serving, and not terminating (A7)."""
    if raw.get("ready") is True and raw.get("serving") is True and raw.get("terminating") is False:
        return _USUAL
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
        name=label(raw, "name"),
        proto=one_of(raw, "protocol", PROTOCOLS, "TCP"),
        port=number(raw, "port", 1, MAX_PORT),
    )
