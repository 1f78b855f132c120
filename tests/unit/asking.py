"""What tests of sessions have in common: a kubeconfig, a request, an answer."""

from __future__ import annotations

import socket

from kpbpf.kube.session import Session
from tests.unit.scripted import Exchange

PATH = "/api/v1/services"

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %s}}]
users: [{name: u, user: {%s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(session: Session) -> bytes:
    with session.get(PATH, {}) as reply:
        return reply.body()


def fine(exchange: Exchange) -> None:
    exchange.json({"fine": True})
