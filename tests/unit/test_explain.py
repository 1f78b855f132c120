"""Why an endpoint is used or not, in words; and never anything else than what is chosen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kpbpf.address import from_text
from kpbpf.model.choose import choose
from kpbpf.model.endpoint import READY, SERVING, TERMINATING, Endpoint, EndpointPort, EndpointSlice
from kpbpf.model.explain import Explained, explain
from kpbpf.model.objects import Node
from kpbpf.model.service import Service, ServicePort

HERE = Node("here", "a")
WEB = Service(
    "n",
    "web",
    "ClusterIP",
    (from_text("10.96.0.1"), from_text("fd96::1")),
    (ServicePort("http", 6, 80, 0), ServicePort("dns", 17, 53, 0)),
)
UP = READY | SERVING
LAST = SERVING | TERMINATING


def ends(*endpoints: Endpoint) -> EndpointSlice:
    return EndpointSlice("n", "s", "web", "IPv4", (EndpointPort("http", 6, 8080),), endpoints)


def end(last: int, conditions: int = UP, node: str = "far", **hints: tuple[str, ...]) -> Endpoint:
    return Endpoint(from_text(f"10.1.0.{last}"), node, conditions, **hints)


def told(*endpoints: Endpoint) -> list[tuple[bool, bool, str]]:
    return [(one.cluster, one.local, one.why_not) for one in explain(WEB, [ends(*endpoints)], HERE)]


def test_ready_endpoints_are_used_and_those_here_for_local_traffic_too() -> None:
    assert told(end(1), end(2, node="here")) == [(True, False, ""), (True, True, "")]


def test_conditions_are_told() -> None:
    found = told(end(1), end(2, 0), end(3, TERMINATING), end(4, LAST), end(5, SERVING))
    assert [why for _, _, why in found] == [
        "",
        "not ready",
        "not ready; it is terminating",
        "terminating: used only when no endpoint is ready",
        "not ready",
    ]


def test_a_terminating_endpoint_is_the_last_resort_of_local_traffic() -> None:
    last = end(2, LAST, "here")
    assert told(end(1), last)[1] == (
        False,
        True,
        "terminating: used only when no endpoint is ready",
    )
    assert told(last, end(3, 0))[0] == (True, True, "")


def test_hints_are_told() -> None:
    near, far = end(1, for_zones=("a",)), end(2, for_zones=("b", "c"))
    assert told(near, far)[1][2] == "topology hints: meant for zone b, c, and this node is in a"
    mine = end(1, for_nodes=("here",), for_zones=("b",))
    other = end(2, for_nodes=("there",), for_zones=("a",))
    assert told(mine, other)[1][2] == "topology hints: others are meant for node here"


def test_of_two_with_one_address_the_worse_one_says_so() -> None:
    found = told(end(1, LAST), end(1))
    assert [one[0] for one in found] == [False, True]
    assert found[0][2] == "another endpoint has this address and port, and is in a better state"


def test_ports_and_families_are_apart() -> None:
    four = ends(end(1))
    six = four._replace(
        name="t", family="IPv6", endpoints=(Endpoint(from_text("fd42::1"), "", UP),)
    )
    dns = four._replace(name="u", ports=(EndpointPort("dns", 17, 53),))
    found = [(one.port_name, one.proto, one.port) for one in explain(WEB, [four, six, dns], HERE)]
    assert found == [("dns", 17, 53), ("http", 6, 8080), ("http", 6, 8080)]


def test_what_the_service_has_no_port_or_address_for_is_not_used() -> None:
    (one,) = explain(WEB._replace(ports=()), [ends(end(1))], HERE)
    assert (one.cluster, one.local) == (False, False)
    assert one.why_not == "the Service has no port of this name ('http') and protocol"
    (one,) = explain(WEB._replace(cluster_ips=WEB.cluster_ips[1:]), [ends(end(1))], HERE)
    assert (one.cluster, one.why_not) == (False, "the Service has no IPv4 address")


ENDPOINTS = st.lists(
    st.builds(
        end,
        st.integers(1, 5),
        st.integers(0, 7),
        st.sampled_from(["here", "far"]),
        for_zones=st.sampled_from([(), ("a",), ("b",), ("a", "b")]),
        for_nodes=st.sampled_from([(), ("here",), ("far",)]),
    ),
    max_size=8,
)


@given(ENDPOINTS)
def test_what_is_said_is_what_is_chosen(endpoints: list[Endpoint]) -> None:
    choice = choose([(one, 8080) for one in endpoints], "here", "a")
    found: list[Explained] = explain(WEB, [ends(*endpoints)], HERE)
    assert len(found) == len(endpoints)
    for chosen, of in ((choice.cluster, "cluster"), (choice.local, "local")):
        assert {id(one[0]) for one in chosen} == {
            id(one.endpoint) for one in found if getattr(one, of)
        }
    assert all(bool(one.why_not) is not one.cluster for one in found)
