"""Who reaches whom, and who answers: real sockets, payloads checked."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from tests.lab.agent import until
from tests.lab.lab import Lab
from tests.lab.sockets import ASK, Connection, ask_tcp, ask_udp, digest, pattern, ping

HAIRPIN = {4: "169.254.107.112", 6: "fd6b:7062:7066::1"}
AT_ONCE_SEC = 0.5


def test_a_service_is_answered_by_each_of_its_backends(
    lab: Lab, family: int, protocol: str
) -> None:
    with lab.service(lab.a, lab.b, lab.remote) as service:
        answers = [
            ASK[protocol](lab.client, service.addresses[family], service.port) for _ in range(150)
        ]
    seen = Counter(answer.server for answer in answers)
    assert set(seen) == {"pod-a", "pod-b", "remote"}
    assert min(seen.values()) > 20, f"not uniform: {seen}"


def test_a_backend_sees_the_clients_own_address(lab: Lab, family: int, protocol: str) -> None:
    for backend in (lab.a, lab.remote):
        with lab.service(backend) as service:
            answer = ASK[protocol](lab.client, service.addresses[family], service.port)
        assert (answer.server, answer.client) == (backend.name, lab.client.addresses[family])


def test_a_pod_that_reaches_itself_sees_the_hairpin_address_as_client(
    lab: Lab, family: int, protocol: str
) -> None:
    with lab.service(lab.a) as service:
        for _ in range(5):
            answer = ASK[protocol](lab.a, service.addresses[family], service.port)
            assert (answer.server, answer.client) == ("pod-a", HAIRPIN[family])


def test_large_payloads_arrive_whole_in_both_directions(lab: Lab, family: int) -> None:
    payload = pattern(3_000_000)
    for client, backend in ((lab.client, lab.a), (lab.client, lab.remote), (lab.a, lab.a)):
        with (
            lab.service(backend) as service,
            Connection(client, service.addresses[family], service.port) as connection,
        ):
            assert connection.give(len(payload)) == payload
            assert connection.take(payload) == digest(payload)


def test_a_service_without_endpoints_refuses_at_once(lab: Lab, family: int, protocol: str) -> None:
    with lab.service() as service:
        start = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            ASK[protocol](lab.client, service.addresses[family], service.port)
        assert time.monotonic() - start < AT_ONCE_SEC


def test_internal_traffic_policy_local_uses_only_endpoints_of_this_node(
    lab: Lab, family: int, protocol: str
) -> None:
    with lab.service(lab.a, lab.remote, internalTrafficPolicy="Local") as service:
        for _ in range(20):
            answer = ASK[protocol](lab.client, service.addresses[family], service.port)
            assert answer.server == "pod-a"


def test_internal_traffic_policy_local_without_local_endpoints_drops_in_silence(
    lab: Lab, family: int
) -> None:
    with lab.service(lab.remote, internalTrafficPolicy="Local") as service:
        with pytest.raises(TimeoutError):
            Connection(lab.client, service.addresses[family], service.port, timeout_sec=0.3)
        until(lambda: "no_local_backend" in lab.kpbpf.ask("drop", "ls"), "the drop is told", 2)


def test_affinity_keeps_a_client_with_its_backend_until_it_times_out(
    lab: Lab, family: int, protocol: str
) -> None:
    ask = ASK[protocol]
    affinity: dict[str, Any] = {
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}},
    }
    with lab.service(lab.a, lab.b, lab.remote, lab.narrow, **affinity) as service:
        address, port = service.addresses[family], service.port
        first = ask(lab.client, address, port).server
        for _ in range(5):  # longer than the time-out in all, but each new connection refreshes it
            time.sleep(0.4)
            assert ask(lab.client, address, port).server == first
        for _ in range(12):  # each draw is another one with probability 3/4
            time.sleep(1.2)
            if ask(lab.client, address, port).server != first:
                return
        pytest.fail("the client stayed with its backend long after the time-out")


def test_pods_node_and_remote_reach_each_other_without_a_service(lab: Lab, family: int) -> None:
    for source, target in (
        (lab.client, lab.a),
        (lab.client, lab.remote),
        (lab.remote, lab.a),
        (lab.world.node, lab.a),
    ):
        address = target.addresses[family]
        assert ask_tcp(source, address, 8080)[:2] == (target.name, source.addresses[family])
        assert ask_udp(source, address, 8080)[:2] == (target.name, source.addresses[family])


def test_pings_go_between_pods_and_to_the_outside(lab: Lab, family: int) -> None:
    for source, target in (
        (lab.client, lab.a),
        (lab.client, lab.remote),
        (lab.remote, lab.client),
        (lab.world.node, lab.client),
    ):
        assert ping(source, target.addresses[family])
        assert ping(source, target.addresses[family], size=4000), "larger than one frame"


def test_a_large_datagram_follows_its_first_fragment(lab: Lab, family: int) -> None:
    for client, backend in ((lab.client, lab.a), (lab.client, lab.remote), (lab.a, lab.a)):
        with lab.service(backend) as service:
            for size in (1500, 4000, 20_000):
                answer = ask_udp(client, service.addresses[family], service.port, pattern(size))
                assert answer.server == backend.name
