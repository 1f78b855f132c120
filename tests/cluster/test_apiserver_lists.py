"""Lists of the API server double: kinds, versions, pages."""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib

import pytest

from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.plain import PODS, SERVICES, SLICES, Plain, Reply
from tests.cluster.resources import RESOURCES, by_name


def fill(server: ApiServer, count: int) -> list[str]:
    names = [f"s{number:04}" for number in range(count)]
    server.store.bulk(make.service(name) for name in names)
    return names


def pages(plain: Plain, path: str, **query: str | int) -> list[Reply]:
    """All pages of a list, by its own continue tokens."""
    found = [plain.get(path, **query)]
    while token := found[-1].raw["metadata"].get("continue"):
        found.append(plain.get(path, **query, **{"continue": token}))
    return found


def test_a_list_states_its_kind_and_its_items_do_not(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.service("web"))
    raw = plain.get(SERVICES).raw
    assert (raw["kind"], raw["apiVersion"]) == ("ServiceList", "v1")
    (item,) = raw["items"]
    assert not {"kind", "apiVersion"} & set(item)
    assert item["spec"] == make.service("web")["spec"]
    assert set(item["metadata"]) >= {"uid", "creationTimestamp", "resourceVersion", "namespace"}


def test_an_empty_list_has_items(plain: Plain) -> None:
    assert plain.get(SLICES).raw["items"] == []


@pytest.mark.parametrize("resource", RESOURCES, ids=str)
def test_every_resource_is_listed_at_its_path(
    server: ApiServer, plain: Plain, resource: object
) -> None:
    one = by_name(str(resource))
    base = f"/apis/{one.group}/v1" if one.group else "/api/v1"
    raw = {"apiVersion": one.api_version, "kind": one.kind, "metadata": {"name": "x"}}
    server.store.put(raw)
    answer = plain.get(f"{base}/{one.plural}")
    assert (answer.raw["kind"], answer.names) == (f"{one.kind}List", ["x"])
    place = f"{base}/namespaces/default" if one.namespaced else base
    assert plain.get(f"{place}/{one.plural}/x").raw["kind"] == one.kind


def test_a_namespaced_path_shows_its_namespace_only(server: ApiServer, plain: Plain) -> None:
    server.store.bulk([make.service("a"), make.service("b", namespace="other")])
    assert plain.get("/api/v1/namespaces/other/services").names == ["b"]
    assert plain.get(SERVICES).names == ["a", "b"]


def test_the_list_has_the_stores_version_and_each_item_its_own(
    server: ApiServer, plain: Plain
) -> None:
    first = server.store.put(make.service("a"))
    last = server.store.put(make.node("node-a"))
    answer = plain.get(SERVICES)
    assert answer.version == str(last)
    assert answer.raw["items"][0]["metadata"]["resourceVersion"] == str(first)


def test_pages_are_one_moment_though_the_store_goes_on(server: ApiServer, plain: Plain) -> None:
    names = fill(server, 10)
    first = plain.get(SERVICES, limit=4)
    assert first.raw["metadata"]["remainingItemCount"] == 6
    server.store.delete(make.service("s0005"))
    server.store.put(make.service("s0006", ip="10.96.9.9"))
    server.store.put(make.service("s0004-new"))
    token = first.raw["metadata"]["continue"]
    second = plain.get(SERVICES, limit=100, **{"continue": token})
    assert first.names + second.names == names
    assert second.version == first.version
    assert second.raw["items"][2]["spec"]["clusterIP"] == "10.96.0.10"
    assert "continue" not in second.raw["metadata"]
    assert "s0004-new" in plain.get(SERVICES).names


def test_a_page_of_a_forgotten_moment_is_expired_and_names_a_way_on(
    server: ApiServer, plain: Plain
) -> None:
    names = fill(server, 10)
    first = plain.get(SERVICES, limit=4)
    server.store.compact()
    token = first.raw["metadata"]["continue"]
    gone = plain.get(SERVICES, limit=4, **{"continue": token})
    assert (gone.code, gone.raw["kind"], gone.raw["status"]) == (410, "Status", "Failure")
    assert gone.raw["reason"] == "Expired"
    server.store.put(make.service("s0009-new"))
    other = gone.raw["metadata"]["continue"]
    rest = plain.get(SERVICES, **{"continue": other})
    assert rest.names == [*names[4:], "s0009-new"]
    assert rest.version > first.version


def test_the_count_of_what_remains_is_not_told_with_a_selector(
    server: ApiServer, plain: Plain
) -> None:
    for number in range(8):
        server.store.put(make.service(f"s{number}", labels={"odd": str(number % 2)}))
    found = pages(plain, SERVICES, limit=2, labelSelector="odd=1")
    assert [page.names for page in found] == [["s1", "s3"], ["s5", "s7"]]
    assert all("remainingItemCount" not in page.raw["metadata"] for page in found)


def test_a_last_page_can_be_empty_with_a_selector(server: ApiServer, plain: Plain) -> None:
    server.store.bulk([make.service("a", labels={"x": "1"}), make.service("b")])
    found = pages(plain, SERVICES, limit=1, labelSelector="x")
    assert [page.names for page in found] == [["a"], []]


def test_pages_cross_namespaces(server: ApiServer, plain: Plain) -> None:
    server.store.bulk(make.service(f"s{n}", namespace=f"n{n % 3}") for n in range(7))
    names = [name for page in pages(plain, SERVICES, limit=2) for name in page.names]
    assert names == ["s0", "s3", "s6", "s1", "s4", "s2", "s5"]
    inside = pages(plain, "/api/v1/namespaces/n0/services", limit=2)
    assert [page.names for page in inside] == [["s0", "s3"], ["s6"]]
    assert inside[0].raw["metadata"]["remainingItemCount"] == 1


