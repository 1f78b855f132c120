"""Selectors of the API server double, as lists see them."""

from __future__ import annotations

import pytest

from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.plain import PODS, SERVICES, SLICES, Plain

LABELS: dict[str, dict[str, str]] = {
    "none": {},
    "web": {"app": "web", "tier": "front"},
    "db": {"app": "db", "example.com/kept": ""},
}


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("", ["db", "none", "web"]),
        ("app=web", ["web"]),
        ("app==web", ["web"]),
        ("app!=web", ["db", "none"]),
        ("app in (web, db)", ["db", "web"]),
        ("app in (web)", ["web"]),
        ("app notin (web)", ["db", "none"]),
        ("app", ["db", "web"]),
        ("!app", ["none"]),
        ("example.com/kept", ["db"]),
        ("example.com/kept=", ["db"]),
        ("app,tier=front", ["web"]),
        ("app in (web,db),!tier", ["db"]),
        ("app=web,app=db", []),
    ],
)
def test_labels_select(server: ApiServer, plain: Plain, selector: str, found: list[str]) -> None:
    server.store.bulk(make.service(name, labels=labels) for name, labels in LABELS.items())
    assert plain.get(SERVICES, labelSelector=selector).names == found


@pytest.mark.parametrize("selector", ["a b c", "=x", "app in web", "app in (a", "-x"])
def test_a_label_selector_that_is_none_is_a_bad_request(plain: Plain, selector: str) -> None:
    answer = plain.get(SERVICES, labelSelector=selector)
    assert (answer.code, answer.raw["reason"]) == (400, "BadRequest")


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("spec.clusterIP!=None", ["external", "web"]),
        ("spec.clusterIP=None", ["headless"]),
        ("spec.clusterIP==10.96.0.10", ["web"]),
        ("metadata.name=web", ["web"]),
        ("metadata.namespace!=default", ["external"]),
        ("metadata.namespace=default,spec.clusterIP!=None", ["web"]),
    ],
)
def test_fields_of_services_select(
    server: ApiServer, plain: Plain, selector: str, found: list[str]
) -> None:
    external = make.service("external", namespace="other", type="ExternalName")
    del external["spec"]["clusterIP"]
    server.store.bulk([make.service("web"), make.service("headless", ip="None"), external])
    assert sorted(plain.get(SERVICES, fieldSelector=selector).names) == found


def test_fields_of_pods_select(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.pod("a", node="node-a"))
    server.store.put(make.pod("b", node="node-a", phase="Succeeded"))
    server.store.put(make.pod("c", node="node-b"))
    query = "spec.nodeName=node-a,status.phase!=Succeeded"
    assert plain.get(PODS, fieldSelector=query).names == ["a"]


@pytest.mark.parametrize(
    ("path", "selector", "told"),
    [
        (SERVICES, "spec.type.x=1", "field label not supported: spec.type.x"),
        (PODS, "metadata.uid=1", "field label not supported: metadata.uid"),
        (SLICES, "addressType=IPv4", "is not a known field selector"),
        (SERVICES, "metadata.name", "invalid selector"),
    ],
)
def test_a_field_that_is_not_supported_is_a_bad_request(
    plain: Plain, path: str, selector: str, told: str
) -> None:
    for watch in ("0", "1"):
        answer = plain.get(path, fieldSelector=selector, watch=watch)
        assert (answer.code, answer.raw["reason"]) == (400, "BadRequest")
        assert told in answer.raw["message"]
