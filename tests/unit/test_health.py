"""What /healthz, /livez and /readyz answer, case by case (SEMANTICS A53), by a clock of our own."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from controllers.health import Health
from controllers.pages import health_pages, metrics_pages
from kpbpf.metrics import Metrics
from kpbpf.model.objects import Node
from kpbpf.settings import Address
from kpbpf.web import JSON, Answer, Request, Server

EPOCH = 1_700_000_000.25
"""2023-11-14T22:13:20.25Z."""


class Clock:
    """Both clocks: they go only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def wall(self) -> float:
        return EPOCH + self.now - 100.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    """Of a daemon that has just started, on a node that the API knows."""
    made = Health(30.0, needs_node=True, clock=lambda: clock.now, wall=clock.wall)
    made.node(Node("node-1"))
    return made


@pytest.fixture
def synced(health: Health) -> Health:
    """The same after everything was read, loaded and written."""
    health.awaits("sources")
    health.awaits("programs")
    health.written()
    return health


def body(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.body)
    return found


def verbose(query: str = "verbose") -> Request:
    return Request("GET", "/readyz", {query: [""]}, {})


# ---- the form -------------------------------------------------------------------------------


def test_healthz_has_the_form_of_kube_proxys_to_the_byte(synced: Health, clock: Clock) -> None:
    clock.now += 1.75
    answer = synced.healthz()
    assert answer.body.decode() == (
        '{"lastUpdated":"2023-11-14T22:13:22Z","currentTime":"2023-11-14T22:13:22Z",'
        '"nodeEligible":true,"healthy":true,"status":{'
        '"IPv4":{"lastUpdated":"2023-11-14T22:13:20.25Z","healthy":true},'
        '"IPv6":{"lastUpdated":"2023-11-14T22:13:20.25Z","healthy":true}}}'
    )
    assert answer.content_type == JSON
    assert answer.headers == (("X-Content-Type-Options", "nosniff"),)


def test_livez_says_nothing_of_the_node(synced: Health) -> None:
    assert list(body(synced.livez())) == ["lastUpdated", "currentTime", "healthy", "status"]


def test_an_unhealthy_one_tells_when_it_last_was_up_to_date(synced: Health, clock: Clock) -> None:
    clock.now += 10
    synced.queued()
    clock.now += 60
    found = body(synced.healthz())
    assert found["lastUpdated"] == "2023-11-14T22:13:20.25Z"
    assert found["currentTime"] == "2023-11-14T22:14:30.25Z"
    assert found["status"]["IPv6"] == {"lastUpdated": found["lastUpdated"], "healthy": False}


# ---- what waits -------------------------------------------------------------------------------


def codes(health: Health) -> tuple[int, int]:
    return health.healthz().code, health.livez().code


def test_one_with_nothing_to_do_stays_healthy_for_ever(synced: Health, clock: Clock) -> None:
    clock.now += 86_400
    assert codes(synced) == (200, 200)


@pytest.mark.parametrize(("waited_sec", "code"), [(0, 200), (59.9, 200), (60, 503), (6000, 503)])
@pytest.mark.parametrize("where", ["queued", "taken", "written in part"])
def test_what_waits_for_twice_the_sync_period_is_too_late(
    synced: Health, clock: Clock, where: str, waited_sec: float, code: int
) -> None:
    clock.now += 1000
    heard = clock.now
    synced.queued()
    if where != "queued":
        clock.now += 1
        synced.taken()
    if where == "written in part":
        synced.written(oldest_pending=heard)
    clock.now = heard + waited_sec
    assert codes(synced) == (code, code)


def test_the_oldest_of_what_waits_counts_however_much_comes_after_it(
    synced: Health, clock: Clock
) -> None:
    for _ in range(4):
        synced.queued()
        synced.taken()  # and fails
        clock.now += 20
    assert codes(synced) == (503, 503)


def test_what_comes_while_the_loop_writes_waits_for_the_next_time(
    synced: Health, clock: Clock
) -> None:
    synced.queued()
    synced.taken()
    synced.queued()
    synced.written()
    clock.now += 60
    assert not synced.healthy()
    synced.taken()
    synced.written()
    assert synced.healthy()


def test_it_is_healthy_again_once_all_is_written(synced: Health, clock: Clock) -> None:
    synced.queued()
    clock.now += 100
    assert codes(synced) == (503, 503)
    synced.taken()
    synced.written()
    assert codes(synced) == (200, 200)


def test_it_is_healthy_while_starting_however_long_that_takes(health: Health, clock: Clock) -> None:
    health.queued()
    health.taken()
    health.awaits("sources", ["EndpointSlices"])
    clock.now += 86_400
    assert codes(health) == (200, 200)


