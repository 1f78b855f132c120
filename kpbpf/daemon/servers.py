"""The daemon's two servers: health for load balancers and the kubelet, metrics for operators.

An address that cannot be had is tried again, and an Event on the Node says so, unless
bindAddressHardFail makes it the end (SEMANTICS A53 to A55). What is answered is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from controllers.loop import Loop
from kpbpf import log
from kpbpf.errors import Fix, Retry
from kpbpf.model.event import Event
from kpbpf.model.objects import Key
from kpbpf.settings import Address
from kpbpf.web import Make, Server

HEALTH_REASON, METRICS_REASON = "FailedToStartProxierHealthcheck", "FailedToStartMetricServer"
"""kube-proxy's words (SEMANTICS A55)."""

_LOG = log.get(__name__)


class Wanted(NamedTuple):
    """A server to be started: its name for people, where, what it answers, whose failing it is."""

    name: str
    address: Address
    pages: Make
    reason: str


class Servers:
    """Starts servers from a loop, as long as it takes, and stops them when the stack unwinds."""

    def __init__(
        self, loop: Loop, node: Key, tell: Callable[[Event], None], hard_fail: bool
    ) -> None:
        self._loop = loop
        self._node = node
        self._tell = tell
        self._hard_fail = hard_fail
        self._stack = ExitStack()
        self._failed: set[str] = set()

    def want(self, wanted: Wanted) -> None:
        """Start a server: now, or as soon as its address is free; Fix where that must not be."""
        try:
            self._start(wanted)
        except Retry as error:
            if self._hard_fail:
                raise Fix(
                    f"the {wanted.name} cannot start",
                    str(error),
                    "free the address, choose another one, or leave bindAddressHardFail off",
                ) from None
            self._loop.add(wanted.name, lambda: self._start(wanted))

    def stop(self) -> None:
        """Stop all; the loop no longer runs."""
        self._stack.close()

    def _start(self, wanted: Wanted) -> None:
        try:
            server = Server.start(wanted.address, wanted.pages, wanted.name)
        except Retry as error:
            if wanted.name not in self._failed:
                self._failed.add(wanted.name)
                self._tell(Event(self._node, wanted.reason, "StartKubeProxy", str(error), True))
            raise
        self._stack.callback(server.stop)
        host = wanted.address.host or "0.0.0.0"
        _LOG.info("%s listens on %s port %d", wanted.name, host, server.port)
