"""Requests to the API server: which server, who we are, how often, and what went wrong.

Stands on the kubernetes package's client (its TLS, proxies, credentials), and speaks raw bytes
and JSON. What is asked for, and when to ask again, is not known here.
"""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError, ReadTimeoutError

from kpbpf import log
from kpbpf.kube import refusals
from kpbpf.kube.access import SERVICE_ACCOUNT, Access
from kpbpf.kube.backoff import Rate
from kpbpf.kube.connection import Connections
from kpbpf.kube.refusals import ApiDown, ApiError, ApiSilent, ApiUnreachable, Garbled
from kpbpf.settings.settings import Api
from kpbpf.status import own_version

CONNECT_TIMEOUT_SEC = 5.0
READ_TIMEOUT_SEC = 30.0

MAX_BODY_BYTES = 256 << 20
"""500 objects of the largest size that etcd takes would be more, but no sane cluster has them."""

MAX_REFUSAL_BYTES = 64 << 10

_CHUNK_BYTES = 256 << 10

_LOG = log.get(__name__)


class Reply:
    """The body of a successful answer, read as it comes. Used and closed in one thread."""

    def __init__(self, response: Any, server: str, connections: Connections) -> None:
        self._response = response
        self._connections = connections
        self.server = server
        self.opened = time.monotonic()
        """When the server's headers were here, of time.monotonic()."""

    def read(self) -> bytes:
        """What has come, b"" at the end; ApiDown when the connection broke or was silent."""
        try:
            data: bytes = self._response.read1(_CHUNK_BYTES)
        except ReadTimeoutError:
            raise ApiSilent(f"{self.server} has been silent for too long") from None
        except (HTTPError, OSError) as error:
            raise ApiDown(f"the connection to {self.server} broke: {_reason(error)}") from None
        return data

    def body(self, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """The whole body; Garbled when it is larger."""
        parts: list[bytes] = []
        size = 0
        while data := self.read():
            size += len(data)
            if size > max_bytes:
                raise Garbled(f"{self.server} sends more than {max_bytes:,} bytes")
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back if everything was read, else end it."""
        self._connections.forget()
        self._response.close()

    def __enter__(self) -> Reply:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Request(NamedTuple):
    method: str
    path: str
    target: str
    body: bytes | None
    headers: dict[str, str]
    read_timeout_sec: float


class Session:
    """A way to the API server, for many threads. `Session.open` makes one."""

    def __init__(self, access: Access, rate: Rate) -> None:
        self._access = access
        self._rate = rate
        self._servers = access.servers
        self._current = 0
        self._connections = Connections()
        self._closed = threading.Event()
        self._unreachable = False
        self.returns = 0
        """How often a server answered after none could be reached."""
        self._name = f"kpbpf/{own_version()}"
        # What it would say of a connection, an ApiError says too, once and with the server's name.
        logging.getLogger("urllib3").setLevel(logging.ERROR)

    @classmethod
    def open(cls, api: Api, service_account: Path = SERVICE_ACCOUNT) -> Session:
        """Find server and credentials, without a request; Fix when there are none."""
        return cls(Access(api, service_account), Rate(api.qps, api.burst))

    @property
    def server(self) -> str:
        """URL of the server that is in use."""
        return self._servers[self._current]

    def get(
        self,
        path: str,
        query: Mapping[str, str],
        read_timeout_sec: float = READ_TIMEOUT_SEC,
        follow_up: bool = False,
    ) -> Reply:
        """Ask for something, and read the answer as it comes; an ApiError when it is refused.

        `read_timeout_sec` bounds each silence, the one before the answer included. A
        `follow_up`, such as the next page of a list, does not count against the rate.
        """
        if not follow_up:
            self._closed.wait(self._rate.reserve())
        target = f"{path}?{urlencode(query)}" if query else path
        return self._ask(_Request("GET", path, target, None, {}, read_timeout_sec))

    def send(
        self, method: str, path: str, body: Any, content_type: str = "application/json"
    ) -> Any:
        """Send an object, and return the object that is answered; an ApiError when refused.

        Does not count against the rate: whoever sends has a limit of its own.
        """
        text, headers = json.dumps(body).encode(), {"Content-Type": content_type}
        with self._ask(_Request(method, path, path, text, headers, READ_TIMEOUT_SEC)) as reply:
            try:
                return json.loads(reply.body())
            except (ValueError, RecursionError):
                raise Garbled(f"{self.server} answers {method} {path} with no JSON") from None

    def wait_at_most(self, seconds: float) -> None:
        """From now on, a silence of so many seconds breaks this thread's request."""
        self._connections.wait_at_most(seconds)

    def cut(self, thread: int) -> None:
        """Break the request of a thread (threading.get_ident()), wherever it waits."""
        self._connections.cut(thread)

    def close(self) -> None:
        """Break all requests; there are no new ones."""
        self._closed.set()
        self._connections.cut_all()

    # ---- inside -------------------------------------------------------------------------

    def _ask(self, request: _Request) -> Reply:
        """Ask the current server, then the others; the last one's error when none answers."""
        error: ApiError | None = None
        for _ in self._servers:
            index = self._current
            try:
                reply = self._ask_one(self._servers[index], request)
            except (ApiDown, refusals.ApiFailing) as failed:
                error = failed
            else:
                if self._unreachable:
                    self._unreachable = False
                    self.returns += 1
                    _LOG.info("%s answers", reply.server)
                return reply
            if self._current == index:  # no other thread has gone on meanwhile
                self._current = (index + 1) % len(self._servers)
        assert error is not None, "there is at least one server"
        if isinstance(error, ApiUnreachable) and not self._unreachable:
            self._unreachable = True
            _LOG.warning("%s", error)
        raise error

    def _ask_one(self, server: str, request: _Request) -> Reply:
        """Ask one server; when it does not know us, once more with what the files say now."""
        client, who = self._access.client()
        response = self._request(client, server, request, who)
        if response.status == 401:
            self._reply(response, server).close()
            self._access.renew(who)
            client, who = self._access.client()
            response = self._request(client, server, request, who)
        reply = self._reply(response, server)
        if 200 <= response.status < 300:
            return reply
        with reply:
            try:
                body = reply.body(MAX_REFUSAL_BYTES)
            except ApiError:
                body = b""
        after = response.headers.get("Retry-After")
        raise refusals.of_answer(server, request.method, request.path, response.status, after, body)

    def _request(self, client: Any, server: str, request: _Request, who: dict[str, str]) -> Any:
        if self._closed.is_set():
            raise ApiDown(f"{server} is not asked any more: kpbpf stops")
        agent = {"Accept": "application/json", "User-Agent": self._name}
        try:
            return self._connections.through(client.rest_client.pool_manager).request(
                request.method,
                server + request.target,
                body=request.body,
                headers=agent | request.headers | who,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_SEC, read=request.read_timeout_sec),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except ReadTimeoutError:
            self._connections.forget()
            raise ApiSilent(f"{server} does not answer in time") from None
        except (HTTPError, OSError) as error:
            self._connections.forget()
            text = f"{server} cannot be reached: {_reason(error)}; {self._access.advice}"
            raise ApiUnreachable(text) from None

    def _reply(self, response: Any, server: str) -> Reply:
        return Reply(response, server, self._connections)


def _reason(error: BaseException) -> str:
    """The innermost reason of a failed connection, in words."""
    found: BaseException = error
    while isinstance(found, HTTPError) and (inner := found.__cause__ or found.__context__):
        found = inner
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"its certificate is not valid for us ({found.verify_message})"
    if isinstance(found, OSError) and found.strerror:
        return found.strerror
    return " ".join(str(found).split()) or type(found).__name__
