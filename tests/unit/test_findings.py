"""What is told of Services: who comes and goes, what is wrong, and who has no endpoint here."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests import make
from tests.unit.test_services import Node


@pytest.fixture
def node() -> Node:
    return Node()


def test_services_that_come_and_go_are_told_by_name_and_their_endpoints_are_not(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    services = [make.service(f"s{n}", f"10.96.0.{n}") for n in range(5)]
    node.sync(*services)
    node.sync(make.slice_(of="s0"))
    node.sync(make.slice_(["10.1.0.2"], of="s0"))
    node.forget(services[4])
    node.sync()
    assert [record.message for record in caplog.records] == [
        "serving default/s0, default/s1, default/s2 and 2 more",
        "no longer serving default/s4",
    ]


def test_a_problem_is_told_once_and_when_it_ends(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.sync(make.service("a"), make.service("b"))
    node.sync(make.service("c", "10.96.0.11"))
    assert [record.message for record in caplog.records] == node.problems()
    caplog.set_level(logging.INFO)
    caplog.clear()
    problems = node.problems()
    node.tell(make.service("b", "10.96.0.12"))
    assert node.problems() == []
    assert not caplog.records
    node.sync()
    assert [record.message for record in caplog.records] == [f"mended: {problems[0]}"]


def test_two_services_that_contend_for_thousands_of_ports_are_one_problem(node: Node) -> None:
    ports = [make.port(n, f"p{n}") for n in range(1, 2001)]
    node.sync(make.service("a", ports=ports), make.service("b", ports=ports))
    (problem,) = node.problems()
    assert problem.endswith("got 10.96.0.10 port 1/TCP and 1,999 more")


@pytest.mark.parametrize(
    ("spec", "node_of_endpoint", "expected"),
    [
        ({"internalTrafficPolicy": "Local"}, "node-b", (1, 0)),
        ({"internalTrafficPolicy": "Local"}, "node-a", (0, 0)),
        ({"internalTrafficPolicy": "Local"}, None, (0, 0)),
        ({"externalTrafficPolicy": "Local", "type": "NodePort"}, "node-b", (0, 1)),
        ({"externalTrafficPolicy": "Local", "type": "LoadBalancer"}, "node-b", (0, 1)),
        ({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.9"]}, "node-b", (0, 1)),
        ({"externalTrafficPolicy": "Local"}, "node-b", (0, 0)),
        ({}, "node-b", (0, 0)),
    ],
)
def test_services_whose_traffic_policy_leaves_no_endpoint_are_counted(
    node: Node, spec: dict[str, Any], node_of_endpoint: str | None, expected: tuple[int, int]
) -> None:
    endpoints = [make.endpoint("10.1.0.1", node_of_endpoint)] if node_of_endpoint else []
    node.sync(make.service(**spec), make.slice_(endpoints))
    status = node.controller.status()
    assert (status.no_local_internal, status.no_local_external) == expected
    node.forget(make.service())
    node.sync()
    assert (node.controller.status().no_local_internal, status.services) == (0, 1)
