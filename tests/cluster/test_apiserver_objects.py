"""Single objects of the API server double: read and written; Events; hostile ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.plain import SERVICES, Plain
from tests.cluster.resources import by_name

HERE = "/api/v1/namespaces/default/services"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
MERGE = "application/merge-patch+json"


def event(**other: Any) -> dict[str, Any]:
    """An Event that is in order, but for `other`."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "node-a.1234", "namespace": "default"},
        "eventTime": "2026-01-01T10:00:00.000000Z",
        "reportingController": "kpbpf.io/daemon",
        "reportingInstance": "node-a",
        "action": "StartKubeProxy",
        "reason": "Starting",
        "type": "Normal",
        "regarding": {"kind": "Node", "name": "node-a"},
        "note": "it starts",
    } | other


def test_an_object_is_got_by_name_with_its_kind(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.service("web"))
    raw = plain.get(f"{HERE}/web").raw
    assert (raw["kind"], raw["apiVersion"], raw["metadata"]["name"]) == ("Service", "v1", "web")


def test_an_object_that_is_not_there_is_not_found(plain: Plain) -> None:
    answer = plain.get(f"{HERE}/web")
    assert answer.code == 404
    assert answer.raw["message"] == 'services "web" not found'
    assert (answer.raw["reason"], answer.raw["details"]["name"]) == ("NotFound", "web")


@pytest.mark.parametrize("path", ["/api/v1/unheard", "/apis/x.io/v1/things", "/nothing"])
def test_a_path_that_is_not_there_is_not_found(plain: Plain, path: str) -> None:
    assert (plain.get(path).code, plain.get(path).body) == (404, b"404 page not found\n")


def test_a_created_object_can_be_changed_and_deleted(server: ApiServer, plain: Plain) -> None:
    created = plain.send("POST", HERE, make.service("web"))
    assert (created.code, created.raw["kind"]) == (201, "Service")
    assert plain.send("POST", HERE, make.service("web")).raw["reason"] == "AlreadyExists"
    patch = {"spec": {"clusterIP": "10.96.0.99", "type": None}}
    patched = plain.send("PATCH", f"{HERE}/web", patch, MERGE)
    assert patched.raw["spec"]["clusterIP"] == "10.96.0.99"
    assert "type" not in patched.raw["spec"]
    stale = plain.send("PUT", f"{HERE}/web", created.raw)
    assert (stale.code, stale.raw["reason"]) == (409, "Conflict")
    assert plain.send("PUT", f"{HERE}/web", patched.raw | {"status": {}}).code == 200
    deleted = plain.send("DELETE", f"{HERE}/web")
    assert (deleted.code, deleted.raw["status"]) == (200, "Success")
    assert plain.get(SERVICES).names == []
    assert server.store.snapshot()["services"] == {}


def test_a_name_is_generated_where_it_is_asked_for(plain: Plain) -> None:
    raw = make.service("web")
    raw["metadata"] = {"generateName": "web-"}
    name = plain.send("POST", HERE, raw).raw["metadata"]["name"]
    assert name.startswith("web-")
    assert len(name) == len("web-") + 5


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", HERE, [1], 400),
        ("POST", HERE, {"metadata": 5}, 400),
        ("POST", HERE, {"kind": "Pod", "metadata": {"name": "x"}}, 400),
        ("POST", HERE, {"metadata": {"name": "x", "namespace": "other"}}, 400),
        ("POST", HERE, {"metadata": {}}, 422),
        ("POST", SERVICES, make.service("x"), 405),
        ("PUT", f"{HERE}/x", make.service("x"), 404),
        ("PATCH", f"{HERE}/x", {}, 404),
        ("DELETE", f"{HERE}/x", None, 404),
        ("DELETE", HERE, None, 404),
    ],
)
def test_what_cannot_be_written_is_refused(
    plain: Plain, method: str, path: str, body: Any, code: int
) -> None:
    answer = plain.send(method, path, body)
    assert (answer.code, answer.raw["kind"], answer.raw["code"]) == (code, "Status", code)


