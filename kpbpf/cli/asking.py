"""Asking the running daemon what only it knows: types, labels, why an endpoint is not used.

The other end is kpbpf/daemon/answers.py. Everything that is asked here is extra: what serves the
traffic stands in the maps, and is shown while no daemon runs.
"""

# The C half of socket: importing the other one takes every command line 5 ms longer.
import sys
import time
from _socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any

from kpbpf.home import Home, socket_path

WAIT_SEC = 4.0
"""For the whole answer: longer than the daemon lets its own main loop be busy."""

_CHUNK = 1 << 18

_said: set[str] = set()
"""Who watches asks again and again: each thing is said once."""


def ask(home: Home, question: str, **words: object) -> Any:
    """Ask one question; None when no daemon answers, or none that knows the question.

    A daemon that is there and does not answer is told of on standard error.
    """
    try:
        connection = _connect(home)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        return _without(error.strerror or str(error))
    import json  # here, because without a daemon there is nothing to read

    try:
        line = json.dumps({"question": question, **words}) + "\n"
        told = json.loads(_exchange(connection, line.encode()))
    except OSError as error:
        return _without(error.strerror or f"no answer within {WAIT_SEC:.0f} s")
    except ValueError:
        return _without("it hung up before its answer was complete")
    finally:
        connection.close()
    if "error" in told:
        return _without(told["error"])
    return told["answer"]


def _connect(home: Home) -> socket:
    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.settimeout(WAIT_SEC)
        with socket_path(str(home.socket_file)) as path:
            connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _exchange(connection: socket, line: bytes) -> bytes:
    """Send a line and read one; OSError (TimeoutError, too) when that is not possible."""
    until = time.monotonic() + WAIT_SEC
    chunks: list[bytes] = []
    connection.sendall(line)
    while not (chunks and chunks[-1].endswith(b"\n")):
        connection.settimeout(max(0.001, until - time.monotonic()))
        chunk = connection.recv(_CHUNK)
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks)


def _without(why: str) -> None:
    """Say what is missing, and go on without it."""
    if why in _said:
        return
    _said.add(why)
    print(f"kpbpf: shown without what only the daemon knows: {why}", file=sys.stderr)