def test_a_version_of_zero_means_all_at_once_whatever_the_limit(
    server: ApiServer, plain: Plain
) -> None:
    names = fill(server, 6)
    assert plain.get(SERVICES, limit=2, resourceVersion="0").names == names
    server.behaviour.page_limit_at_zero = True
    assert plain.get(SERVICES, limit=2, resourceVersion="0").names == names[:2]


def test_an_exact_version_shows_the_past_and_expires(server: ApiServer, plain: Plain) -> None:
    then = server.store.put(make.service("a"))
    server.store.put(make.service("b"))
    exact = {"resourceVersion": str(then), "resourceVersionMatch": "Exact"}
    assert (plain.get(SERVICES, **exact).names, plain.get(SERVICES, **exact).version) == (
        ["a"],
        str(then),
    )
    newer = {"resourceVersion": str(then), "resourceVersionMatch": "NotOlderThan"}
    assert plain.get(SERVICES, **newer).names == ["a", "b"]
    assert plain.get(SERVICES, resourceVersion=then).names == ["a", "b"]
    assert plain.get(SERVICES, resourceVersion=then, limit=5).names == ["a"]
    server.store.compact()
    gone = plain.get(SERVICES, **exact)
    assert (gone.code, gone.raw["reason"]) == (410, "Expired")
    assert plain.get(SERVICES, **newer).code == 200


def test_a_version_that_is_not_there_yet_is_too_large(server: ApiServer, plain: Plain) -> None:
    version = server.store.put(make.service("a"))
    answer = plain.get(SERVICES, resourceVersion=version + 5)
    assert (answer.code, answer.raw["reason"]) == (504, "Timeout")
    assert "Too large resource version" in answer.raw["message"]
    assert answer.raw["details"]["retryAfterSeconds"] == 1
    assert answer.raw["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    assert answer.headers["Retry-After"] == "1"


def test_a_version_that_comes_soon_is_waited_for(server: ApiServer, plain: Plain) -> None:
    server.behaviour.fresh_wait_sec = 20
    version = server.store.put(make.service("a"))
    late = threading.Timer(0.1, server.store.put, (make.service("b"),))
    late.start()
    assert plain.get(SERVICES, resourceVersion=version + 1).names == ["a", "b"]
    late.join()


@pytest.mark.parametrize(
    ("query", "code", "told"),
    [
        ({"resourceVersionMatch": "Exact"}, 422, "forbidden unless resourceVersion is provided"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 422, "forbidden for"),
        ({"resourceVersionMatch": "Older", "resourceVersion": "1"}, 422, "Unsupported value"),
        ({"sendInitialEvents": "true"}, 422, "forbidden for list"),
        ({"resourceVersion": "old"}, 400, "Invalid value"),
        ({"limit": "-1"}, 400, "Invalid value"),
        ({"continue": "rubbish"}, 400, "continue key is not valid"),
    ],
)
def test_options_that_may_not_be_are_refused(
    plain: Plain, query: dict[str, str], code: int, told: str
) -> None:
    answer = plain.get(SERVICES, **query)
    assert (answer.code, answer.raw["code"], answer.raw["kind"]) == (code, code, "Status")
    assert told in answer.raw["message"]


def test_a_continue_token_goes_with_no_version(server: ApiServer, plain: Plain) -> None:
    fill(server, 3)
    token = plain.get(SERVICES, limit=1).raw["metadata"]["continue"]
    answer = plain.get(SERVICES, resourceVersion="5", **{"continue": token})
    assert (answer.code, answer.raw["reason"]) == (400, "BadRequest")


def test_history_is_bounded(plain: Plain) -> None:
    with ApiServer(tls=False, history=10) as small:
        then = small.store.put(make.service("a"))
        for number in range(20):
            small.store.put(make.service("b", ip=f"10.96.0.{number}"))
        exact = {"resourceVersion": str(then), "resourceVersionMatch": "Exact"}
        assert Plain(small).get(SERVICES, **exact).code == 410


def test_large_lists_are_compressed_for_those_who_ask(server: ApiServer, plain: Plain) -> None:
    names = fill(server, 1000)
    connection = plain.connect()
    try:
        connection.request("GET", SERVICES, headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        assert answer.headers["Content-Encoding"] == "gzip"
        raw = json.loads(gzip.decompress(answer.read()))
        assert [item["metadata"]["name"] for item in raw["items"]] == names
        connection.request("GET", SERVICES + "?limit=3", headers={"Accept-Encoding": "gzip"})
        small = connection.getresponse()
        assert "Content-Encoding" not in small.headers
        small.read()
    finally:
        connection.close()
    with pytest.raises(zlib.error):
        zlib.decompress(plain.get(SERVICES).body)


def test_one_connection_serves_many_requests(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.pod("a"))
    connection = plain.connect()
    try:
        for _ in range(3):
            connection.request("GET", PODS)
            assert b'"name":"a"' in connection.getresponse().read()
    finally:
        connection.close()


def test_every_request_is_logged(server: ApiServer, plain: Plain) -> None:
    before = time.time()
    plain.get(SERVICES, limit=3)
    plain.get("/api/v1/namespaces/x/pods/y")
    first, second = server.requests
    assert (first.method, first.path, first.query) == ("GET", SERVICES, {"limit": "3"})
    assert (first.verb, first.resource, first.code, first.agent) == (
        "list",
        "services",
        200,
        "plain/1",
    )
    assert (second.verb, second.namespace, second.name, second.code) == ("get", "x", "y", 404)
    assert before - 1 < first.time <= second.time
