"""What the Service maps should hold, compiled from nothing but the objects at the server.

Selects as kube-proxy does (SEMANTICS A1 to A3), by itself: that the daemon asks the server for
the right ones is part of what is tested.
"""

from __future__ import annotations

from collections.abc import Iterator

from controllers.services import ServicesController
from kpbpf.kube.fields import BadObject
from kpbpf.kube.parse import parse
from maps.fake import FakeTables, fake_tables
from tests.cluster.resources import Raw, by_name
from tests.cluster.store import Store

OTHER_PROXY = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"


def compiled(store: Store, node_name: str) -> FakeTables:
    """Maps that were filled once, by somebody who reads everything at this moment."""
    tables = fake_tables()
    controller = ServicesController(tables, node_name)
    for raw in _selected(store, node_name):
        try:
            model = parse(raw).model
        except BadObject:
            continue
        controller.changed(model.key, model)
    assert not controller.reconcile().failed
    return tables


def _selected(store: Store, node_name: str) -> Iterator[Raw]:
    snapshot = store.snapshot()
    for raw in snapshot["services"].values():
        if _misses(raw, OTHER_PROXY) and _cluster_ip(raw) != "None":
            yield raw
    for raw in snapshot["endpointslices.discovery.k8s.io"].values():
        if _misses(raw, HEADLESS):
            yield raw
    node = snapshot["nodes"].get(("", node_name))
    if node is not None:
        yield node


def _misses(raw: Raw, label: str) -> bool:
    """Whether the object is without a label; one that has labels of a wrong type is."""
    labels = (raw.get("metadata") or {}).get("labels")
    return not isinstance(labels, dict) or label not in labels


def _cluster_ip(raw: Raw) -> object:
    spec = raw.get("spec")
    return spec.get("clusterIP") if isinstance(spec, dict) else None


def is_there(store: Store, kind: str, name: str, namespace: str = "default") -> bool:
    """Whether there is an object of a resource, by its plural."""
    resource = by_name(kind)
    with store.changed:
        return (namespace if resource.namespaced else "", name) in store.table(resource).objects
