"""A resource followed by a reflector, for tests: start it, wait for a state, see what it told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kpbpf.kube.backoff import Backoff
from kpbpf.kube.held import Held
from kpbpf.kube.intake import Resource
from kpbpf.kube.reflector import Patience, Reflector
from kpbpf.kube.session import Session
from kpbpf.kube.source import Change
from kpbpf.model.objects import Key

SERVICES = Resource("/api/v1/services", "v1", "Service")

DEADLINE_SEC = 20.0

PATIENT = Patience(30.0, 30.0, 30.0, 0.1)


def wait_for(true: Callable[[], object], what: str = "") -> None:
    """Poll until it is so; fails after a generous time."""
    deadline = time.monotonic() + DEADLINE_SEC
    while not true():
        assert time.monotonic() < deadline, f"still not so: {what or true}"
        time.sleep(0.005)


class Followed:
    """What a reflector holds, and every Change it told, in order."""

    def __init__(self, held: Held, reflector: Reflector) -> None:
        self.held = held
        self.reflector = reflector
        self.changes: list[Change] = []

    def take(self) -> list[Change]:
        """The changes since the last call."""
        found = self.held.take()
        self.changes += found
        return found

    def names(self) -> list[str]:
        """Names of all objects that are held now."""
        self.take()
        return sorted(model.key.name for model in self.held.models())

    def waits_for(self, *names: str) -> None:
        """Wait until exactly these are held."""
        wait_for(lambda: self.names() == sorted(names), f"{names}, there are {self.names()}")

    def syncs(self) -> None:
        """Wait until everything was read once."""
        wait_for(lambda: self.held.synced, "synced")
        self.take()

    def told(self) -> list[str]:
        """Every change as a word: "+web" is new or different, "-web" is gone."""
        self.take()
        return [("-" if one.model is None else "+") + one.key.name for one in self.changes]


@contextmanager
def following(
    session: Session,
    resource: Resource = SERVICES,
    patience: Patience = PATIENT,
) -> Iterator[Followed]:
    """Follow a resource during the block, with delays that suit tests."""
    backoff = Backoff(first_sec=0.01, last_sec=0.05, healthy_sec=5.0)
    held = Held(lambda: None)
    reflector = Reflector(session, resource, held, backoff, patience)
    reflector.start()
    try:
        yield Followed(held, reflector)
    finally:
        reflector.stop()
        ended = reflector.join(5.0)
        session.close()
        assert ended, "the reflector's thread did not end"


def key(name: str, namespace: str = "default") -> Key:
    """Key of a Service."""
    return Key("Service", namespace, name)


def threads() -> set[str]:
    """Names of the threads that read something."""
    return {one.name for one in threading.enumerate() if one.name.startswith("read ")}
