"""Log lines."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from kpbpf import log
from kpbpf.errors import Problem


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def fail(logger: logging.Logger) -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("failed")


def test_an_event_is_one_line_whatever_it_holds(stream: io.StringIO) -> None:
    log.start("info", stream=stream)
    logger = log.get("kpbpf.test")
    logger.info("Service %s", "two\nlines\x1b[31m")
    logger.debug("not shown")
    fail(logger)
    first, second = stream.getvalue().splitlines()
    assert first.endswith("INFO test: Service two | lines\\x1b[31m")
    assert "ERROR test: failed | Traceback" in second
    assert second.endswith("ValueError: boom")


def test_an_event_as_json_has_the_same_facts_in_fields(stream: io.StringIO) -> None:
    log.start("debug", "json", stream)
    logger = log.get("kpbpf.test")
    logger.debug("Service %s", "two\nlines \ud800 é")
    fail(logger)
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("ts"))
    assert first == {"level": "debug", "logger": "test", "msg": "Service two\nlines \ud800 é"}
    assert second["msg"] == "failed"
    assert second["exc"].endswith("ValueError: boom")


@pytest.mark.parametrize("form", log.FORMATS)
def test_a_line_is_never_endless(stream: io.StringIO, form: str) -> None:
    log.start("info", form, stream)
    log.get("test").info("%s the end", "x" * 10**6)
    assert len(stream.getvalue()) < log.LINE_CHARACTERS + 200
    assert "the end" in stream.getvalue()


def test_verbosity_becomes_a_level() -> None:
    assert [log.level_of(n) for n in (0, 3, 4, 10)] == ["info", "info", "debug", "debug"]


# ---- what was told ------------------------------------------------------------------------


def problems(start: int, end: int) -> list[Problem]:
    return [
        Problem("a.yaml", f"Service default/{number:05}", "spec", "this", "that")
        for number in range(start, end)
    ]


def tell(told: log.Told, *rounds: list[Problem]) -> list[str]:
    stream = io.StringIO()
    log.start("info", stream=stream)
    for each in rounds:
        told.tell(each)
    return [line.partition(": ")[2] for line in stream.getvalue().splitlines()]


def test_a_problem_is_told_once_and_again_when_it_is_mended() -> None:
    told = log.Told(log.get("test"))
    (problem,) = problems(0, 1)
    assert tell(told, [problem], [problem, problem], []) == [str(problem), f"mended: {problem}"]


def test_of_many_problems_at_once_only_the_first_are_told() -> None:
    told = log.Told(log.get("test"))
    lines = tell(told, problems(0, 100))
    assert lines[:20] == [str(problem) for problem in problems(0, 20)]
    assert lines[20:] == ["and 80 more; `kpbpf status` lists them"]
    assert tell(told, problems(0, 100)) == []
    lines = tell(told, problems(50, 100))
    assert lines[:20] == [f"mended: {problem}" for problem in problems(0, 20)]
    assert lines[20:] == ["mended: 30 more"]


def test_of_many_problems_one_after_the_other_only_the_first_of_a_minute_are_told() -> None:
    now = 0.0
    told = log.Told(log.get("test"), lambda: now)
    lines = tell(told, *(problems(0, count) for count in range(1, 101)))
    assert lines[:20] == [str(problem) for problem in problems(0, 20)]
    assert lines[20:] == ["and 1 more; `kpbpf status` lists them"]
    now = log.QUIET_SEC
    assert tell(told, problems(0, 101)) == [
        "and 79 more before this; `kpbpf status` lists them",
        str(problems(100, 101)[0]),
    ]
    now = 2 * log.QUIET_SEC
    assert tell(told, problems(0, 102)) == [str(problems(101, 102)[0])]


def test_no_more_problems_are_remembered_than_there_is_room_for() -> None:
    told = log.Told(log.get("test"))
    many = problems(0, log.REMEMBERED + 5000)
    assert len(tell(told, many)) == log.TOLD_AT_ONCE + 1
    assert tell(told, many) == []
    assert len(tell(told, [])) == log.TOLD_AT_ONCE + 1
