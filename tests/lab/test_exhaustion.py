"""When something is used up: connections that live go on, and it is told what is lacking."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice

import pytest

from kpbpf.address import from_text
from maps import config
from maps.abi import Flow, FlowKey, State
from tests.lab.agent import Kpbpf, until
from tests.lab.fleet import CLUSTER_IP, NODE_PORT, Fleet
from tests.lab.sockets import ASK, Connection, Datagrams
from tests.lab.visits import CLIENTS, drops, expect_silence
from tests.lab.world import FAMILIES

PORTS = 8
BLOCK = 8192
SERVER = from_text("203.0.113.1")
FILLS = 2
"""The flow table is filled so many times over."""


@pytest.fixture(scope="module")
def scarce(fleet: Fleet) -> Iterator[Fleet]:
    """node-1 has a few masquerade ports; connections are forgotten soon after their end."""
    states = (State.TCP_CLOSING, State.UDP_NEW, State.UDP_STREAM)
    with fleet.configured(f"--masquerade-ports=12000-{12000 + PORTS - 1}"):
        before = set_timeouts(fleet.kpbpfs[1], dict.fromkeys(states, 1))
        try:
            yield fleet
        finally:
            set_timeouts(fleet.kpbpfs[1], before)


def set_timeouts(kpbpf: Kpbpf, seconds: dict[State, int]) -> dict[State, int]:
    """Let flows of these states be forgotten after so long; return how it was."""
    with kpbpf.home.writer_lock(), kpbpf.tables() as tables:
        now = config.read(tables)
        timeouts = list(now.timeout_sec)
        for state, value in seconds.items():
            timeouts[state] = value
        config.write(tables, now._replace(timeout_sec=tuple(timeouts)))
        return {state: now.timeout_sec[state] for state in seconds}


# ---- source ports of masquerade ---------------------------------------------------------------


def test_without_a_free_port_a_connection_is_dropped_and_counted(
    scarce: Fleet, family: int
) -> None:
    fleet, outside = scarce, scarce.place("outside")
    with fleet.service("a2") as service, ExitStack() as stack:
        target = service.at(NODE_PORT, family, fleet.place("node-1"))
        held = [stack.enter_context(Connection(outside, *target)) for _ in range(PORTS)]
        ports = [connection.who().client_port for connection in held]
        assert sorted(ports) == list(range(12000, 12000 + PORTS))
        expect_silence(outside, *target, "TCP")
        until(lambda: drops(fleet, "no_port"), "the drop is told", 5)
        assert [connection.who().client_port for connection in held] == ports, "undisturbed"
        held.pop().__exit__()
        until(lambda: gets_through(fleet, target), "the port is free again", 15)
        assert [connection.who().client_port for connection in held] == ports[:-1]


def test_another_endpoint_or_protocol_has_ports_of_its_own(scarce: Fleet, family: int) -> None:
    fleet, outside = scarce, scarce.place("outside")
    with fleet.service("a2") as full, fleet.service("b2") as other, ExitStack() as stack:
        target = full.at(NODE_PORT, family, fleet.place("node-1"))
        for _ in range(PORTS):
            held = stack.enter_context(Connection(outside, *target))
            assert held.who().server == "a2"
        expect_silence(outside, *target, "TCP")
        assert ASK["UDP"](outside, *target).server == "a2"
        elsewhere = other.at(NODE_PORT, family, fleet.place("node-1"))
        assert ASK["TCP"](outside, *elsewhere).server == "b2"


def test_datagrams_of_many_clients_are_never_mixed_when_ports_are_few(
    scarce: Fleet, family: int
) -> None:
    fleet = scarce
    with fleet.service("a2") as service, ExitStack() as stack:
        target = service.at(NODE_PORT, family, fleet.place("node-1"))
        answered = 0
        for number in range(3 * PORTS):
            client = fleet.place("outside" if number % 2 else "stranger")
            datagrams = stack.enter_context(Datagrams(client, *target, timeout_sec=0.1))
            payload = f"number {number}".encode()
            try:
                assert datagrams.ask(payload).payload == payload
                answered += 1
            except TimeoutError:
                continue  # no port for it
        assert answered >= PORTS


def gets_through(fleet: Fleet, target: tuple[str, int]) -> bool:
    try:
        with Connection(fleet.place("outside"), *target, timeout_sec=0.3) as connection:
            return connection.who().server == "a2"
    except TimeoutError:
        return False


# ---- the flow table ---------------------------------------------------------------------------


def others_flows() -> Iterator[tuple[bytes, bytes]]:
    """Connections that live, of clients that are not in the lab."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    flow = Flow.unpack(bytes(Flow.SIZE))._replace(
        last_seen_ns=now, state=State.TCP_ESTABLISHED, created_sec=now // 10**9
    )
    value = flow.pack()
    key = FlowKey(from_text("100.64.0.0"), SERVER, 1024, 443, 6, 0).pack()
    head, tail = key[:12], key[16:]
    for number in range(2**22):
        yield head + (0x64400000 + number).to_bytes(4, "big") + tail, value


