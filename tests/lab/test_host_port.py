"""hostPort by the CNI plugin portmap, beside kpbpf: neither breaks the other.

portmap's DNAT is undone by the kernel's connection tracking in the node's stack, so replies must
go that way, also where both pods are on this node and kpbpf has a shorter one (SEMANTICS B12).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.iptables import MAKES
from tests.lab.lab import Lab
from tests.lab.portmap_rules import HostPort, host_port
from tests.lab.sockets import ASK, Connection, Datagrams, ask_tcp, pattern
from tests.lab.world import IPV4, Place

PORT = 8081
AS_A_SERVICE_ELSEWHERE = 80


@pytest.fixture(scope="module", params=["fast path", "stack"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A Lab whose pod b has hostPorts, with and without the local fast path."""
    options = [] if request.param == "fast path" else ["--no-local-fast-path"]
    with Lab(tmp_path_factory.mktemp("host-port"), *options) as made:
        node = made.world.node
        node.sysctl(ipv4__conf__all__route_localnet=1)  # as portmap sets it
        with (
            host_port(node, HostPort(PORT, made.b, 8080)),
            host_port(node, HostPort(AS_A_SERVICE_ELSEWHERE, made.b, 8080), make="nft"),
        ):
            yield made


def asks(lab: Lab, place: Place, family: int, protocol: str, port: int = PORT) -> tuple[str, str]:
    """Who answers at the node's port, and the client that it sees."""
    answer = ASK[protocol](place, lab.world.node.addresses[family], port)
    return answer.server, answer.client


def test_a_client_outside_reaches_the_pod(host: Lab, family: int, protocol: str) -> None:
    remote = host.remote.addresses[family]
    for _ in range(3):
        assert asks(host, host.remote, family, protocol) == ("pod-b", remote)


def test_a_pod_of_the_node_reaches_the_pod(host: Lab, family: int, protocol: str) -> None:
    client = host.client.addresses[family]
    for _ in range(3):
        assert asks(host, host.client, family, protocol) == ("pod-b", client)


def test_a_pod_reaches_its_own_host_port(host: Lab, family: int, protocol: str) -> None:
    assert asks(host, host.b, family, protocol) == ("pod-b", host.world.node.addresses[family])


def test_the_node_reaches_the_pod(host: Lab, family: int, protocol: str) -> None:
    node = host.world.node
    assert asks(host, node, family, protocol) == ("pod-b", node.addresses[family])


def test_the_node_reaches_the_pod_by_its_loopback(host: Lab, protocol: str) -> None:
    answer = ASK[protocol](host.world.node, "127.0.0.1", PORT)
    assert (answer.server, answer.client) == ("pod-b", host.world.node.addresses[IPV4])


@pytest.mark.parametrize("place", ["client", "remote", "b"])
def test_connections_last_and_bytes_are_whole(host: Lab, family: int, place: str) -> None:
    client: Place = getattr(host, place)
    with Connection(client, host.world.node.addresses[family], PORT) as connection:
        for size in (1, 100_000, 1_000_000):
            assert connection.give(size) == pattern(size)
            assert connection.who().server == "pod-b"


@pytest.mark.parametrize("place", ["client", "remote", "b"])
def test_connections_survive_endpoints_that_change(host: Lab, family: int, place: str) -> None:
    """Endpoints that change have the programs judge every flow once more."""
    client: Place = getattr(host, place)
    node = host.world.node.addresses[family]
    with (
        Connection(client, node, PORT) as connection,
        Datagrams(client, node, PORT) as datagrams,
        host.service(host.a, host.b) as service,
    ):
        before = host.kpbpf.udp_epoch()
        for backends in ([host.a], [host.b], [host.a, host.b], [host.remote]):
            assert connection.who().server == "pod-b"
            assert datagrams.ask().server == "pod-b"
            service.put(*backends)
            assert connection.who().server == "pod-b"
            assert datagrams.ask().server == "pod-b"
            assert asks(host, client, family, "TCP")[0] == "pod-b"
        assert host.kpbpf.udp_epoch() != before
        assert connection.give(100_000) == pattern(100_000)


def test_a_service_with_the_same_port_is_served_beside_it(
    host: Lab, family: int, protocol: str
) -> None:
    with host.service(host.a) as service:
        assert service.port == AS_A_SERVICE_ELSEWHERE
        for _ in range(3):
            address = service.addresses[family]
            assert ASK[protocol](host.client, address, service.port).server == "pod-a"
            for place in (host.client, host.remote, host.world.node):
                port = AS_A_SERVICE_ELSEWHERE
                assert asks(host, place, family, protocol, port)[0] == "pod-b"


def test_services_whose_backend_has_a_host_port_are_served(
    host: Lab, family: int, protocol: str
) -> None:
    with host.service(host.b) as service:
        for place in (host.client, host.a, host.b):
            address = service.addresses[family]
            assert ASK[protocol](place, address, service.port).server == "pod-b"
        assert asks(host, host.client, family, protocol)[0] == "pod-b"


def test_a_direct_connection_and_one_by_host_port_do_not_mix(host: Lab, family: int) -> None:
    """From the same port of the client: the pod sees the same addresses, but for one end."""
    direct, node = host.b.addresses[family], host.world.node.addresses[family]
    with Connection(host.client, direct, 8080) as plain, Connection(host.client, node, PORT) as by:
        for _ in range(5):
            assert plain.who().server == by.who().server == "pod-b"
        assert plain.who().client_port != by.who().client_port


@pytest.mark.parametrize("make", MAKES)
def test_a_host_port_that_comes_and_goes_while_traffic_runs(
    host: Lab, family: int, make: str
) -> None:
    with host.service(host.a) as service:
        address = service.addresses[family]
        with Connection(host.client, address, service.port) as connection:
            for _ in range(3):
                with host_port(host.world.node, HostPort(8085, host.a, 8080), make):
                    assert asks(host, host.remote, family, "TCP", 8085)[0] == "pod-a"
                    assert asks(host, host.client, family, "TCP", 8085)[0] == "pod-a"
                    assert connection.who().server == "pod-a"
                assert connection.who().server == "pod-a"
                assert ask_tcp(host.client, address, service.port).server == "pod-a"
