"""What waits to be written, since when, and the trigger times that are handed out afterwards."""

from __future__ import annotations

import pytest

from controllers.pending import AGAIN_SEC, FEW, MAX_WAITING_TRIGGERS, Pending
from controllers.services import ServicesController
from maps.fake import fake_tables
from tests import make
from tests.unit.faulty import Flaky

SERVED = frozenset(("ns/a", "ns/b", "ns/c"))


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pending(clock: Clock) -> Pending:
    return Pending(clock, started=1000.0)


def settle(pending: Pending, failed: str = "", held: str = "", no_room: str = "") -> None:
    """Everything that is due was tried; each letter is a Service for which it did not work."""
    one, two, three = ({f"ns/{letter}" for letter in word} for word in (failed, held, no_room))
    pending.settle(one, two, three, SERVED)


def test_changes_are_counted_for_ever_and_wait_until_they_are_written(pending: Pending) -> None:
    for _ in range(2):
        pending.service_changed("ns/a")
        pending.endpoints_changed("ns/a")
    pending.endpoints_changed("ns/b")
    assert pending.counts()[:4] == (2, 3, 1, 2)
    assert pending.due() == ["ns/a", "ns/b"]
    settle(pending, failed="b")
    assert pending.counts()[:4] == (2, 3, 0, 1)
    assert pending.due() == ["ns/b"]
    settle(pending)
    assert pending.counts() == (2, 3, 0, 0, 0.0)
    assert len(pending) == 0


def test_the_oldest_change_that_is_not_written(pending: Pending, clock: Clock) -> None:
    assert pending.counts().oldest == 0.0
    pending.service_changed("ns/a")
    clock.now = 110.0
    pending.endpoints_changed("ns/b")
    assert pending.counts().oldest == 100.0
    settle(pending, failed="b")
    assert pending.counts().oldest == 100.0  # it was in one go with the other
    clock.now = 120.0
    pending.service_changed("ns/a")
    assert pending.counts().oldest == 100.0
    settle(pending, failed="a")
    assert pending.counts().oldest == 120.0
    settle(pending)
    assert pending.counts().oldest == 0.0


def test_what_no_time_cures_does_not_age(pending: Pending, clock: Clock) -> None:
    pending.service_changed("ns/a")
    pending.service_changed("ns/b")
    settle(pending, failed="a", no_room="a", held="b")
    assert pending.counts().oldest == 0.0
    assert len(pending) == 2
    clock.now = 130.0
    pending.service_changed("ns/c")
    assert pending.counts().oldest == 130.0


def test_what_is_held_waits_until_it_changes_or_all_may_go_on(pending: Pending) -> None:
    for letter in "abc":
        pending.service_changed(f"ns/{letter}")
    settle(pending, held="abc")
    assert pending.due() == []
    pending.service_changed("ns/b")
    assert pending.due() == ["ns/b"]
    settle(pending, held="b")
    pending.resume()
    assert sorted(pending.due()) == ["ns/a", "ns/b", "ns/c"]
    settle(pending)
    assert len(pending) == 0


def test_many_that_fail_do_not_hold_up_the_others(pending: Pending, clock: Clock) -> None:
    many = {f"ns/s{number}" for number in range(FEW + 2)}
    for path in many:
        pending.endpoints_changed(path)
    pending.settle(many, set(), many, SERVED)
    assert set(pending.due()) == many
    pending.settle(many, set(), many, SERVED)
    pending.service_changed("ns/a")
    pending.service_changed("ns/s0")
    assert set(pending.due()) == {"ns/a", "ns/s0"}
    pending.settle(many, set(), many, SERVED)
    assert len(pending) == len(many)
    assert pending.counts()[2:4] == (1, len(many))
    clock.now += AGAIN_SEC
    assert set(pending.due()) == many
    settle(pending)
    assert len(pending) == 0


def test_trigger_times_are_handed_out_once_and_not_before_they_are_true(pending: Pending) -> None:
    pending.endpoints_changed("ns/a")
    pending.triggered("ns/a", 1001.0)
    pending.triggered("ns/a", 1002.0)
    pending.triggered("ns/a", 999.0)  # before this process
    pending.triggered("ns/a", 0.0)  # not said
    assert pending.programmed() == []
    settle(pending, failed="a")
    assert pending.programmed() == []
    settle(pending)
    assert pending.programmed() == [1001.0, 1002.0]
    assert pending.programmed() == []


def test_trigger_times_of_what_is_gone_or_not_served_are_forgotten(pending: Pending) -> None:
    for letter in "az":
        pending.endpoints_changed(f"ns/{letter}")
        pending.triggered(f"ns/{letter}", 1001.0)
    pending.slice_gone("ns/a")
    settle(pending)
    assert pending.programmed() == []


def test_a_service_that_is_never_written_collects_no_end_of_trigger_times(pending: Pending) -> None:
    pending.endpoints_changed("ns/a")
    for number in range(3 * MAX_WAITING_TRIGGERS):
        pending.triggered("ns/a", 1001.0 + number)
    settle(pending)
    assert len(pending.programmed()) == MAX_WAITING_TRIGGERS


def test_the_controller_tells_what_is_in_the_kernel_now(clock: Clock) -> None:
    tables = fake_tables()
    flaky = Flaky(tables, 1, 0)
    controller = ServicesController(tables, "node-a", clock=clock, started=1540236700.0)
    for raw in (make.service(), make.slice_(triggered="2018-10-22T19:32:52Z")):
        model = make.model(raw)
        controller.changed(model.key, model)
    assert controller.reconcile().failed
    assert controller.programmed() == []
    assert controller.status().endpoint_changes_pending == 1
    flaky.out_of = 0
    assert not controller.reconcile().failed
    assert controller.programmed() == [1540236772.0]
    slice_ = make.model(make.slice_(["10.1.0.9"], triggered="2018-10-22T19:32:59Z"))
    controller.changed(slice_.key, slice_)
    controller.changed(slice_.key, None)
    controller.reconcile()
    assert controller.programmed() == []
    assert controller.status().endpoint_changes == 3
