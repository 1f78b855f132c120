"""A World with kpbpf on its node, servers in its places, and Services to be made at will.

client       a pod that only asks
a, b         pods with servers on the target port, both protocols
remote       the same, outside the node; narrow: the same behind a path MTU of 1400
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

from kpbpf.address import from_text
from tests.lab.agent import Backends, Kpbpf, until
from tests.lab.manifests import USUAL_PORTS, Endpoint, Ports, service, slices, write
from tests.lab.sockets import serve
from tests.lab.world import FAMILIES, IPV4, IPV6, Place, World


@dataclass
class LabService:
    """A Service that lives in one manifest file of the lab's daemon."""

    kpbpf: Kpbpf
    name: str
    addresses: dict[int, str]
    spec: dict[str, Any] = field(default_factory=dict)
    ports: Ports = USUAL_PORTS
    status: dict[str, Any] = field(default_factory=dict)
    _endpoints: list[Endpoint] = field(default_factory=list)

    @property
    def port(self) -> int:
        """The port that clients use."""
        return self.ports.port

    @property
    def path(self) -> Path:
        """The file that states this Service and its slices."""
        return self.kpbpf.manifests / f"{self.name}.yaml"

    def put(self, *backends: Place | Endpoint) -> None:
        """State these endpoints and wait until the kernel has them."""
        self.write([b if isinstance(b, Endpoint) else Endpoint(b) for b in backends])
        self.settle()

    def settle(self) -> None:
        """Wait until the kernel has the endpoints that were written last."""
        ready = [e.place for e in self._endpoints if e.ready]
        ending = [e.place for e in self._endpoints if e.serving and e.terminating]
        for family in FAMILIES:
            self.wait(family, {(p.addresses[family], self.ports.target) for p in ready or ending})

    def write(self, endpoints: list[Endpoint]) -> None:
        """Only write the file."""
        self._endpoints = endpoints
        write(
            self.path,
            service(self.name, self.addresses, self.ports, self.spec, self.status),
            *slices(self.name, endpoints, self.ports),
        )

    def wait(self, family: int, wanted: Backends | None) -> float:
        """Wait until the maps say so for every protocol; return seconds."""
        return until(
            lambda: all(self.backends(family, p) == wanted for p in self.ports.protocols),
            f"{self.name} has the backends {wanted} ",
        )

    def backends(self, family: int, protocol: str) -> Backends | None:
        """The backends in the maps now."""
        return self.kpbpf.backends(self.addresses[family], self.port, protocol)

    def packed_addresses(self) -> set[bytes]:
        """The cluster IPs as maps hold them."""
        return {from_text(address) for address in self.addresses.values()}

    def remove(self) -> None:
        """Take the file away and wait until the Service is gone."""
        self.path.unlink(missing_ok=True)
        for family in FAMILIES:
            self.wait(family, None)


class Lab:
    """See the module's head. A context manager; `environment` and `options` go to the daemon."""

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self.world = World()
        self.kpbpf = Kpbpf(self.world, directory, **environment)
        self.options = options
        self._names = count(1)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.world)
            self.client = self.world.add_pod("client")
            self.a = self.world.add_pod("a")
            self.b = self.world.add_pod("b")
            self.remote, self.narrow = self.world.remote, self.world.narrow
            for place in (self.a, self.b, self.remote, self.narrow):
                for protocol in USUAL_PORTS.protocols:
                    stack.enter_context(serve(place, USUAL_PORTS.target, protocol))
            stack.callback(self.kpbpf.close)
            self.kpbpf.start(*self.options)
            for pod in self.world.pods.values():
                self.kpbpf.attach(pod)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def service(
        self,
        *backends: Place | Endpoint,
        ports: Ports = USUAL_PORTS,
        **spec: Any,
    ) -> Iterator[LabService]:
        """A Service with fresh cluster IPs for the length of a test."""
        number = next(self._names)
        addresses = {IPV4: f"10.96.0.{number}", IPV6: f"fd96::{number:x}"}
        made = LabService(self.kpbpf, f"svc-{number}", addresses, spec, ports)
        try:
            made.put(*backends)
            yield made
        finally:
            made.path.unlink(missing_ok=True)
