"""The second door of a server process: what tests in another process order and ask.

JSON over HTTP on a port of its own, without TLS, users or faults. `python -m
tests.cluster.apiserver --help` lists the paths; what they do is done elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
import resource as system
import socket
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

from tests.cluster.apiserver import ApiServer
from tests.cluster.listener import Listener
from tests.cluster.rbac import User
from tests.cluster.resources import by_name
from tests.cluster.store import dump
from tests.cluster.wire import Answer, Request, read_request
from tests.cluster.workload import Churn, Shape

PATHS = """\
GET    /usage                        CPU seconds and peak RSS (MB) of the server process
GET    /version                      the store's version
GET    /requests?from=N              the log of requests, from the N-th on
GET    /open                         requests that are being answered now: [verb, resource]
GET    /snapshot?resource=services   all objects of a resource
POST   /put /delete                  a list of objects
POST   /compact                      forget the history now
POST   /churn                        change endpoints: {"rate": 100, "seconds": 10, "seed": 1}
GET    /churn                        {"running": bool, "steps": [workload.Step, ...]}
DELETE /churn                        stop it
POST   /faults                       faults.Fault: {"kind": "stall", "resource": "services", ...}
DELETE /faults                       take all back
POST   /refuse /accept               close and open the listening socket
POST   /drop /stall /resume          {"resource": "", "verb": ""}: the answers that are open now
POST   /behaviour                    {"watch_list": false, ...} (behaviour.Behaviour)
POST   /tokens                       {"token": ["user", ["group"]], ...}: these and no others
POST   /stop                         end the process
"""

Handler = Callable[["Control", Any], Any]


class Control:
    """Serves the control port of `server`; `stopped` is set by /stop."""

    def __init__(self, server: ApiServer, shape: Shape, port: int = 0) -> None:
        self.server = server
        self.shape = shape
        self.stopped = threading.Event()
        self.churn: Churn | None = None
        self.listener = Listener("127.0.0.1", self._serve, port)

    def _serve(self, sock: socket.socket, stream: BinaryIO) -> None:
        while request := read_request(stream):
            code, body = self._answer(request)
            answer = Answer(sock, None, self.server.closing)
            answer.whole(code, {"Content-Type": "application/json"}, dump(body) + b"\n")

    def _answer(self, request: Request) -> tuple[int, Any]:
        handler = _HANDLERS.get((request.method, request.path))
        if handler is None:
            return 404, {"error": f"no {request.method} {request.path}", "paths": PATHS}
        try:
            given = json.loads(request.body) if request.body else request.query
            return 200, handler(self, given)
        except (KeyError, TypeError, ValueError) as error:
            return 400, {"error": repr(error)}


def _usage(_control: Control, _given: Any) -> Any:
    used = system.getrusage(system.RUSAGE_SELF)
    return {"cpu_sec": used.ru_utime + used.ru_stime, "peak_rss_mb": used.ru_maxrss / 1024}


def _requests(control: Control, given: Any) -> Any:
    return [dataclasses.asdict(one) for one in control.server.requests[int(given.get("from", 0)) :]]


def _open(control: Control, _given: Any) -> Any:
    return [[one.route.verb, one.route.plural] for one in control.server.open_requests()]


def _snapshot(control: Control, given: Any) -> Any:
    return control.server.store.objects(by_name(given["resource"]))


def _delete(control: Control, given: Any) -> Any:
    for raw in given:
        control.server.store.delete(raw)
    return control.server.store.version


def _start_churn(control: Control, given: Any) -> Any:
    _stop_churn(control, None)
    seed = int(given.get("seed", 1))
    store, shape = control.server.store, control.shape
    control.churn = Churn(store, shape, float(given["rate"]), float(given["seconds"]), seed)


def _show_churn(control: Control, _given: Any) -> Any:
    churn = control.churn
    return {"running": bool(churn and churn.running), "steps": list(churn.steps) if churn else []}


def _stop_churn(control: Control, _given: Any) -> Any:
    if control.churn:
        control.churn.stop()


def _add_fault(control: Control, given: Any) -> Any:
    line = given.pop("line", None)
    if line is not None:
        given["line"] = line.encode()
    control.server.faults.add(**given)


def _change_behaviour(control: Control, given: Any) -> Any:
    behaviour = control.server.behaviour
    for name, value in given.items():
        if not hasattr(behaviour, name):
            raise KeyError(name)
        setattr(behaviour, name, value)
    return dataclasses.asdict(behaviour)


def _set_tokens(control: Control, given: Any) -> Any:
    users = {token: User(name, tuple(groups)) for token, (name, groups) in given.items()}
    control.server.tokens.set(users)


_HANDLERS: dict[tuple[str, str], Handler] = {
    ("GET", "/usage"): _usage,
    ("GET", "/version"): lambda control, _: control.server.store.version,
    ("GET", "/requests"): _requests,
    ("GET", "/open"): _open,
    ("GET", "/snapshot"): _snapshot,
    ("POST", "/put"): lambda control, given: control.server.store.bulk(given),
    ("POST", "/delete"): _delete,
    ("POST", "/compact"): lambda control, _: control.server.store.compact(),
    ("POST", "/churn"): _start_churn,
    ("GET", "/churn"): _show_churn,
    ("DELETE", "/churn"): _stop_churn,
    ("POST", "/faults"): _add_fault,
    ("DELETE", "/faults"): lambda control, _: control.server.faults.clear(),
    ("POST", "/refuse"): lambda control, _: control.server.refuse(),
    ("POST", "/accept"): lambda control, _: control.server.accept(),
    ("POST", "/drop"): lambda control, given: control.server.drop_open(**given),
    ("POST", "/stall"): lambda control, given: control.server.stall_open(**given),
    ("POST", "/resume"): lambda control, _: control.server.resume_open(),
    ("POST", "/behaviour"): _change_behaviour,
    ("POST", "/tokens"): _set_tokens,
    ("POST", "/stop"): lambda control, _: control.stopped.set(),
}
