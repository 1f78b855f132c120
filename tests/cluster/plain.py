"""A client of the API server double that is not ours: http.client and nothing more.

Tests of the double use it, so that what they prove does not rest on the reflector.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from tests.cluster.apiserver import ApiServer
from tests.cluster.resources import Raw

SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
PODS = "/api/v1/pods"
_PATIENCE_SEC = 20.0

WATCH_LIST = {
    "watch": "true",
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": "true",
}


class Reply(NamedTuple):
    """An answer that came in whole."""

    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def raw(self) -> Raw:
        """The body as JSON."""
        found: Raw = json.loads(self.body)
        return found

    @property
    def names(self) -> list[str]:
        """The names of a list's items, in its order."""
        return [item["metadata"]["name"] for item in self.raw["items"]]

    @property
    def version(self) -> str:
        """The list's version."""
        return str(self.raw["metadata"]["resourceVersion"])


class Plain:
    """Asks one server, with a connection for each request."""

    def __init__(
        self, server: ApiServer, token: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self._server = server
        self._token = token
        self._tls = tls

    def get(self, path: str, **query: str | int) -> Reply:
        """GET, read to its end."""
        with self._ask("GET", path, query) as answer:
            return Reply(answer.status, dict(answer.headers), answer.read())

    def send(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> Reply:
        """Any request; `body` becomes JSON of the content type `kind`."""
        text = None if body is None else json.dumps(body)
        with self._ask(method, path, {}, text, kind) as answer:
            return Reply(answer.status, dict(answer.headers), answer.read())

    @contextmanager
    def watch(self, path: str, **query: str | int) -> Iterator[Stream]:
        """A watch that is open for the length of the block."""
        with self._ask("GET", path, {"watch": "1", **query}) as answer:
            yield Stream(answer)

    @contextmanager
    def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, Any],
        body: str | None = None,
        kind: str = "",
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self.connect()
        try:
            headers = {"User-Agent": "plain/1"}
            if self._token:
                headers["Authorization"] = f"Bearer {self._token}"
            if kind:
                headers["Content-Type"] = kind
            connection.request(method, f"{path}?{urlencode(query)}", body, headers)
            answer = connection.getresponse()
            try:
                yield answer
            finally:
                answer.close()
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        """A connection that the caller closes."""
        parts = urlsplit(self._server.url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=_PATIENCE_SEC)
        tls = self._tls or ssl.create_default_context(cafile=self._server.ca)
        return http.client.HTTPSConnection(host, port, timeout=_PATIENCE_SEC, context=tls)


class Stream:
    """The events of one watch, as they come."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.answer = answer

    def line(self) -> bytes:
        """The next line as it is; empty at the end of the watch."""
        return self.answer.readline()

    def next(self) -> Raw:
        """The next event; EOFError when the watch ended."""
        line = self.line()
        if not line:
            raise EOFError
        event: Raw = json.loads(line)
        return event

    def take(self, count: int) -> list[tuple[str, str]]:
        """Type and name of the next events."""
        return [_short(self.next()) for _ in range(count)]

    def rest(self) -> list[Raw]:
        """All events to the end of the watch."""
        return [json.loads(line) for line in self.answer]


def _short(event: Raw) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"].get("name", "")
