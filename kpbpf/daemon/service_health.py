"""healthCheckNodePort: tells load balancers whether this node has endpoints of a Service (A52).

For Services of type LoadBalancer with externalTrafficPolicy Local. Bytes and words are those of
kube-proxy (pkg/proxy/healthcheck/service_health.go, 1.36): load balancers, and people's scripts,
were written against them. Decides nothing about packets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kpbpf import log
from kpbpf.address import Address, to_text
from kpbpf.daemon.ports import ANY, CannotListen, Ports
from kpbpf.model.endpoint import READY, EndpointSlice
from kpbpf.model.event import Event
from kpbpf.model.objects import Key
from kpbpf.model.service import Service
from kpbpf.web import JSON, Answer

REASON, ACTION = "FailedToStartServiceHealthcheck", "Listen"
"""kube-proxy's words for a port that is taken."""

#: Of many ports that are taken, those that the log names at once.
_SHOWN = 3

_LOG = log.get(__name__)


class _Here(NamedTuple):
    """What of a slice is ready on this node."""

    path: str
    family: str
    addresses: frozenset[Address]


class ServiceHealth:
    """The health ports of one node's Services.

    Tell every change to `changed`; call `work` when the maps are written, for a load balancer must
    not be told of endpoints that are not there yet, and now and again for addresses that come.
    `addresses` says at which addresses NodePorts are served, None: at all (A32). `healthy` is
    called from another thread. All else comes from one thread.
    """

    def __init__(
        self,
        node: str,
        tell: Callable[[Event], None],
        healthy: Callable[[], bool],
        addresses: Callable[[], Iterable[Address] | None] = lambda: None,
    ) -> None:
        self._node = node
        self._tell = tell
        self._healthy = healthy
        self._addresses = addresses
        self._ports = Ports("service health")
        self._wanted: dict[str, int] = {}
        self._here: dict[Key, _Here] = {}
        self._slices: dict[str, set[Key]] = {}
        # What is open: at which port, and at which addresses.
        self._open: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._counts: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self._touched: set[str] = set()

    # ---- what changed -----------------------------------------------------------------------

    def changed(self, key: Key, model: object | None) -> None:
        """Take note of an object's new state (None: it is gone). Other kinds are no concern."""
        if key.kind == "Service":
            port = wanted_port(model) if isinstance(model, Service) else 0
            if port:
                self._wanted[key.path] = port
            else:
                self._wanted.pop(key.path, None)
            self._touched.add(key.path)
        elif key.kind == "EndpointSlice":
            self._slice_changed(key, model if isinstance(model, EndpointSlice) else None)

    def _slice_changed(self, key: Key, slice_: EndpointSlice | None) -> None:
        before = self._here.pop(key, None)
        if before:
            self._touched.add(before.path)
            self._slices[before.path].discard(key)
            if not self._slices[before.path]:
                del self._slices[before.path]
        addresses = ready_here(slice_, self._node) if slice_ else frozenset()
        # Of nearly all slices nothing is here.
        if slice_ and addresses:
            path = slice_.service_path
            self._here[key] = _Here(path, slice_.family, addresses)
            self._slices.setdefault(path, set()).add(key)
            self._touched.add(path)

    # ---- what follows from it ---------------------------------------------------------------

    def work(self) -> None:
        """Answer at the ports that are wanted now, with the counts of now; Retry: not at all."""
        for path in self._touched:
            self._counts[path] = self._count(path)
        self._touched.clear()
        for path in [path for path in self._counts if path not in self._wanted]:
            del self._counts[path]
        hosts = self._hosts()
        wanted = {path: (port, hosts) for path, port in self._wanted.items()}
        for path in [path for path, state in self._open.items() if wanted.get(path) != state]:
            self._ports.close(path)
            del self._open[path]
        for path in [path for path in self._failed if path not in wanted]:
            del self._failed[path]
        wrong = [why for path in sorted(wanted) if (why := self._listen(path, *wanted[path]))]
        if wrong:
            more = f" and {len(wrong) - _SHOWN:,} more" if len(wrong) > _SHOWN else ""
            raise CannotListen("; ".join(wrong[:_SHOWN]) + more)

    def close(self) -> None:
        """Answer no more."""
        self._ports.stop()

    def _hosts(self) -> tuple[str, ...]:
        found = self._addresses()
        return (ANY,) if found is None else tuple(sorted(map(to_text, found)))

    def _listen(self, path: str, port: int, hosts: tuple[str, ...]) -> str:
        """Answer for a Service; why that cannot be, or ""."""
        if path in self._open:
            return ""
        self._counts.setdefault(path, self._count(path))
        try:
            self._ports.open(path, hosts, port, lambda: self._answer(path))
        except CannotListen as error:
            note = f'node {self._node} failed to start healthcheck "{path}" on port {port}: {error}'
            if self._failed.get(path) != port:
                self._failed[path] = port
                regarding = Key("Service", *path.split("/"))
                self._tell(Event(regarding, REASON, ACTION, note, warning=True))
            return f"Service {path}: {error}"
        self._open[path] = port, hosts
        self._failed.pop(path, None)
        _LOG.debug("Service %s: health is told at port %d", path, port)
        return ""

    def _count(self, path: str) -> int:
        return local_endpoints(self._here[key] for key in self._slices.get(path, ()))

    def _answer(self, path: str) -> Answer:
        """Answer a probe; called in another thread."""
        return answer(path, self._counts.get(path, 0), self._healthy())


# ---- pure -----------------------------------------------------------------------------------


def wanted_port(service: Service) -> int:
    """The port at which load balancers ask for a Service; 0: they do not."""
    asked = service.type == "LoadBalancer" and service.external_local and service.served
    return service.health_check_port if asked else 0


def ready_here(slice_: EndpointSlice, node: str) -> frozenset[Address]:
    """Addresses of a slice that are ready on this node; terminating ones are not (A52)."""
    if not slice_.service or not slice_.ports:
        return frozenset()
    return frozenset(
        one.addr for one in slice_.endpoints if one.node == node and one.conditions & READY
    )


def local_endpoints(slices: Iterable[_Here]) -> int:
    """How many endpoints are here, by their addresses.

    kube-proxy counts one family. Of two families the larger count is told: a pod that has an
    address in each is one endpoint.
    """
    found: dict[str, set[Address]] = {}
    for one in slices:
        found.setdefault(one.family, set()).update(one.addresses)
    return max(map(len, found.values()), default=0)


def answer(path: str, count: int, healthy: bool) -> Answer:
    """Answer in kube-proxy's bytes: indented by tabs, and no newline at the end."""
    namespace, _, name = path.partition("/")
    body = (
        "{\n"
        '\t"service": {\n'
        f'\t\t"namespace": "{namespace}",\n'
        f'\t\t"name": "{name}"\n'
        "\t},\n"
        f'\t"localEndpoints": {count},\n'
        f'\t"serviceProxyHealthy": {"true" if healthy else "false"}\n'
        "}"
    )
    headers = (
        ("X-Content-Type-Options", "nosniff"),
        ("X-Load-Balancing-Endpoint-Weight", str(count)),
    )
    return Answer(200 if count and healthy else 503, body.encode(), JSON, headers)
