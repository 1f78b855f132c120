"""The resources that the API server double knows: their names, kinds and field selectors.

Facts of the Kubernetes API only; objects live in store.py.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

Raw = dict[str, Any]

_COMMON = ("metadata.name", "metadata.namespace")


class Resource:
    """One resource of one API group; compares by identity, since each exists once."""

    def __init__(
        self,
        group: str,
        plural: str,
        kind: str,
        *,
        namespaced: bool = True,
        fields: tuple[str, ...] = (),
        zero: Raw | None = None,
    ) -> None:
        self.group = group
        self.plural = plural
        self.kind = kind
        self.namespaced = namespaced
        self.own_fields = fields
        self.zero = zero or {}
        """What the typed server writes into an object without content, such as a bookmark."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The field selectors that the API server supports."""
        return _COMMON + self.own_fields

    @cached_property
    def api_version(self) -> str:
        """`v1` or `group/v1`."""
        return f"{self.group}/v1" if self.group else "v1"

    @cached_property
    def qualified(self) -> str:
        """The name in messages: `services`, `endpointslices.discovery.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @cached_property
    def head(self) -> bytes:
        """The begin of an object that states its kind, up to where its metadata starts."""
        kind, version = json.dumps(self.kind), json.dumps(self.api_version)
        return f'{{"kind":{kind},"apiVersion":{version},'.encode()

    def unsupported(self, field: str) -> str:
        """The message about a field that cannot be selected by."""
        if self.own_fields:
            return f"field label not supported: {field}"
        return (
            f'"{field}" is not a known field selector: only "metadata.name", "metadata.namespace"'
        )

    def __repr__(self) -> str:
        return self.qualified


_POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
_EVENT_FIELDS = ("reason", "type", "reportingController")

RESOURCES = (
    Resource(
        "",
        "services",
        "Service",
        fields=("spec.clusterIP", "spec.type"),
        zero={"spec": {}, "status": {"loadBalancer": {}}},
    ),
    Resource(
        "",
        "nodes",
        "Node",
        namespaced=False,
        fields=("spec.unschedulable",),
        zero={"spec": {}, "status": {"daemonEndpoints": {}, "nodeInfo": {}}},
    ),
    Resource(
        "",
        "pods",
        "Pod",
        fields=_POD_FIELDS,
        zero={"spec": {"containers": None}, "status": {}},
    ),
    Resource(
        "",
        "namespaces",
        "Namespace",
        namespaced=False,
        fields=("status.phase",),
        zero={"spec": {}, "status": {}},
    ),
    Resource("", "events", "Event", fields=_EVENT_FIELDS),
    Resource(
        "discovery.k8s.io",
        "endpointslices",
        "EndpointSlice",
        zero={"addressType": "", "endpoints": None, "ports": None},
    ),
    Resource("networking.k8s.io", "networkpolicies", "NetworkPolicy", zero={"spec": {}}),
    Resource(
        "networking.k8s.io",
        "servicecidrs",
        "ServiceCIDR",
        namespaced=False,
        zero={"spec": {}, "status": {}},
    ),
    Resource("events.k8s.io", "events", "Event", fields=_EVENT_FIELDS, zero={"eventTime": None}),
)
_BY_PATH = {(one.group, one.plural): one for one in RESOURCES}
_BY_KIND = {(one.api_version, one.kind): one for one in RESOURCES}


def by_path(group: str, plural: str) -> Resource | None:
    """The resource that a path names."""
    return _BY_PATH.get((group, plural))


def by_name(name: str) -> Resource:
    """The resource of a plural, qualified by its group or not; KeyError when there is none."""
    for one in RESOURCES:
        if name in (one.qualified, one.plural):
            return one
    raise KeyError(name)


def by_kind(raw: Raw) -> Resource:
    """The resource of an object that states its kind; KeyError when there is none."""
    return _BY_KIND[raw["apiVersion"], raw["kind"]]


def field_of(raw: Any, path: str) -> str:
    """The value of a selectable field as text; "" where the object has none, or not a scalar."""
    for step in path.split("."):
        raw = raw.get(step) if isinstance(raw, dict) else None
    if isinstance(raw, bool):
        return str(raw).lower()
    return raw if isinstance(raw, str) else ""
