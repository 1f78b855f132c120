"""One request from its arrival to its answer: fault, user, right, then what it asks for."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.cluster import listing, watching
from tests.cluster.failures import Failure
from tests.cluster.faults import Fault, Kind
from tests.cluster.objects import answer_object
from tests.cluster.rbac import Attributes, User, forbidden, node_allows
from tests.cluster.route import read_route
from tests.cluster.selectors import Selector
from tests.cluster.wire import Answer, Ended, Request

if TYPE_CHECKING:
    from tests.cluster.apiserver import ApiServer

_JSON = {"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
_TEXT = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
_NOT_IN_BYTES = (Kind.STATUS, Kind.CONTENT_TYPE)
_COMPRESS_FROM_BYTES = 128 * 1024
_TOO_MANY = b"Too many requests, please try again later.\n"
_HEALTH = ("/readyz", "/livez", "/healthz")
_VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-08-27T00:00:00Z",
    "goVersion": "go1.24.6",
    "compiler": "gc",
    "platform": "linux/amd64",
}


@dataclass
class Logged:
    """What is remembered of a request."""

    time: float
    """Of its arrival, in seconds of the epoch."""
    method: str
    path: str
    query: dict[str, str]
    verb: str
    resource: str
    namespace: str
    name: str
    user: str
    agent: str
    fault: str
    code: int = 0
    """0 when it got no answer."""
    seconds: float | None = None
    """From its arrival to the end of its answer; None while that lasts."""


class Served:
    """One request that is being answered."""

    def __init__(self, server: ApiServer, request: Request, certified: User | None) -> None:
        self.request = request
        self.route = read_route(request)
        self.user = User("")
        self._server = server
        self._certified = certified
        self._logged: Logged | None = None
        self._time, self._begin = time.time(), time.monotonic()
        self._fault = server.faults.take(self.route.plural, self.route.verb)

    @property
    def wire_fault(self) -> Fault | None:
        """The fault that acts on the bytes of the answer."""
        fault = self._fault
        if fault and fault.kind is Kind.ERROR_EVENT:
            return replace(fault, line=watching.error_event(_ordered(fault)).rstrip())
        return None if fault and fault.kind in _NOT_IN_BYTES else fault

    def is_for(self, resource: str, verb: str) -> bool:
        """Is it about that resource and verb; "" for any?"""
        return resource in ("", self.route.plural) and verb in ("", self.route.verb)

    def log(self, code: int = 0) -> None:
        """Put the request into the server's log: when its answer begins, or when there is none."""
        if self._logged is not None:
            return
        request, route = self.request, self.route
        agent, fault = request.headers.get("user-agent", ""), self._fault
        self._logged = Logged(
            *(self._time, request.method, request.path, request.query),
            *(route.verb, route.plural, route.namespace, route.name, self.user.name, agent),
            *(str(fault.kind) if fault else "", code),
        )
        self._server.requests.append(self._logged)

    def end(self) -> None:
        """Complete the log: the answer is out, or never will be."""
        self.log()
        if self._logged is not None:
            self._logged.seconds = time.monotonic() - self._begin

    def answer(self, answer: Answer) -> None:
        """Answer it; Cut when a fault broke the answer off."""
        try:
            self._answer(answer)
        except Ended:
            pass
        except Failure as failure:
            headers = dict(_JSON)
            if failure.retry_after_sec is not None:
                headers["Retry-After"] = str(failure.retry_after_sec)
            answer.whole(failure.code, headers, failure.body)

    def _answer(self, answer: Answer) -> None:
        fault, server = self._fault, self._server
        if fault and fault.kind is Kind.STATUS and fault.code == 429:
            seconds = 1 if fault.retry_after_sec is None else fault.retry_after_sec
            answer.whole(429, _TEXT | {"Retry-After": str(seconds)}, _TOO_MANY)
            return
        if fault and fault.kind is Kind.STATUS:
            raise _ordered(fault)
        if fault and fault.kind is Kind.CONTENT_TYPE:
            headers = _JSON | {"Content-Type": fault.content_type}
            answer.whole(200, headers, fault.line)
            return
        authorization = self.request.headers.get("authorization", "")
        anonymous = server.behaviour.anonymous
        self.user = server.tokens.user(authorization, self._certified, anonymous)
        route = self.route
        collects = route.resource is not None and route.verb in ("list", "watch")
        scope = None
        if collects and route.resource:
            scope = listing.read_scope(route.resource, route.namespace, self.request.query)
        self._authorize(scope.selector if scope else Selector())
        if scope and route.verb == "watch":
            self._watch(scope, answer)
        elif scope:
            self._list(scope, answer)
        elif route.resource:
            code, body = answer_object(server.store, route, self.request)
            answer.whole(code, _JSON, body)
        else:
            self._other(answer)

    def _authorize(self, selector: Selector) -> None:
        """Failure 403 unless RBAC, or the Node authorizer, lets the user do that."""
        rbac, route = self._server.rbac, self.route
        if rbac is None:
            return
        wanted = Attributes(
            *(route.verb, route.group, route.plural, route.namespace),
            *(route.name or selector.name, selector.node),
            "" if route.plural else self.request.path,
        )
        if not route.plural and self.request.path in (*_HEALTH, "/version"):
            return  # system:public-info-viewer, which every cluster has
        if not rbac.allows(self.user, wanted) and not node_allows(self.user, wanted):
            raise forbidden(self.user, wanted)

    def _list(self, scope: listing.Scope, answer: Answer) -> None:
        server, query = self._server, self.request.query
        parts = listing.read_list(server.store, scope, query, server.behaviour)
        headers = dict(_JSON)
        if server.behaviour.compress and "gzip" in self.request.headers.get("accept-encoding", ""):
            parts = _compressed(parts, headers)
        answer.begin(200, headers)
        for part in parts:
            answer.write(part)
        answer.end()

    def _watch(self, scope: listing.Scope, answer: Answer) -> None:
        server = self._server
        options = watching.read_options(self.request.query, server.behaviour)
        watching.serve(server.store, scope, options, server.behaviour, answer)

    def _other(self, answer: Answer) -> None:
        path = self.request.path
        if path == "/version":
            answer.whole(200, _JSON, json.dumps(_VERSION, indent=2).encode())
        elif path in _HEALTH:
            answer.whole(200, _TEXT, b"ok")
        else:
            answer.whole(404, _TEXT, b"404 page not found\n")


def _ordered(fault: Fault) -> Failure:
    """The error that a fault orders, worded as the server does."""
    reason, message = {
        410: ("Expired", "too old resource version: 1 (2)"),
        500: ("InternalError", "Internal error occurred: ordered by a test"),
        503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504: ("Timeout", "Timeout: request did not complete within the allotted timeout"),
    }.get(fault.code, ("", "ordered by a test"))
    return Failure(fault.code, reason, message, retry_after_sec=fault.retry_after_sec)


def _compressed(parts: Iterator[bytes], headers: dict[str, str]) -> Iterator[bytes]:
    """The parts as gzip, and a header that says so, where they are long enough together."""
    first, length = [], 0
    for part in parts:
        first.append(part)
        length += len(part)
        if length > _COMPRESS_FROM_BYTES:
            break
    else:
        return iter(first)
    headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return _gzip(first, parts)


def _gzip(first: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(level=1, wbits=31)
    for part in first:
        yield packer.compress(part)
    for part in rest:
        yield packer.compress(part)
    yield packer.flush()
