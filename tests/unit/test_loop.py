"""The worker's queue: coalescing, delays, retries; with a clock of our own."""

from __future__ import annotations

import logging
import threading

import pytest

from controllers.loop import LAST_RETRY_SEC, Loop
from kpbpf.errors import Fix, MapFull


class Clock:
    """Time as the test wants it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A loop, its clock, and a record of what was done when."""

    def __init__(self) -> None:
        self.clock, self.cpu = Clock(), Clock()
        self.cost_sec = 0.0
        self.loop = Loop(self.clock, self.cpu)
        self.done: list[str] = []
        self.failing: list[Exception] = []

    def work(self, name: str = "a") -> None:
        self.done.append(name)
        self.cpu.now += self.cost_sec
        if self.failing:
            raise self.failing.pop(0)

    def pass_time(self, seconds: float) -> float | None:
        self.clock.now += seconds
        return self.loop.run_due()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_work_is_done_in_the_order_it_was_asked_for(bench: Bench) -> None:
    for name in "bac":
        bench.loop.add(name, lambda name=name: bench.work(name))  # type: ignore[misc]
        bench.clock.now += 0.001
    assert bench.pass_time(0) is None
    assert bench.done == ["b", "a", "c"]


def test_the_same_name_waits_once(bench: Bench) -> None:
    for _ in range(5):
        bench.loop.add("a", bench.work)
    bench.pass_time(0)
    assert bench.done == ["a"]


def test_of_two_delays_the_shorter_counts(bench: Bench) -> None:
    bench.loop.add("a", bench.work, 10)
    bench.loop.add("a", bench.work, 2)
    bench.loop.add("a", bench.work, 5)
    assert bench.pass_time(0) == 2
    bench.pass_time(2)
    assert bench.done == ["a"]


def test_work_may_ask_for_more(bench: Bench) -> None:
    bench.loop.add("a", lambda: bench.loop.add("b", bench.work))
    bench.pass_time(0)
    assert bench.done == ["a"]


@pytest.mark.parametrize(
    ("cpu_sec", "longest_sec", "rest_sec"), [(0.001, 5, 1), (0.04, 5, 2), (3, 5, 5), (3, 0, 1)]
)
def test_periodic_work_rests_as_long_as_its_cost_asks_for(
    bench: Bench, cpu_sec: float, longest_sec: float, rest_sec: float
) -> None:
    bench.cost_sec = cpu_sec
    bench.loop.every(1, "a", bench.work, longest_sec)
    assert bench.pass_time(0) == pytest.approx(rest_sec)


def test_periodic_work_comes_again(bench: Bench) -> None:
    bench.loop.every(10, "a", bench.work)
    assert bench.pass_time(0) == 10
    assert bench.pass_time(10) == 10
    assert bench.done == ["a", "a"]


def test_what_fails_comes_back_later_and_later(bench: Bench) -> None:
    bench.failing = [MapFull("frontends", 5) for _ in range(20)]
    bench.loop.add("a", bench.work)
    waits = [bench.pass_time(0)]
    while bench.failing:
        waits.append(bench.pass_time(waits[-1] or 0))
    assert waits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert waits[-1] == LAST_RETRY_SEC
    assert bench.loop.failures == {"a": 20}
    assert bench.pass_time(LAST_RETRY_SEC) is None
    assert bench.loop.failures == {}


def test_asked_for_again_it_does_not_wait(bench: Bench) -> None:
    bench.failing = [MapFull("frontends", 5)] * 9
    bench.loop.add("a", bench.work)
    for _ in range(9):
        bench.pass_time(60)
    bench.loop.add("a", bench.work)
    bench.pass_time(0)
    assert len(bench.done) == 10


def test_periodic_work_that_fails_is_tried_again_soon(bench: Bench) -> None:
    bench.failing = [MapFull("flows", 1)]
    bench.loop.every(60, "a", bench.work)
    assert bench.pass_time(0) == pytest.approx(0.1)
    assert bench.pass_time(0.1) == pytest.approx(60)


def test_a_bug_in_one_work_does_not_end_the_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.failing = [ZeroDivisionError("oops")]
    with caplog.at_level(logging.ERROR):
        bench.loop.add("a", bench.work)
        bench.clock.now += 0.01
        bench.loop.add("b", lambda: bench.work("b"))
        bench.pass_time(0)
    assert bench.done == ["a", "b"]
    assert "oops" in caplog.text


def test_what_needs_a_person_ends_the_loop(bench: Bench) -> None:
    bench.failing = [Fix("what", "why", "do")]
    bench.loop.add("a", bench.work)
    with pytest.raises(Fix):
        bench.loop.run()


def test_run_wakes_for_work_of_other_threads_and_stops() -> None:
    loop = Loop()
    began = threading.Event()
    thread = threading.Thread(target=loop.run)
    thread.start()
    loop.add("a", began.set)
    assert began.wait(5)
    loop.stop()
    thread.join(5)
    assert not thread.is_alive()
