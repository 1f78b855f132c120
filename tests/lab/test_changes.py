"""What happens to clients while Services change under them."""

from __future__ import annotations

import time
from statistics import median

from tests.lab.agent import until
from tests.lab.lab import Lab
from tests.lab.manifests import USUAL_PORTS, Endpoint
from tests.lab.sockets import Connection, Datagrams, ask_tcp

LIVE_EDIT_SEC = 0.1


def test_an_edit_of_the_yaml_reaches_the_kernel_within_100_ms(lab: Lab, family: int) -> None:
    times = []
    with lab.service(lab.a) as service:
        for backend in (lab.b, lab.a, lab.b, lab.a, lab.b):
            start = time.monotonic()
            service.write([Endpoint(backend)])
            service.wait(family, {(backend.addresses[family], USUAL_PORTS.target)})
            times.append(time.monotonic() - start)
            assert ask_tcp(lab.client, service.addresses[family], service.port).server == (
                backend.name
            )
    assert median(times) < LIVE_EDIT_SEC, times


def test_a_file_written_in_place_counts_too(lab: Lab) -> None:
    with lab.service(lab.a) as service:
        address = lab.b.addresses[4], lab.a.addresses[4]
        text = service.path.read_text().replace(address[1], address[0])
        service.path.write_text(text)
        service.wait(4, {(lab.b.addresses[4], USUAL_PORTS.target)})


def test_a_service_whose_file_is_removed_is_gone(lab: Lab, family: int) -> None:
    with lab.service(lab.a) as service:
        ask_tcp(lab.client, service.addresses[family], service.port)
        service.remove()
        assert service.backends(family, "TCP") is None


def test_a_udp_client_reaches_another_backend_with_its_next_packet(lab: Lab, family: int) -> None:
    places = {place.name: place for place in (lab.a, lab.b, lab.remote)}
    with (
        lab.service(*places.values()) as service,
        Datagrams(lab.client, service.addresses[family], service.port) as client,
    ):
        first = client.ask().server
        assert {client.ask().server for _ in range(10)} == {first}
        others = [place for name, place in places.items() if name != first]
        epoch = lab.kpbpf.udp_epoch()
        service.put(*others)
        until(lambda: lab.kpbpf.udp_epoch() != epoch, "the change is complete")
        second = client.ask().server
        assert second != first
        assert {client.ask().server for _ in range(10)} == {second}


def test_a_tcp_connection_to_a_backend_that_stopped_being_ready_goes_on(
    lab: Lab, family: int
) -> None:
    for leaving in (lab.a, lab.remote):
        with lab.service(leaving) as service:
            address = service.addresses[family]
            with Connection(lab.client, address, service.port) as connection:
                assert connection.who().server == leaving.name
                service.put(Endpoint(leaving, ready=False), lab.b)
                assert connection.who().server == leaving.name
                assert ask_tcp(lab.client, address, service.port).server == "pod-b"
                service.put(lab.b)
                assert connection.who().server == leaving.name


def test_a_serving_terminating_backend_answers_when_no_other_is_ready(
    lab: Lab, family: int
) -> None:
    with lab.service(Endpoint(lab.a, ready=False, terminating=True)) as service:
        assert ask_tcp(lab.client, service.addresses[family], service.port).server == "pod-a"


def test_a_file_that_does_not_parse_keeps_the_last_good_state(lab: Lab, family: int) -> None:
    with lab.service(lab.a) as broken, lab.service(lab.a) as other:
        broken.path.write_text("kind: Service\nmetadata: [this is: not YAML\n")
        until(lambda: broken.path.name in lab.kpbpf.cli("status").stdout, "status names the file")
        assert ask_tcp(lab.client, broken.addresses[family], broken.port).server == "pod-a"
        other.put(lab.b)
        assert ask_tcp(lab.client, other.addresses[family], other.port).server == "pod-b"
        broken.put(lab.b)
        assert ask_tcp(lab.client, broken.addresses[family], broken.port).server == "pod-b"
        until(lambda: broken.path.name not in lab.kpbpf.cli("status").stdout, "status forgets it")


def test_a_wrong_object_is_named_with_its_field_and_harms_no_other(lab: Lab, family: int) -> None:
    with lab.service(lab.a) as wrong, lab.service(lab.a) as other:
        wrong.spec["ports"] = [{"name": "tcp", "protocol": "TCP", "port": 99_999}]
        wrong.write([Endpoint(lab.a)])
        status = ""

        def named() -> bool:
            nonlocal status
            status = lab.kpbpf.cli("status").stdout
            return f"default/{wrong.name}" in status

        until(named, "status names the object")
        assert wrong.path.name in status
        assert "port" in status
        assert "99999" in status
        assert ask_tcp(lab.client, wrong.addresses[family], wrong.port).server == "pod-a"
        other.put(lab.b)
        assert ask_tcp(lab.client, other.addresses[family], other.port).server == "pod-b"
