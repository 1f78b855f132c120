"""Raw Kubernetes objects (dicts from YAML or JSON) to model values.

Reads only the fields that kpbpf uses; fills in what the API server would have filled in.
Whatever is handed in, nothing but BadObject is raised. Nothing is logged here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import NamedTuple

from kpbpf.kube import fields, values
from kpbpf.kube.fields import BadObject, Raw, mapping, text, within
from kpbpf.kube.read_others import read_namespace, read_node, read_pod, read_service_range
from kpbpf.kube.read_policy import read_policy
from kpbpf.kube.read_service import read_service
from kpbpf.kube.read_slice import read_slice
from kpbpf.model.endpoint import EndpointSlice
from kpbpf.model.objects import Key, Namespace, Node, Pod, ServiceRange
from kpbpf.model.policy import NetworkPolicy
from kpbpf.model.service import Service

Model = Service | EndpointSlice | Node | Pod | Namespace | NetworkPolicy | ServiceRange

#: Kinds whose objects are in no namespace.
_CLUSTER_WIDE = ("Node", "Namespace", "ServiceCIDR")

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Parsed(NamedTuple):
    """A model value, and what in the object is wrong but can be left out (SEMANTICS A10)."""

    model: Model
    remarks: tuple[BadObject, ...] = ()


def kind_of(raw: object) -> tuple[str, str]:
    """(apiVersion, kind) of an object; BadObject when it does not say."""
    found = mapping(raw, "an object with apiVersion, kind and metadata")
    kind = text(found, "kind")
    if not kind:
        raise BadObject("kind", "a string", "nothing")
    return text(found, "apiVersion"), kind


def is_read(api_version: str, kind: str) -> bool:
    """Whether kpbpf reads objects of that kind; a Service of another group is another thing."""
    return (api_version, kind) in _READERS


def key_of(raw: object) -> Key:
    """Which object it is; BadObject when that cannot be told."""
    return _key(kind_of(raw)[1], mapping(raw))


def parse(raw: object) -> Parsed:
    """Read one object of a kind that `is_read`; BadObject names the field that is wrong."""
    api_version, kind = kind_of(raw)
    reader = _READERS.get((api_version, kind))
    if reader is None:
        raise BadObject("kind", "a kind that kpbpf reads", fields.shown(kind))
    remarks: list[BadObject] = []
    found = mapping(raw)
    model = reader(_key(kind, found), found, remarks)
    return Parsed(model, tuple(remarks))


def _key(kind: str, raw: Raw) -> Key:
    def identify(metadata: Raw) -> Key:
        name = text(metadata, "name")
        shape = values.LABEL if kind in ("Service", "Namespace") else _SUBDOMAIN
        if not shape.fullmatch(name):
            raise BadObject("name", "a DNS name in lower case", fields.shown(name or None))
        if kind in _CLUSTER_WIDE:
            return Key(kind, "", sys.intern(name))
        return Key(kind, values.label(metadata, "namespace") or "default", name)

    return within(raw, "metadata", identify)


_READERS: dict[tuple[str, str], Callable[[Key, Raw, list[BadObject]], Model]] = {
    ("v1", "Service"): read_service,
    ("discovery.k8s.io/v1", "EndpointSlice"): read_slice,
    ("v1", "Node"): read_node,
    ("v1", "Pod"): read_pod,
    ("v1", "Namespace"): read_namespace,
    ("networking.k8s.io/v1", "NetworkPolicy"): read_policy,
    ("networking.k8s.io/v1", "ServiceCIDR"): read_service_range,
}