def test_a_first_write_that_never_succeeds_is_too_late_too(health: Health, clock: Clock) -> None:
    health.queued()
    clock.now += 1000
    health.taken()
    health.awaits("sources")
    clock.now += 59
    assert codes(health) == (200, 200), "the time of reading does not count"
    clock.now += 1
    assert codes(health) == (503, 503)


# ---- the node ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "code"),
    [
        (Node("node-1"), 200),
        (None, 503),
        (Node("node-1", deleting=True), 503),
        (Node("node-1", leaving=True), 503),
    ],
    ids=["there", "missing", "being deleted", "tainted by the autoscaler"],
)
def test_a_node_that_goes_gets_no_traffic_and_its_daemon_lives_on(
    synced: Health, node: Node | None, code: int
) -> None:
    synced.node(node)
    assert codes(synced) == (code, 200)
    found = body(synced.healthz())
    assert (found["nodeEligible"], found["healthy"]) == (code == 200, True)


def test_a_node_is_not_missed_before_the_nodes_were_read(health: Health) -> None:
    health.node(None)
    assert codes(health) == (200, 200)


def test_without_an_api_server_there_need_be_no_node(clock: Clock) -> None:
    health = Health(30.0, needs_node=False, clock=lambda: clock.now, wall=clock.wall)
    health.awaits("sources")
    health.written()
    assert health.healthz().code == 200
    health.node(Node("node-1", leaving=True))
    assert health.healthz().code == 503


# ---- ready ------------------------------------------------------------------------------------


def test_a_node_is_ready_when_all_was_read_loaded_and_written(health: Health) -> None:
    assert health.readyz().code == 503
    health.awaits("programs")
    health.awaits("sources", ["EndpointSlices", "Services"])
    answer = health.readyz()
    assert answer.code == 503
    assert answer.body.decode().splitlines() == [
        "sources: awaited: EndpointSlices, Services",
        "maps: awaited: the first writing",
        "not ready",
    ]
    health.awaits("sources")
    health.written()
    assert health.readyz() == Answer(200, b"ok\n")


def test_verbose_names_what_is_done_too(synced: Health) -> None:
    answer = synced.readyz(verbose())
    assert answer.body == b"sources: ok\nprograms: ok\nmaps: ok\nok\n"
    assert synced.readyz(verbose("other")).body == b"ok\n"


def test_a_node_stays_ready_when_it_falls_behind(synced: Health, clock: Clock) -> None:
    synced.queued()
    clock.now += 1000
    assert not synced.healthy()
    assert synced.readyz().code == 200


def test_a_first_write_that_left_something_out_is_not_the_first_writing(
    health: Health, clock: Clock
) -> None:
    health.awaits("sources")
    health.awaits("programs")
    health.written(oldest_pending=clock.now)
    assert b"maps" in health.readyz().body


# ---- by HTTP ----------------------------------------------------------------------------------


def get(server: Server, path: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=20) as found:
            return found.status, found.headers["Content-Type"], found.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_the_health_server_answers_by_path_and_counts_what_it_answered(
    synced: Health, clock: Clock
) -> None:
    server = Server.start(Address("127.0.0.1", 0), health_pages(synced), "health server")
    try:
        assert get(server, "/healthz")[:2] == (200, JSON)
        synced.queued()
        clock.now += 60
        assert get(server, "/healthz")[0] == get(server, "/livez")[0] == 503
        assert get(server, "/metrics")[0] == 404
    finally:
        server.stop()
    assert synced.healthz_codes == {200: 1, 503: 1}
    assert synced.livez_codes == {200: 0, 503: 1}


def test_the_metrics_server_has_kube_proxys_pages(synced: Health) -> None:
    pages = metrics_pages(Metrics(list), synced, {"mode": "", "metricsBindAddress": "x:1"})
    server = Server.start(Address("127.0.0.1", 0), pages, "metrics server")
    try:
        assert get(server, "/healthz") == (200, "text/plain; charset=utf-8", b"ok")
        assert get(server, "/proxyMode")[2] == b"kpbpf"
        code, kind, found = get(server, "/configz")
        assert (code, kind) == (200, JSON)
        expected = {"kubeproxy.config.k8s.io": {"mode": "", "metricsBindAddress": "x:1"}}
        assert json.loads(found) == expected
        assert get(server, "/readyz?verbose")[2].endswith(b"\nok\n")
        assert b"process_open_fds" in get(server, "/metrics")[2]
        code, _, found = get(server, "/")
        assert code == 404
        assert found.split()[-5:] == [
            b"/configz",
            b"/healthz",
            b"/metrics",
            b"/proxyMode",
            b"/readyz",
        ]
    finally:
        server.stop()
