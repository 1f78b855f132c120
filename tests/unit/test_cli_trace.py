"""`kpbpf trace` tells what a program said; here the program's answer is given."""

from __future__ import annotations

from typing import Any

import pytest

from kpbpf.address import UNSPECIFIED4, from_text
from kpbpf.cli import trace
from kpbpf.cli.trace import Outcome, explain
from kpbpf.datapath import frame
from kpbpf.datapath.frame import Packet
from maps.abi import (
    Address,
    AddressFlag,
    AddressKey,
    Device,
    Frontend,
    FrontendFlag,
    FrontendKey,
    Name,
    NameKey,
    NameKind,
    Step,
    Verdict,
)
from maps.fake import FakeTables, fake_tables
from maps.layout import U32
from maps.show import EndpointRow
from tests.unit.command import Run

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


def test_a_node_port_is_told_as_its_service_and_the_backend_as_who_it_sees(
    tables: FakeTables,
) -> None:
    node, outside = from_text("192.0.2.1"), from_text("203.0.113.9")
    key = FrontendKey(UNSPECIFIED4, 30080, frame.TCP)
    tables.frontends.put(key, Frontend(5, 1, 1, 0, 0, FrontendFlag.EXTERNAL))
    sent = Packet(outside, node, frame.TCP, 50000, 30080)
    after = Packet(node, BACKEND, frame.TCP, 40000, 8080)
    steps = (Step.ROUTED, Step.MASQUERADED, Step.SERVICE, Step.NODE_PORT)
    assert told(tables, Verdict.PASS_TO_BACKEND, after, *steps, sent=sent)["service"] is None
    tables.addresses.put(AddressKey(node), Address(AddressFlag.NODE_PORT))
    row = told(tables, Verdict.PASS_TO_BACKEND, after, *steps, sent=sent)
    assert [(step["step"], step["detail"]) for step in row["steps"]] == [
        ("node_port", None),
        ("service", "default/web:http/IPv4"),
        ("masqueraded", "192.0.2.1:40000"),
        ("routed", None),
    ]


def test_a_reply_from_the_network_is_told_with_its_client(tables: FakeTables) -> None:
    sent = Packet(BACKEND, from_text("192.0.2.1"), frame.TCP, 8080, 40000)
    after = Packet(SERVICE, CLIENT, frame.TCP, 80, 50000)
    row = told(tables, Verdict.PASS_REPLY, after, Step.MASQUERADE_UNDONE, sent=sent)
    assert [step["detail"] for step in row["steps"]] == ["10.1.0.1:50000"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("--uplink", "lo", "203.0.113.9", "192.0.2.1", "80"), "lo is no uplink"),
        (("--uplink", "none0", "203.0.113.9", "192.0.2.1", "80"), "no interface none0"),
    ],
)
@pytest.mark.usefixtures("node_tables")
def test_a_packet_from_the_network_comes_by_an_uplink(
    run: Run, line: tuple[str, ...], words: str
) -> None:
    refused = run("trace", *line)
    assert refused.code == 1
    assert words in refused.err


@pytest.mark.parametrize("source", ["pod-a", "fd00::1"])
def test_whoever_sends_from_the_network_has_an_address_of_the_family(
    node_tables: FakeTables, run: Run, source: str
) -> None:
    node_tables.devices.put(U32(1), Device(bytes(16), bytes(16), 0, MAC))
    refused = run("trace", "--uplink", "lo", source, "192.0.2.1", "80")
    assert refused.code == 2
    assert source in refused.err


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
