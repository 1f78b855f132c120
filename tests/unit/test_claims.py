"""Who is served at an address that several Services claim, and what the others are told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.claims import Claims
from controllers.services import ServicesController
from kpbpf.model.event import Event
from kpbpf.model.objects import Key
from maps.abi import FrontendFlag
from maps.fake import fake_tables
from tests import make
from tests.unit.reading import service_lines

OUTSIDE = "198.51.100.1"


class Cluster:
    """A controller, and the events that it tells."""

    def __init__(self) -> None:
        self.tables = fake_tables()
        self.events: list[Event] = []
        self.controller = ServicesController(self.tables, "node-a", tell=self.events.append)

    def sync(self, *raws: make.Raw) -> list[str]:
        for raw in raws:
            model = make.model(raw)
            self.controller.changed(model.key, model)
        self.controller.work()
        return [line for line in service_lines(self.tables) if OUTSIDE in line]

    def forget(self, raw: make.Raw) -> list[str]:
        self.controller.changed(make.model(raw).key, None)
        return self.sync()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def outside(name: str, day: int = 0, number: int = 1, **spec: Any) -> make.Raw:
    """A Service at an address of the outside world, made on a day of May; 0: nobody says."""
    raw = make.service(name, f"10.96.0.{number}", **{"externalIPs": [OUTSIDE]} | spec)
    if day:
        raw["metadata"] |= {"creationTimestamp": f"2026-05-{day:02}T00:00:00Z", "uid": f"u-{name}"}
    return raw


def served(name: str) -> list[str]:
    return [f"{OUTSIDE}:80/TCP default/{name}/IPv4: nothing [external]"]


def test_the_older_one_is_served_whatever_it_is_called_and_whenever_it_is_seen(
    cluster: Cluster,
) -> None:
    young, old = outside("a", 9, 1), outside("z", 2, 2)
    assert cluster.sync(young) == served("a")
    assert cluster.sync(old) == served("z")
    assert Cluster().sync(old, young) == served("z")
    assert cluster.forget(old) == served("a")


def test_what_has_no_age_comes_last_and_then_the_smaller_name(cluster: Cluster) -> None:
    assert cluster.sync(outside("b", 0, 2), outside("c", 0, 3)) == served("b")
    assert cluster.sync(outside("z", 9, 9)) == served("z")


def test_a_service_made_again_stands_behind_those_made_meanwhile(cluster: Cluster) -> None:
    assert cluster.sync(outside("a", 1, 1), outside("b", 2, 2)) == served("a")
    assert cluster.sync(outside("a", 3, 1)) == served("b")
    assert cluster.sync(outside("b", 4, 2)) == served("a")


def test_nobody_takes_a_cluster_ip_by_naming_it_as_an_external_one(cluster: Cluster) -> None:
    """The thief is older, and has the smaller name."""
    thief = outside("a", 1, 1, externalIPs=["10.96.0.9"])
    cluster.sync(thief)
    cluster.sync(outside("dns", 2, 9, externalIPs=[]))
    assert "10.96.0.9:80/TCP default/dns/IPv4: nothing" in service_lines(cluster.tables)
    (problem,) = cluster.controller.problems()
    assert str(problem) == (
        "Service default/a: Service default/a: spec.externalIPs: expected an address and port "
        "that Service default/dns does not have, got 10.96.0.9 port 80/TCP"
    )


def test_an_external_address_that_becomes_a_cluster_ip_is_claimed_as_such(
    cluster: Cluster,
) -> None:
    cluster.sync(outside("a", 1, 1), outside("b", 2, 2))
    cluster.sync(make.service("b", [OUTSIDE]))
    assert service_lines(cluster.tables) == [
        "10.96.0.1:80/TCP default/a/IPv4: nothing",
        f"{OUTSIDE}:80/TCP default/b/IPv4: nothing",
    ]


def test_the_loser_is_told_once_and_again_when_it_loses_anew(cluster: Cluster) -> None:
    winner, loser = outside("a", 1, 1), outside("b", 2, 2)
    cluster.sync(winner, loser)
    cluster.sync(outside("b", 2, 2, sessionAffinity="ClientIP"))
    cluster.sync(make.slice_(of="a"))
    assert cluster.events == [
        Event(
            Key("Service", "default", "b"),
            "AddressConflict",
            "ServeAddress",
            f"{OUTSIDE} port 80/TCP: Service default/a is served there, and this one is not",
            warning=True,
            uid="u-b",
        )
    ]
    cluster.forget(winner)
    cluster.sync(winner)
    assert len(cluster.events) == 2


def test_of_many_ports_that_are_lost_one_event_tells(cluster: Cluster) -> None:
    ports = [make.port(n, f"p{n}") for n in range(1, 51)]
    cluster.sync(outside("a", 1, 1, ports=ports), outside("b", 2, 2, ports=ports))
    (event,) = cluster.events
    assert event.note.startswith(f"{OUTSIDE} port 1/TCP and 49 more: Service default/a is")


def test_two_services_may_share_an_address_if_their_ports_differ(cluster: Cluster) -> None:
    """Such as those made by hand; the rest of the address is refused by one of them."""
    cluster.sync(make.service("a", ports=[80]), make.service("b", ports=[81]))
    assert cluster.controller.problems() == []
    assert cluster.events == []
    assert len(service_lines(cluster.tables)) == 2


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ({"type": "NodePort", "ports": [make.port(80, nodePort=30080)]}, "spec.ports[].nodePort"),
        ({"type": "LoadBalancer"}, "status.loadBalancer.ingress"),
        ({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"]}, "spec.clusterIP"),
    ],
)
def test_the_field_in_which_the_address_is_asked_for_is_named(
    cluster: Cluster, where: dict[str, Any], field: str
) -> None:
    for number, name in enumerate("ab"):
        raw = outside(name, 0, 10 + number, **{"externalIPs": []} | where)
        raw["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}
        if field != "status.loadBalancer.ingress":
            del raw["status"]
        cluster.sync(raw)
    (problem,) = cluster.controller.problems()
    assert problem.field == field


STATES = st.dictionaries(
    st.sampled_from("abc"),
    st.tuples(
        st.sampled_from([0.0, 1.0, 2.0]),
        st.dictionaries(
            st.sampled_from([b"x", b"y"]), st.sampled_from([0, int(FrontendFlag.EXTERNAL)])
        ),
    ),
)


@given(st.lists(STATES, max_size=5))
def test_who_holds_what_depends_on_nothing_but_the_last_state(
    states: list[dict[str, tuple[float, dict[bytes, int]]]],
) -> None:
    now: dict[str, tuple[float, dict[bytes, int]]] = {}
    claims = Claims(lambda path: now[path][0])
    for state in states:
        for path in "abc":
            claims.change(path, now.get(path, (0.0, {}))[1], {})
            now.pop(path, None)
            if path in state:
                now[path] = state[path]
                claims.change(path, {}, state[path][1])
    expected = {}
    for key in (b"x", b"y"):
        ranks = [
            (bool(wishes[key]), created or float("inf"), path)
            for path, (created, wishes) in now.items()
            if key in wishes
        ]
        if ranks:
            expected[key] = min(ranks)[2]
    held = {
        key: path
        for path, (_, wishes) in now.items()
        for key, _ in claims.held(path, tuple(wishes.items()))
    }
    assert held == expected
