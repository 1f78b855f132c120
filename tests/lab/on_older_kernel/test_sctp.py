"""SCTP associations through a Service with another target port, one-to-one sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.lab.lab import Lab
from tests.lab.manifests import Ports
from tests.lab.world import Place

PORT = 9000
SCTP = Ports(PORT, 9900, ("SCTP",))


@contextmanager
def sctp_server(place: Place, family: int) -> Iterator[None]:
    """Answer each message of each association with the place's name and the client it sees."""
    listening = place.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    listening.settimeout(0.2)
    listening.bind((place.addresses[family], SCTP.target))
    listening.listen()
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            try:
                association, client = listening.accept()
            except TimeoutError:
                continue
            with association:
                association.settimeout(20)
                while message := association.recv(1000):
                    association.send(f"{place.name} {client[0]} ".encode() + message)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        listening.close()


def converse(
    client: Place, family: int, address: str, port: int = PORT, timeout_sec: float = 20
) -> list[str]:
    """Open an association, send two messages, and return both answers."""
    with client.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as sock:
        sock.settimeout(timeout_sec)
        # One address only: a translated association must not name others inside its INIT.
        sock.bind((client.addresses[family], 0))
        sock.connect((address, port))
        answers = []
        for message in (b"one", b"two"):
            sock.send(message)
            answers.append(sock.recv(1000).decode())
        return answers


def test_an_sctp_association_through_a_service_is_answered(lab: Lab, family: int) -> None:
    for backend in (lab.a, lab.remote):
        with (
            ExitStack() as stack,
            lab.service(backend, ports=SCTP) as service,
        ):
            stack.enter_context(sctp_server(backend, family))
            seen = f"{backend.name} {lab.client.addresses[family]}"
            answers = converse(lab.client, family, service.addresses[family])
            assert answers == [f"{seen} one", f"{seen} two"]


def test_an_sctp_service_without_endpoints_is_refused(lab: Lab, family: int) -> None:
    with lab.service(ports=SCTP) as service:
        with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
            converse(lab.client, family, service.addresses[family], timeout_sec=3)
        assert "no_backend" in lab.kpbpf.ask("drop", "ls")
