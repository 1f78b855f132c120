"""The fields of a NetworkPolicy (SEMANTICS C3 to C9).

A policy that is wrong anywhere is refused in whole: without one of its rules it would forbid
what it allows, or the other way round.
"""

from __future__ import annotations

import re

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
from kpbpf.kube.values import shared
from kpbpf.model.labels import Operator, Requirement, Selector
from kpbpf.model.objects import Block, Key
from kpbpf.model.policy import BlockPeer, NetworkPolicy, PodPeer, PolicyPort, Rule
from kpbpf.model.service import PROTOCOLS

_OPERATORS = {operator.value: operator for operator in Operator}
_TAKES_VALUES = (Operator.IN, Operator.NOT_IN)
_TYPES = {"Ingress": "Ingress", "Egress": "Egress"}
# RFC 6335, as the API checks it for ports of containers; a letter must be in it.
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=[0-9-]*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


def read_policy(key: Key, raw: Raw, _remarks: list[BadObject]) -> NetworkPolicy:
    """A NetworkPolicy."""

    def policy(spec: Raw) -> NetworkPolicy:
        types = _types(spec)
        ingress = each(spec, "ingress", lambda value: _rule(value, "from"))
        egress = each(spec, "egress", lambda value: _rule(value, "to"))
        return NetworkPolicy(
            namespace=key.namespace,
            name=key.name,
            pods=within(spec, "podSelector", _selector),
            ingress=ingress if "Ingress" in types else None,
            egress=egress if "Egress" in types else None,
        )

    return within(raw, "spec", policy)


def _types(spec: Raw) -> tuple[str, ...]:
    """The directions that the policy covers (C4)."""
    told = each(spec, "policyTypes", lambda value: one_of({"": value}, "", _TYPES, ""))
    if told:
        return told
    return ("Ingress", "Egress") if spec.get("egress") else ("Ingress",)


def _rule(value: object, peers: str) -> Rule:
    raw = mapping(value)
    return Rule(each(raw, peers, _peer), each(raw, "ports", _port))


def _peer(value: object) -> PodPeer | BlockPeer:
    """Pods, or addresses: one of both (C8)."""
    raw = mapping(value)
    by_pods = raw.get("podSelector") is not None
    by_namespaces = raw.get("namespaceSelector") is not None
    if raw.get("ipBlock") is None:
        if not (by_pods or by_namespaces):
            raise BadObject("", "a podSelector, a namespaceSelector or an ipBlock", "none of them")
        return PodPeer(
            within(raw, "podSelector", _selector) if by_pods else None,
            within(raw, "namespaceSelector", _selector) if by_namespaces else None,
        )
    if by_pods or by_namespaces:
        raise BadObject("ipBlock", "nothing, for pods are selected", "a block")
    return within(raw, "ipBlock", _block_peer)


def _block_peer(raw: Raw) -> BlockPeer:
    try:
        block = values.block(raw.get("cidr"))
    except BadObject as bad:
        raise bad.under("cidr") from None

    def excepted(value: object) -> Block:
        inner = values.block(value)
        one_family = address.is_ipv4(inner.base) is address.is_ipv4(block.base)
        inside = inner.prefix > block.prefix and (
            values.masked(inner.base, block.prefix) == block.base
        )
        if not (one_family and inside):
            expected = f"a range inside {fields.shown(raw.get('cidr'))}"
            raise BadObject("", expected, fields.shown(value))
        return inner

    return BlockPeer(block, each(raw, "except", excepted))


def _port(value: object) -> PolicyPort:
    """One port, a range, or all of a protocol (C6, C7)."""
    raw = mapping(value)
    proto = one_of(raw, "protocol", PROTOCOLS, "TCP")
    port = raw.get("port")
    if isinstance(port, str):
        if not _PORT_NAME.fullmatch(port):
            expected = f"a number from 1 to {MAX_PORT}, or a port's name"
            raise BadObject("port", expected, fields.shown(port))
        if raw.get("endPort") is None:
            return PolicyPort(proto, name=port)
    if raw.get("endPort") is None:
        return PolicyPort(proto, number(raw, "port", 1, MAX_PORT) if port is not None else 0)
    if port is None or isinstance(port, str):
        raise BadObject("endPort", "a numeric port to begin with", fields.shown(port))
    first = number(raw, "port", 1, MAX_PORT)
    return PolicyPort(proto, first, number(raw, "endPort", first, MAX_PORT))


def _selector(raw: Raw) -> Selector:
    """A label selector (C3); equal ones are one object."""
    labels = values.label_values(raw, "matchLabels")
    named = [Requirement(name, Operator.IN, (labels[name],)) for name in sorted(labels)]
    return Selector(shared((*named, *each(raw, "matchExpressions", _requirement))))


def _requirement(value: object) -> Requirement:
    raw = mapping(value)
    label = text(raw, "key")
    if not label:
        raise BadObject("key", "a label's name", fields.shown(raw.get("key")))
    operator = one_of(raw, "operator", _OPERATORS, "")
    among = tuple(sorted(set(each(raw, "values", fields.string))))
    if bool(among) is not (operator in _TAKES_VALUES):
        expected = "at least one value" if operator in _TAKES_VALUES else "no value"
        got = f"{len(among)} values" if among else "nothing"
        raise BadObject("values", f"{expected} for {operator.value}", got)
    return Requirement(label, operator, among)
