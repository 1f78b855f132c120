"""Answers to questions of the command line: a Unix socket in the run directory, for root only.

One JSON object a line is the question, {"question": "services", ...}; one line is the answer,
{"answer": ...} or {"error": "why not"}. Each is looked up in the daemon's main loop, where the
model may be read without a lock, and made into text in a thread of its own. What is asked and
answered is not known here; the other end is kpbpf/cli/asking.py.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer
from typing import Any

from controllers.loop import Loop
from kpbpf import log
from kpbpf.errors import NotFound, Retry, Usage
from kpbpf.home import Home, socket_path

CLIENTS = 16
"""At once, each with a thread; of more, the one that has been here the longest has to go."""

BUSY_SEC = 2.0
"""The longest wait for the main loop, which may be writing thousands of Services."""

SILENCE_SEC = 5.0
"""The longest silence of a client."""

READING_SEC = 30.0
"""The longest that a client may take to read an answer, of up to some megabytes."""

LONGEST_QUESTION = 65536
"""Bytes of a line."""

LOOK_SEC = 0.25
"""How often it is looked whether it is time to stop."""

Finish = Callable[[], object]
"""Makes of what was looked up something that JSON can say; may take its time."""

Look = Callable[[Mapping[str, Any]], Finish]
"""Called in the main loop with the whole question, and so quick; NotFound or Usage: say why not."""

_ENDING: dict[str, object] = {"error": "the daemon is about to end"}

_LOG = log.get(__name__)


class Answers:
    """The socket, from `start` to `stop`. `questions` are the looks by the question's name."""

    def __init__(self, home: Home, loop: Loop, questions: Mapping[str, Look]) -> None:
        self._home = home
        self._asked = _Asked(loop, questions)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen. What a killed daemon left is replaced: only one lives here at a time.

        Work for a loop: Retry when it cannot be. Nothing but the command line misses it.
        """
        path = self._home.socket_file
        try:
            path.unlink(missing_ok=True)
            self._server = _Server(path, self._asked)
        except OSError as error:
            raise Retry(f"no questions can be asked at {path}: {error.strerror}") from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(LOOK_SEC,), name="answers"
        )
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everybody, and wait until the threads are gone. The loop may have ended."""
        self._asked.end()
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up(0)
        self._server.server_close()
        self._home.socket_file.unlink(missing_ok=True)
        self._server = self._thread = None


class _Question:
    """One question on its way through the loop."""

    def __init__(self, look: Look, words: Mapping[str, Any]) -> None:
        self._look = look
        self._words = words
        self.done = threading.Event()
        """Answered, or no longer of interest."""
        self.finish: Finish | None = None
        self.refusal = ""
        self.ended = False
        """Whether the daemon ended first."""

    def work(self) -> None:
        """For the loop, which comes again with what went wrong: then there is nothing to do."""
        if self.done.is_set():
            return
        try:
            self.finish = self._look(self._words)
        except (NotFound, Usage) as error:
            self.refusal = str(error)
        finally:
            self.done.set()


class _Asked:
    """Hands questions to the loop and waits for what was found, from any thread."""

    def __init__(self, loop: Loop, questions: Mapping[str, Look]) -> None:
        self._loop = loop
        self._questions = questions
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._open: set[_Question] = set()
        self._ended = False

    def answer(self, line: bytes) -> dict[str, object]:
        """Answer one line, in a few seconds at most."""
        try:
            words = json.loads(line)
            look = self._questions[words["question"]]
        except (ValueError, TypeError, KeyError):
            known = ", ".join(sorted(self._questions))
            return {"error": f"expected a JSON object whose question is one of {known}"}
        question = _Question(look, words)
        with self._lock:
            if self._ended:
                return _ENDING
            self._open.add(question)
        # Of two works of one name the loop would do one.
        self._loop.add(f"question {next(self._numbers)}", question.work)
        answered = question.done.wait(BUSY_SEC)
        question.done.set()  # whoever comes too late finds that nobody waits
        with self._lock:
            self._open.discard(question)
        if question.finish:
            return {"answer": question.finish()}
        if question.ended:
            return _ENDING
        if not answered:
            return {"error": f"the daemon was busy for {BUSY_SEC:.0f} s: ask again"}
        return {"error": question.refusal or "the daemon could not answer; its log tells why"}

    def end(self) -> None:
        """Let nobody wait for a loop that has ended."""
        with self._lock:
            self._ended = True
            for question in self._open:
                question.ended = True
                question.done.set()


class _Server(ThreadingMixIn, UnixStreamServer):
    """The listener, and the connections that it took."""

    request_queue_size = 64

    def __init__(self, path: os.PathLike[str], asked: _Asked) -> None:
        self.asked = asked
        self._lock = threading.Lock()
        self._opened: dict[Any, None] = {}
        self._told: set[str] = set()
        super().__init__(os.fspath(path), _Client)

    def server_bind(self) -> None:
        """Be nobody else's from the first moment on: the file takes its mode from the socket's."""
        os.fchmod(self.socket.fileno(), 0o600)
        with socket_path(str(self.server_address)) as short:
            self.socket.bind(short)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread; of too many, the oldest ends."""
        with self._lock:
            self._opened[request] = None
        self.hang_up(CLIENTS)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Close it, and know it no more."""
        with self._lock:
            self._opened.pop(request, None)
            super().close_request(request)

    def hang_up(self, left: int) -> None:
        """End the oldest connections but for so many; their threads notice, and close them."""
        with self._lock:
            for one in list(self._opened)[: max(0, len(self._opened) - left)]:
                with suppress(OSError):  # it has ended by itself
                    one.shutdown(socket.SHUT_RDWR)
                del self._opened[one]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what our own code could not do, each kind once."""
        error = sys.exception()
        if isinstance(error, OSError) or repr(error) in self._told or len(self._told) > CLIENTS:
            return  # a client that went away is nobody's fault
        self._told.add(repr(error))
        _LOG.error("a question could not be answered: %r", error, exc_info=error)


class _Client(StreamRequestHandler):
    """One client, who may ask one question after the other."""

    server: _Server
    timeout = SILENCE_SEC

    def handle(self) -> None:
        """Answer line by line until the client hangs up, or says nothing for too long."""
        while line := self.rfile.readline(LONGEST_QUESTION):
            answer = json.dumps(self.server.asked.answer(line), ensure_ascii=False)
            self.connection.settimeout(READING_SEC)
            self.connection.sendall(f"{answer}\n".encode())
            self.connection.settimeout(SILENCE_SEC)
            if not line.endswith(b"\n"):
                return  # the rest of the line would be taken for another question
