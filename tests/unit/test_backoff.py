"""Tests of when to ask again."""

from __future__ import annotations

from kpbpf.kube.backoff import Backoff, Rate


def backoff(draw: float = 1.0) -> Backoff:
    return Backoff(first_sec=1.0, last_sec=8.0, healthy_sec=10.0, draw=lambda: draw)


def test_each_failure_doubles_the_delay_up_to_a_bound() -> None:
    tried = backoff()
    assert [tried.failed(0.0) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_delays_are_drawn_from_the_upper_half_of_the_step() -> None:
    assert backoff(draw=0.0).failed(0.0) == 0.5
    assert backoff(draw=0.5).failed(0.0) == 0.75


def test_an_attempt_that_worked_for_a_while_ends_the_series() -> None:
    tried = backoff()
    assert [tried.failed(0.0), tried.failed(9.9), tried.failed(10.0)] == [1.0, 2.0, 1.0]


def test_a_stream_that_lasted_is_followed_at_once_and_a_short_one_is_not() -> None:
    tried = backoff()
    assert [tried.ended(0.1), tried.ended(0.1), tried.ended(60.0), tried.ended(0.1)] == [
        1.0,
        2.0,
        0.0,
        1.0,
    ]


def test_what_the_server_asks_for_is_waited_in_whole() -> None:
    tried = backoff(draw=0.0)
    assert tried.failed(0.0, retry_after_sec=7.0) == 7.0
    assert tried.failed(0.0, retry_after_sec=0.5) == 1.0, "the longer one counts"


def test_a_thousand_failures_do_not_overflow() -> None:
    tried = backoff()
    assert max(tried.failed(0.0) for _ in range(2000)) == 8.0


def test_a_rate_lets_a_burst_through_and_then_so_many_a_second() -> None:
    now = [100.0]
    rate = Rate(5.0, 3, clock=lambda: now[0])
    waits = [round(rate.reserve(), 3) for _ in range(5)]
    assert waits == [0.0, 0.0, 0.0, 0.2, 0.4]
    now[0] += 10.0
    assert [round(rate.reserve(), 3) for _ in range(4)] == [0.0, 0.0, 0.0, 0.2], "saved up again"


def test_a_rate_of_nothing_is_no_limit() -> None:
    rate = Rate(0.0, 1, clock=lambda: 1.0)
    assert [rate.reserve() for _ in range(3)] == [0.0, 0.0, 0.0]
