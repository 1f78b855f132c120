"""`kpbpf trace` tells what a program said; here the program's answer is given."""

from __future__ import annotations

from typing import Any

import pytest

from kpbpf.address import from_text
from kpbpf.cli import trace
from kpbpf.cli.trace import Outcome, explain
from kpbpf.datapath import frame
from kpbpf.datapath.frame import Packet
from maps.abi import Frontend, FrontendKey, Name, NameKey, NameKind, Step, Verdict
from maps.fake import FakeTables, fake_tables
from maps.show import EndpointRow

MAC = bytes(6)
CLIENT, SERVICE, BACKEND = map(from_text, ("10.1.0.1", "10.96.0.1", "10.1.0.2"))
SENT = Packet(CLIENT, SERVICE, frame.TCP, 40000, 80)
POD = EndpointRow(
    id=2,
    name="pod=default/b",
    ips=["10.1.0.2"],
    host="vethb",
    ifindex=8,
    pod_mac="",
    node_mac="",
    mode="veth",
)


@pytest.fixture
def tables() -> FakeTables:
    made = fake_tables()
    made.frontends.put(FrontendKey(SERVICE, 80, frame.TCP), Frontend(5, 1, 1, 0, 0, 0))
    made.names.put(NameKey(NameKind.SERVICE, 5), Name("default/web:http/IPv4"))
    return made


def told(
    tables: FakeTables, verdict: int, after: Packet, *steps: int, sent: Packet = SENT
) -> dict[str, Any]:
    outcome = Outcome(verdict, sum(1 << step for step in steps), frame.build(after, MAC, MAC))
    return explain(tables, sent, outcome, [POD])


def test_a_service_is_told_with_its_name_and_the_backend_with_its_pod(tables: FakeTables) -> None:
    after = SENT._replace(dst=BACKEND, dst_port=8080)
    steps = (Step.LOCAL_POD, Step.SERVICE, Step.BACKEND_RANDOM, Step.SOURCE_CHECKED)
    row = told(tables, Verdict.PASS_TO_BACKEND, after, *steps)
    assert row["service"] == "default/web:http/IPv4"
    assert row["backend"] == "10.1.0.2:8080"
    assert row["backend_pod"] == "endpoint 2, pod=default/b"
    assert [(step["step"], step["detail"]) for step in row["steps"]] == [
        ("source_checked", None),
        ("service", "default/web:http/IPv4"),
        ("backend_random", "10.1.0.2:8080"),
        ("local_pod", "endpoint 2, pod=default/b"),
    ]


def test_a_dropped_packet_leaves_as_nothing(tables: FakeTables) -> None:
    row = told(tables, Verdict.DROP_SPOOFED_SOURCE, SENT, Step.SOURCE_CHECKED)
    assert row["dropped"]
    assert row["after"] is None


def test_a_refused_packet_shows_its_answer(tables: FakeTables) -> None:
    answer = Packet(SERVICE, CLIENT, frame.TCP, 80, 40000)
    row = told(tables, Verdict.DROP_NO_BACKEND, answer, Step.SERVICE, Step.REFUSED)
    assert row["after"].startswith("TCP SYN 10.96.0.1:80 -> 10.1.0.1:40000")


def test_what_this_version_does_not_know_stays_visible(tables: FakeTables) -> None:
    row = told(tables, 31, SENT, Step.SOURCE_CHECKED, 31)
    assert row["verdict"] == "verdict 31"
    assert [step["step"] for step in row["steps"]] == ["source_checked", "step 31"]


def test_every_step_has_its_place_in_the_order_of_travel() -> None:
    assert sorted(trace.ORDER) == sorted(Step)


def test_a_marked_packet_is_a_whole_context() -> None:
    marked = trace.context(7)
    assert len(marked) == 192
    assert marked[40:44] == (7).to_bytes(4, "little")