def test_an_unknown_kind_of_patch_is_refused(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.service("web"))
    assert plain.send("PATCH", f"{HERE}/web", [], "application/json-patch+json").code == 415


def test_an_event_is_stored_and_its_series_may_grow(server: ApiServer, plain: Plain) -> None:
    assert plain.send("POST", EVENTS, event()).code == 201
    series = {"count": 2, "lastObservedTime": "2026-01-01T10:01:00.000000Z"}
    patched = plain.send("PATCH", f"{EVENTS}/node-a.1234", {"series": series}, MERGE)
    assert (patched.code, patched.raw["series"]) == (200, series)
    (stored,) = server.store.objects(by_name("events.events.k8s.io"))
    assert stored["note"] == "it starts"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"eventTime": None}, "eventTime: Required value"),
        ({"action": ""}, "action: Required value"),
        ({"reason": "x" * 129}, "reason: Invalid value: can have at most 128"),
        ({"note": "x" * 1025}, "message: Invalid value: can have at most 1024"),
        ({"reportingController": ""}, "reportingController: Required value"),
        ({"reportingController": "a b"}, "reportingController: Invalid value"),
        ({"reportingInstance": ""}, "reportingInstance: Required value"),
        ({"type": "Loud"}, "type: Invalid value"),
        ({"deprecatedCount": 1}, "count: Invalid value: needs to be unset"),
        ({"series": {"count": 1}}, "series.count: Invalid value: should be at least 2"),
        ({"metadata": {"name": "Node_A"}}, "metadata.name: Invalid value"),
    ],
)
def test_an_event_that_may_not_be_is_invalid(
    plain: Plain, other: dict[str, Any], told: str
) -> None:
    answer = plain.send("POST", EVENTS, event(**other))
    assert (answer.code, answer.raw["reason"]) == (422, "Invalid")
    assert told in answer.raw["message"]


def test_an_event_about_a_node_lives_in_the_default_namespace(plain: Plain) -> None:
    lost = event(metadata={"name": "x"})
    answer = plain.send("POST", EVENTS.replace("default", "shop"), lost)
    assert "does not match event.namespace" in answer.raw["message"]


def test_an_event_does_not_change_but_for_its_series(plain: Plain) -> None:
    plain.send("POST", EVENTS, event())
    answer = plain.send("PATCH", f"{EVENTS}/node-a.1234", {"note": "other"}, MERGE)
    assert answer.code == 422
    assert "message: Invalid value: field is immutable" in answer.raw["message"]


def test_hostile_objects_are_handed_out_as_they_are(server: ApiServer, plain: Plain) -> None:
    services = by_name("services")
    labels = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a", "labels": 5}}
    server.store.put(make.service("good"))
    server.store.put_raw(services, ("default", "a"), labels)
    server.store.put_raw(services, ("default", "b"), {"metadata": "none", "spec": [[[]]]})
    server.store.put_raw(services, ("default", "c"), b'{"metadata":{"name":"c"},"spec":1e999}')
    a, b, c, good = plain.get(SERVICES).raw["items"]
    assert a["metadata"]["labels"] == 5
    assert b == {"metadata": "none", "spec": [[[]]]}
    assert c["spec"] == float("inf")
    assert good["metadata"]["name"] == "good"
    with plain.watch(SERVICES, fieldSelector="metadata.name=a") as stream:
        assert stream.next()["object"]["metadata"]["labels"] == 5
        server.store.put(make.service("a"))
        assert stream.next()["object"]["metadata"]["labels"] == {}


def test_a_snapshot_holds_every_resource(server: ApiServer) -> None:
    server.store.bulk([make.service("a"), make.pod("p"), make.node("n")])
    shot = server.store.snapshot()
    assert set(shot["services"]) == {("default", "a")}
    assert set(shot["nodes"]) == {("", "n")}
    assert shot["pods"]["default", "p"]["kind"] == "Pod"
    assert shot["endpointslices.discovery.k8s.io"] == {}


def test_health_and_version_are_told(plain: Plain) -> None:
    assert plain.get("/readyz").body == b"ok"
    assert json.loads(plain.get("/version").body)["gitVersion"].startswith("v1.")
