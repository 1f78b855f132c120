"""Programs that came back are told of on the pod, else on the node, and never in a flood."""

from __future__ import annotations

import pytest

from controllers import restored
from controllers.endpoint import Pod as Endpoint
from controllers.restored import PAUSE_SEC, SHOWN, TIMES, Restored
from kpbpf.address import from_text
from kpbpf.model.event import Event
from kpbpf.model.objects import Key

POD = Key("Pod", "default", "a")


class Told:
    """A Restored with a clock, and what it told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[Event] = []
        known = {"default/a": (POD, "the-uid")}
        self.restored = Restored(self.events.append, "node-a", known.get, lambda: self.now)


@pytest.fixture
def told() -> Told:
    return Told()


def endpoint(ifindex: int, name: str = "found=route pod=default/a") -> Endpoint:
    return Endpoint(ifindex, name, ifindex, bytes(6), bytes(6), (from_text("10.0.0.1"),))


def test_it_is_told_on_the_pod(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    told.restored.tell([endpoint(7)])
    (event,) = told.events
    assert (event.regarding, event.uid, event.warning) == (POD, "the-uid", True)
    assert (event.reason, event.action) == (restored.REASON, restored.ACTION)
    (line,) = caplog.messages
    assert line.startswith("endpoint 7 (10.0.0.1; found=route pod=default/a): programs had been")
    assert line.endswith("removed from interface 7 and are back")


def test_of_a_pod_that_the_api_does_not_know_it_is_told_on_the_node(told: Told) -> None:
    told.restored.tell([endpoint(7, "netns=/a ifname=eth0")])
    (event,) = told.events
    assert (event.regarding, event.uid) == (Key("Node", "", "node-a"), "node-a")
    assert "netns=/a ifname=eth0" in event.note


def test_nothing_restored_is_nothing_told(told: Told) -> None:
    told.restored.tell([])
    assert told.events == []


def test_a_fight_with_another_program_is_told_a_few_times(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        told.now += 0.8
        told.restored.tell([endpoint(7)])
    assert len(told.events) == len(caplog.messages) == TIMES
    assert caplog.messages[-1].endswith("told again in 10 minutes if it goes on")
    assert len(set(told.events)) == 1, "the same words each time, so that they are one series"
    told.restored.tell([endpoint(8)])
    assert len(told.events) == TIMES + 1, "another interface is another matter"
    told.now += PAUSE_SEC
    told.restored.tell([endpoint(7)])
    assert len(told.events) == TIMES + 2


def test_of_many_at_once_a_few_are_named_and_the_rest_is_a_number(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    told.restored.tell([endpoint(index) for index in range(1, 101)])
    assert len(told.events) == len(caplog.messages) == SHOWN + 1
    assert told.events[-1].regarding == Key("Node", "", "node-a")
    assert "95 more pods" in told.events[-1].note
