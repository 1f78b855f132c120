"""A daemon in this process, as far as questions of the command line are concerned."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from controllers.loop import Loop
from kpbpf.daemon.answers import Answers, Look
from kpbpf.home import Home, socket_path

SOON_SEC = 10.0


@contextmanager
def answering(home: Home, questions: Mapping[str, Look]) -> Iterator[Loop]:
    """A daemon's main loop, as far as questions are concerned."""
    loop = Loop()
    told = Answers(home, loop, questions)
    loop.add("answers", told.start)
    thread = threading.Thread(target=loop.run, name="main loop")
    thread.start()
    try:
        until(lambda: _listens(home))
        yield loop
    finally:
        loop.stop()
        thread.join()
        told.stop()


def _listens(home: Home) -> bool:
    """The file is there a moment before anybody listens."""
    with socket.socket(socket.AF_UNIX) as client, socket_path(str(home.socket_file)) as path:
        return client.connect_ex(path) == 0


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_SEC
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def telling(told: Mapping[str, object]) -> dict[str, Look]:
    """Questions that are answered by these values, whatever else is said in them."""

    def look(value: object) -> Look:
        return lambda _words: lambda: value

    return {name: look(value) for name, value in told.items()}
