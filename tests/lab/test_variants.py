"""The same journeys with what a kernel or an operator may choose differently.

clsact is the attachment of kernels before 6.6; without the local fast path, packets between two
pods of the node go through the node's network stack.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab
from tests.lab.sockets import ASK, Connection, ask_udp, digest, pattern, ping
from tests.lab.test_reach import HAIRPIN
from tests.lab.world import NARROW_MTU

VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "clsact": ((), {"KPBPF_ATTACH": "clsact"}),
    "no-fast-path": (("--no-local-fast-path",), {}),
    "clsact-no-fast-path": (("--no-local-fast-path",), {"KPBPF_ATTACH": "clsact"}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    options, environment = VARIANTS[request.param]
    with Lab(tmp_path_factory.mktemp(request.param), *options, **environment) as lab:
        yield lab


def test_services_work_with_it(variant: Lab, family: int, protocol: str) -> None:
    lab, ask = variant, ASK[protocol]
    with lab.service(lab.a, lab.b, lab.remote) as service:
        address, port = service.addresses[family], service.port
        answers = [ask(lab.client, address, port) for _ in range(60)]
        assert {answer.server for answer in answers} == {"pod-a", "pod-b", "remote"}
        assert {answer.client for answer in answers} == {lab.client.addresses[family]}
        service.put(lab.a)
        assert ask(lab.a, address, port)[:2] == ("pod-a", HAIRPIN[family])
        service.put()
        with pytest.raises(ConnectionRefusedError):
            ask(lab.client, address, port)


def test_payloads_fragments_and_pings_arrive_with_it(variant: Lab, family: int) -> None:
    lab, payload = variant, pattern(1_000_000)
    for client, backend in ((lab.client, lab.a), (lab.client, lab.narrow), (lab.a, lab.a)):
        with lab.service(backend) as service:
            address, port = service.addresses[family], service.port
            with Connection(client, address, port) as connection:
                assert connection.take(payload) == digest(payload)
                assert connection.give(len(payload)) == payload
            datagram = pattern(NARROW_MTU * 5)
            assert ask_udp(client, address, port, datagram).server == backend.name
    for target in (lab.a, lab.remote):
        assert ping(lab.client, target.addresses[family], size=3000)


def test_many_clients_at_once_each_get_their_own_answers_with_it(variant: Lab, family: int) -> None:
    lab, faults = variant, list[str]()
    payload = pattern(100_000)

    def client(address: str, port: int) -> None:
        for _ in range(20):
            with Connection(lab.client, address, port, timeout_sec=10) as connection:
                if connection.take(payload) != digest(payload):
                    faults.append("another digest")

    with lab.service(lab.a, lab.b, lab.remote) as service:
        address = service.addresses[family]
        threads = [threading.Thread(target=client, args=(address, service.port)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []
