"""Questions to the daemon over a real socket, and clients that are slow, silent or many."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from controllers.loop import Loop
from kpbpf.cli import asking
from kpbpf.daemon import answers
from kpbpf.daemon.answers import Answers, Finish
from kpbpf.errors import NotFound, Retry
from kpbpf.home import Home, socket_path
from tests.unit.answering import answering, until

SOON_SEC = 10.0


def echo(words: Mapping[str, Any]) -> Finish:
    return lambda: {"heard": words.get("name")}


def unknown(words: Mapping[str, Any]) -> Finish:
    raise NotFound(f"there is no {words['name']}")


def large(_words: Mapping[str, Any]) -> Finish:
    return lambda: "x" * 5_000_000


def in_which_thread(_words: Mapping[str, Any]) -> Finish:
    name = threading.current_thread().name
    return lambda: name


QUESTIONS = {"echo": echo, "unknown": unknown, "large": large, "thread": in_which_thread}


def connect(home: Home) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SOON_SEC)
    with socket_path(str(home.socket_file)) as path:
        client.connect(path)
    return client


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(run=tmp_path)


@pytest.fixture(autouse=True)
def nothing_was_said_yet() -> None:
    asking._said.clear()


def test_a_question_is_answered(home: Home) -> None:
    with answering(home, QUESTIONS):
        assert asking.ask(home, "echo", name="default/web-ä") == {"heard": "default/web-ä"}


def test_it_is_looked_up_in_the_main_loop(home: Home) -> None:
    with answering(home, QUESTIONS):
        assert asking.ask(home, "thread") == "main loop"


def test_an_answer_of_megabytes_arrives_in_whole(home: Home) -> None:
    with answering(home, QUESTIONS):
        assert len(asking.ask(home, "large")) == 5_000_000


def test_one_connection_may_ask_again(home: Home) -> None:
    with answering(home, QUESTIONS), connect(home) as client:
        stream = client.makefile("rw")
        for name in ("a", "b"):
            stream.write(json.dumps({"question": "echo", "name": name}) + "\n")
            stream.flush()
            assert json.loads(stream.readline()) == {"answer": {"heard": name}}


def test_only_its_owner_may_ask_and_nothing_stays_behind(home: Home) -> None:
    with answering(home, QUESTIONS):
        assert stat.S_IMODE(home.socket_file.stat().st_mode) == 0o600
    assert not home.socket_file.exists()


def test_without_a_daemon_there_is_no_answer_and_no_noise(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asking.ask(home, "echo") is None
    assert capsys.readouterr().err == ""


def test_what_a_killed_daemon_left_is_no_answer_and_is_replaced(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(home.socket_file))
    assert home.socket_file.is_socket()
    assert asking.ask(home, "echo") is None
    assert capsys.readouterr().err == ""
    with answering(home, QUESTIONS):
        until(lambda: asking.ask(home, "echo", name="a") == {"heard": "a"})


def test_a_path_too_long_for_the_kernel_is_reached_all_the_same(tmp_path: Path) -> None:
    home = Home(run=tmp_path / ("long" * 20) / ("longer" * 20))
    home.run.mkdir(parents=True)
    assert len(os.fsencode(home.socket_file)) > 200
    with answering(home, QUESTIONS):
        assert asking.ask(home, "echo", name="a") == {"heard": "a"}
    assert not home.socket_file.exists()


def test_a_place_that_is_taken_is_tried_again(home: Home) -> None:
    home.socket_file.mkdir()
    with pytest.raises(Retry, match="no questions can be asked"):
        Answers(home, Loop(), {}).start()


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[]\n", b"no JSON\n", b'{"question": "weather"}\n', b'{"question": []}\n']
)
def test_nonsense_is_answered_with_what_can_be_asked(home: Home, line: bytes) -> None:
    with answering(home, QUESTIONS), connect(home) as client:
        client.sendall(line)
        told = json.loads(client.makefile().readline())
        assert "echo, large, thread, unknown" in told["error"]


def test_a_line_without_an_end_is_cut_off(home: Home) -> None:
    with answering(home, QUESTIONS), connect(home) as client:
        client.sendall(b"x" * answers.LONGEST_QUESTION)
        stream = client.makefile()
        assert "error" in json.loads(stream.readline())
        assert stream.readline() == ""


def test_a_refusal_is_told_and_the_loop_is_none_the_worse(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(home, QUESTIONS) as loop:
        assert asking.ask(home, "unknown", name="default/none") is None
        assert "there is no default/none" in capsys.readouterr().err
        assert loop.failures == {}


def test_a_bug_in_one_answer_leaves_the_loop_and_the_others_alone(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_words: Mapping[str, Any]) -> Finish:
        raise ZeroDivisionError

    def broken_late(_words: Mapping[str, Any]) -> Finish:
        return lambda: 1 // 0

    with answering(home, {**QUESTIONS, "broken": broken, "late": broken_late}) as loop:
        assert asking.ask(home, "broken") is None
        assert "its log tells why" in capsys.readouterr().err
        assert asking.ask(home, "late") is None
        assert asking.ask(home, "echo", name="a") == {"heard": "a"}
        until(lambda: loop.failures == {})


def test_a_busy_daemon_does_not_make_the_command_line_wait(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "BUSY_SEC", 0.1)
    free = threading.Event()
    with answering(home, QUESTIONS) as loop:
        loop.add("a long write", lambda: assert_true(free.wait(SOON_SEC)))
        assert asking.ask(home, "echo", name="a") is None
        assert "was busy" in capsys.readouterr().err
        free.set()
        until(lambda: asking.ask(home, "echo", name="a") == {"heard": "a"})


def assert_true(value: bool) -> None:
    assert value


def test_who_asks_a_daemon_that_is_ending_is_not_kept_waiting(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "BUSY_SEC", 600.0)
    loop = Loop()  # nobody runs it
    told = Answers(home, loop, QUESTIONS)
    told.start()
    with connect(home) as client:
        client.sendall(b'{"question": "echo"}\n')
        until(lambda: loop._waiting)
        told.stop()
        # Hung up on, with or without the last word.
        assert client.makefile().read() in ("", '{"error": "the daemon is about to end"}\n')
    loop.run_due()
    assert loop.failures == {}


def test_a_silent_client_is_hung_up_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers._Client, "timeout", 0.05)
    with answering(home, QUESTIONS), connect(home) as client:
        assert client.recv(1) == b""


def test_a_client_that_does_not_read_is_hung_up_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "READING_SEC", 0.05)
    with answering(home, QUESTIONS), connect(home) as client:
        client.sendall(b'{"question": "large"}\n')
        ended = select.poll()
        ended.register(client, select.POLLRDHUP)
        assert ended.poll(SOON_SEC * 1000)
        assert asking.ask(home, "echo", name="a") == {"heard": "a"}


def test_of_too_many_clients_the_oldest_has_to_go(home: Home) -> None:
    with answering(home, QUESTIONS):
        silent = [connect(home) for _ in range(3 * answers.CLIENTS)]
        try:
            assert asking.ask(home, "echo", name="a") == {"heard": "a"}
            assert silent[0].recv(1) == b""
            # Those that were ended still have a thread for a moment.
            until(lambda: threading.active_count() < 2 * answers.CLIENTS)
        finally:
            for client in silent:
                client.close()
