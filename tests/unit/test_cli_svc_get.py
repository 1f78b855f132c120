"""`kpbpf svc get`: all of one Service, from the maps and from a daemon's real controller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controllers.services import ServicesController
from controllers.uplinks import UplinkStatus
from kpbpf.address import from_text
from kpbpf.cli import asking
from kpbpf.daemon.questions import questions
from kpbpf.home import Home
from kpbpf.model.endpoint import READY, SERVING, TERMINATING, Endpoint, EndpointPort, EndpointSlice
from kpbpf.model.objects import Block, Node
from kpbpf.model.service import Service, ServicePort
from maps.abi import Endpoint as Pod
from maps.abi import EndpointKey, Mode, Name, NameKey, NameKind
from maps.fake import FakeTables
from tests.unit.answering import answering
from tests.unit.command import Run
from tests.unit.serving import serve

WEB = Service(
    "default",
    "web",
    "LoadBalancer",
    (from_text("10.96.0.2"),),
    (ServicePort("http", 6, 80, 30080),),
    external_local=True,
    affinity_sec=10800,
    load_balancer_ips=(from_text("192.0.2.10"),),
    source_ranges=(Block(from_text("203.0.113.0"), 120),),
    health_check_port=32000,
    labels=(("app", "web"),),
)
SLICE = EndpointSlice(
    "default",
    "web-1",
    "web",
    "IPv4",
    (EndpointPort("http", 6, 8080),),
    (
        Endpoint(from_text("10.1.0.1"), "here", READY | SERVING),
        Endpoint(from_text("10.1.1.1"), "there", READY | SERVING),
        Endpoint(from_text("10.1.1.2"), "there", SERVING | TERMINATING),
        Endpoint(from_text("10.1.1.3"), "there", 0),
    ),
)
HEADLESS = Service("default", "webs", "ClusterIP", (), (), headless=True)


@pytest.fixture(autouse=True)
def nothing_was_said_yet() -> None:
    asking._said.clear()


@pytest.fixture
def controller(node_tables: FakeTables) -> ServicesController:
    """One that has written WEB, and knows HEADLESS."""
    made = ServicesController(node_tables, "here")
    for model in (Node("here", "a"), WEB, SLICE, HEADLESS):
        made.changed(model.key, model)
    made.reconcile()
    pod = Pod(1, 101, bytes(6), bytes(6), Mode.VETH)
    node_tables.endpoints.put(EndpointKey(from_text("10.1.0.1")), pod)
    node_tables.names.put(NameKey(NameKind.ENDPOINT, 1), Name("pod=default/web-0"))
    return made


@pytest.fixture
def daemon(controller: ServicesController, tmp_path: Path) -> Iterator[None]:
    """A daemon that answers from it."""
    uplink = UplinkStatus("eth0", "", ("192.0.2.1",), "default route", True, "")
    with answering(Home(run=tmp_path), questions(controller, "here", lambda: (uplink,))):
        yield


def got(run: Run, *asked: str) -> dict[str, Any]:
    (service,) = json.loads(run("svc", "get", "-o", "json", *asked).out)
    assert isinstance(service, dict)
    return service


@pytest.mark.usefixtures("daemon")
def test_everything_of_a_service_is_told_in_words(run: Run) -> None:
    shown = run("svc", "get", "default/web")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out == (
        "Name:                      default/web\n"
        "Type:                      LoadBalancer\n"
        "Labels:                    app=web\n"
        "Internal traffic policy:   Cluster\n"
        "External traffic policy:   Local\n"
        "Affinity:                  client address, 3h\n"
        "Source ranges:             203.0.113.0/24\n"
        "Health check port:         32000\n"
        "\n"
        "FRONTEND       ADDRESS      PORT    PROTOCOL   POLICY    WHO CONNECTS REACHES\n"
        "ClusterIP      10.96.0.2    80      TCP        Cluster   all 2 endpoints\n"
        "LoadBalancer   192.0.2.10   80      TCP        Local     from outside only the 1 endpoint "
        "on this node; from pods and this node all 2 endpoints; only from the source ranges\n"
        "NodePort       0.0.0.0      30080   TCP        Local     from outside only the 1 endpoint "
        "on this node; from pods and this node all 2 endpoints\n"
        "\n"
        "ENDPOINT        PROTOCOL   NODE    HERE   READY   SERVING   TERMINATING   USED            "
        "WHY NOT                                            POD\n"
        "10.1.0.1:8080   TCP        here    yes    yes     yes       no            cluster,local   "
        "-                                                  pod=default/web-0\n"
        "10.1.1.1:8080   TCP        there   no     yes     yes       no            cluster         "
        "-                                                  -\n"
        "10.1.1.2:8080   TCP        there   no     no      yes       yes           -               "
        "terminating: used only when no endpoint is ready   -\n"
        "10.1.1.3:8080   TCP        there   no     no      no        no            -               "
        "not ready                                          -\n"
    )


@pytest.mark.usefixtures("daemon")
def test_machines_get_the_same(run: Run) -> None:
    service = got(run, "default/web")
    assert (service["type"], service["health_check_port"], service["notes"]) == (
        "LoadBalancer",
        32000,
        [],
    )
    assert [row["frontend"] for row in service["frontends"]] == [
        "ClusterIP",
        "LoadBalancer",
        "NodePort",
    ]
    assert [(one["used"], one["why_not"]) for one in service["endpoints"]][2:] == [
        (None, "terminating: used only when no endpoint is ready"),
        (None, "not ready"),
    ]


@pytest.mark.usefixtures("controller")
def test_without_a_daemon_the_maps_tell_what_they_know(run: Run) -> None:
    service = got(run, "default/web")
    assert service["type"] is None
    assert service["external_traffic_policy"] == "Local"
    assert service["source_ranges"] == ["203.0.113.0/24"]
    assert service["affinity_sec"] == 10800
    assert [(one["address"], one["here"], one["used"]) for one in service["endpoints"]] == [
        ("10.1.0.1:8080", True, "cluster,local"),
        ("10.1.1.1:8080", False, "cluster"),
    ]
    shown = run("svc", "get", "default/web").out
    assert "known to a running daemon only" in shown
    assert "READY" not in shown
    assert "pod=default/web-0" in shown


@pytest.mark.parametrize(
    "asked",
    [
        ("default/web:http/IPv4",),
        ("default/web:http",),
        ("default/web",),
        ("web",),
        ("-n", "default", "web"),
        ("10.96.0.2:80",),
        ("0.0.0.0:30080",),
    ],
)
@pytest.mark.usefixtures("daemon")
def test_a_service_is_found_by_all_its_names(run: Run, asked: tuple[str, ...]) -> None:
    assert got(run, *asked)["name"] == "default/web"


def test_one_name_in_two_namespaces_shows_both(node_tables: FakeTables, run: Run) -> None:
    serve(node_tables, "a/web/IPv4", "10.96.0.2:80")
    serve(node_tables, "b/web/IPv4", "10.96.0.3:80")
    assert [one["name"] for one in json.loads(run("svc", "get", "web", "-o", "json").out)] == [
        "a/web",
        "b/web",
    ]


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("default/wbe", "did you mean default/web"),
        ("wbe", "did you mean default/web"),
        ("other/web", "did you mean default/web"),
        ("completely-different", "`kpbpf svc ls` lists"),
        ("10.96.0.99:80", "there is no Service 10.96.0.99:80; `kpbpf svc ls` lists"),
    ],
)
@pytest.mark.usefixtures("daemon")
def test_a_service_that_is_not_there_is_exit_code_1_and_names_the_closest(
    run: Run, asked: str, meant: str
) -> None:
    missing = run("svc", "get", asked)
    assert (missing.code, missing.out) == (1, "")
    assert missing.err.startswith(f"kpbpf: there is no Service {asked}")
    assert meant in missing.err


@pytest.mark.usefixtures("daemon")
def test_a_service_that_is_not_served_says_why(run: Run) -> None:
    assert got(run, "default/webs")["notes"] == [
        "not served: it is headless: clients reach its endpoints directly"
    ]
    assert "Not as it should be:" in run("svc", "get", "webs").out


@pytest.mark.usefixtures("daemon")
def test_what_is_not_written_yet_is_named(controller: ServicesController, run: Run) -> None:
    fewer = SLICE._replace(endpoints=SLICE.endpoints[1:2])
    controller.changed(SLICE.key, fewer)
    more = WEB._replace(external_ips=(from_text("192.0.2.20"),))
    controller.changed(WEB.key, more)
    assert got(run, "default/web")["notes"] == [
        "changed a moment ago: not written yet",
        "not served yet: 192.0.2.20:80/TCP",
        "still used: 10.1.0.1:8080",
    ]
    controller.reconcile()
    assert got(run, "default/web")["notes"] == []


@pytest.mark.usefixtures("daemon")
def test_an_address_that_another_service_has_names_it(
    controller: ServicesController, run: Run
) -> None:
    other = WEB._replace(
        name="zebra", cluster_ips=(from_text("10.96.0.7"),), ports=(ServicePort("http", 6, 80, 0),)
    )
    controller.changed(other.key, other)
    controller.reconcile()
    assert got(run, "default/zebra")["notes"] == [
        "192.0.2.10:80/TCP leads to Service default/web, which claims it, too"
    ]


@pytest.mark.usefixtures("daemon")
def test_a_full_map_is_named(
    controller: ServicesController, node_tables: FakeTables, run: Run
) -> None:
    node_tables.fail_every(1)
    changed = SLICE._replace(endpoints=SLICE.endpoints[1:2])
    controller.changed(SLICE.key, changed)
    controller.reconcile()
    notes = got(run, "default/web")["notes"]
    assert notes[0].startswith("default/web:http/IPv4 could not be written: ")
    assert "still used: 10.1.0.1:8080" in notes


@pytest.mark.usefixtures("daemon")
def test_a_service_without_usable_endpoints_is_refused(
    controller: ServicesController, run: Run
) -> None:
    controller.changed(SLICE.key, None)
    controller.reconcile()
    reached = {row["reaches"] for row in got(run, "default/web")["frontends"]}
    assert {one.partition(";")[0] for one in reached} == {
        "nobody: refused, no endpoint can be used"
    }


@pytest.mark.usefixtures("daemon")
def test_uplinks_are_told_as_the_daemon_knows_them(tmp_path: Path) -> None:
    assert asking.ask(Home(run=tmp_path), "node") == {
        "node": "here",
        "uplinks": [
            {
                "ifname": "eth0",
                "kind": "",
                "addresses": ["192.0.2.1"],
                "why": "default route",
                "attached": True,
                "why_not": "",
            }
        ],
    }