def fill_flows(kpbpf: Kpbpf, times: int) -> None:
    """Put as many foreign connections into the flow table as fit, so many times over."""
    flows = others_flows()
    with kpbpf.tables() as tables:
        blocks = times * tables.flows.spec.entries // BLOCK
        for _ in range(blocks):
            tables.flows.put_many_raw(islice(flows, BLOCK))


@contextmanager
def talking(connections: list[Connection], faults: list[str]) -> Iterator[None]:
    """Let these connections say something again and again during the block."""
    stopping = threading.Event()

    def talk() -> None:
        first = [connection.who() for connection in connections]
        while not stopping.is_set():
            try:
                now = [connection.who() for connection in connections]
            except OSError as error:
                faults.append(str(error))
                return
            if now != first:
                faults.append(f"{now} instead of {first}")
                return
            stopping.wait(0.01)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def test_a_full_flow_table_takes_new_connections_and_keeps_busy_ones(scarce: Fleet) -> None:
    fleet, kpbpf, faults = scarce, scarce.kpbpfs[1], list[str]()
    node = fleet.place("node-1")
    with fleet.service("a1", "a2") as service, ExitStack() as stack:
        targets = [
            (client, service.at(kind, family, node))
            for client in CLIENTS
            for family in FAMILIES
            for kind in (CLUSTER_IP, NODE_PORT)
        ]
        busy = [
            stack.enter_context(Connection(fleet.place(client), *target))
            for client, target in targets
        ]
        with talking(busy, faults):
            fill_flows(kpbpf, FILLS)
            for client, target in targets:
                for protocol in ("TCP", "UDP"):
                    answer = ASK[protocol](fleet.place(client), *target)
                    assert answer.server in ("a1", "a2")
            (row,) = (row for row in kpbpf.rows("map", "ls") if row["name"] == "flows")
            assert row["percent"] > 90
            fill_flows(kpbpf, 1)
        assert not faults
        assert "Map flows:" in kpbpf.cli("status").stdout
        with kpbpf.tables() as tables:
            mine = [key for key, _ in tables.flows.items_raw() if key[16:32] == SERVER]
            tables.flows.delete_many_raw(mine)


def test_a_socket_of_the_node_is_never_mistaken_for_a_masquerade(
    scarce: Fleet, family: int
) -> None:
    """The node's own connections to an endpoint have their ports; masquerade takes others."""
    fleet, node = scarce, scarce.place("node-1")
    backend = fleet.place("a2").addresses[family]
    with fleet.service("a2") as service, ExitStack() as stack:
        for port in range(12000, 12000 + PORTS - 1):
            sock = stack.enter_context(node.socket(family, socket.SOCK_STREAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((node.addresses[family], port))
            sock.connect((backend, 8080))
        target = service.at(NODE_PORT, family, node)
        with Connection(fleet.place("outside"), *target) as connection:
            assert connection.who().client_port == 12000 + PORTS - 1
            expect_silence(fleet.place("outside"), *target, "TCP")
