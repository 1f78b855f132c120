"""The Nodes of nodes.py with a kpbpf on each, servers everywhere, and Services of every kind.

Every pod, every node and both places outside have servers on the target port, both protocols;
they are called like the place. All daemons read the same directory: Services, slices and the
Node objects, each of which has the first addresses of its node. node-1 and node-2 are in the
zone "east", node-3 in "west".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, Self

from kpbpf.address import from_text, to_text
from maps.abi import BackendKey, FrontendKey
from tests.lab.agent import PROTOCOLS, START_SEC, Backends, Kpbpf, until
from tests.lab.lab import LabService
from tests.lab.manifests import USUAL_PORTS, Endpoint, Ports, node, write
from tests.lab.nodes import Node, Nodes
from tests.lab.sockets import Seen, serve
from tests.lab.world import FAMILIES, IPV4, IPV6, Place

ZONES = {1: "east", 2: "east", 3: "west"}
ANY = {IPV4: "0.0.0.0", IPV6: "::"}

CLUSTER_IP, NODE_PORT, BALANCER, EXTERNAL_IP = "ClusterIP", "NodePort", "LoadBalancer", "ExternalIP"
EVERY_KIND = (CLUSTER_IP, NODE_PORT, BALANCER, EXTERNAL_IP)
EXTERNAL_KINDS = EVERY_KIND[1:]

Shape = Callable[[Nodes, ExitStack], object]
"""What makes other wires between the nodes, before the daemons start."""


class NodeKpbpf(Kpbpf):
    """kpbpf on one of the nodes; the manifests are those of all."""

    def __init__(self, node: Node, directory: Path, **environment: str) -> None:
        super().__init__(node, directory / node.name, **environment)
        self.node_name = node.name
        self.manifests = directory / "manifests"
        self.manifests.mkdir(exist_ok=True)


MakeFleet = Callable[..., AbstractContextManager["Fleet"]]
"""What conftest.py's fixture `make_fleet` is."""


@dataclass
class FleetService(LabService):
    """A Service that lives in one file, read by the daemons of all nodes."""

    others: list[Kpbpf] = field(default_factory=list)
    kinds: tuple[str, ...] = EVERY_KIND
    external: dict[int, str] = field(default_factory=dict)
    balancer: dict[int, str] = field(default_factory=dict)

    def at(self, kind: str, family: int, node: Place | None = None) -> tuple[str, int]:
        """Address and port of one of its frontends; NodePorts are those of `node`."""
        if kind == NODE_PORT:
            return (node.addresses if node else ANY)[family], self.ports.node_port
        of_kind = {CLUSTER_IP: self.addresses, BALANCER: self.balancer, EXTERNAL_IP: self.external}
        return of_kind[kind][family], self.port

    def wait(self, family: int, wanted: Backends | None) -> float:
        """Wait until every daemon has it so, for every frontend and protocol; return seconds."""
        return until(
            lambda: all(self.sets(kpbpf, family) == {_frozen(wanted)} for kpbpf in self.others),
            f"{self.name} has the backends {wanted}",
            START_SEC,
        )

    def sets(self, kpbpf: Kpbpf, family: int) -> set[frozenset[tuple[str, int]] | None]:
        """The backends that its frontends of a family have on a node now."""
        found: set[frozenset[tuple[str, int]] | None] = set()
        with kpbpf.tables() as tables:
            for kind in self.kinds:
                address, port = self.at(kind, family)
                for protocol in self.ports.protocols:
                    key = FrontendKey(from_text(address), port, PROTOCOLS[protocol])
                    if (frontend := tables.frontends.get(key)) is None:
                        found.add(None)
                        continue
                    keys = (BackendKey(frontend.base, slot) for slot in range(frontend.count))
                    backends = filter(None, map(tables.backends.get, keys))
                    found.add(frozenset((to_text(one.addr), one.port) for one in backends))
        return found


def _frozen(backends: Backends | None) -> frozenset[tuple[str, int]] | None:
    return None if backends is None else frozenset(backends)


class Fleet:
    """See the module's head. A context manager; `options` and `environment` go to the daemons.

    `daemons` names the nodes that have one; `shape` makes other wires first. `seen` tells, by
    the name of a place, what its UDP servers have received.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        daemons: tuple[int, ...] = (1, 2, 3),
        shape: Shape | None = None,
        **environment: str,
    ) -> None:
        self.nodes = Nodes()
        self.options = options
        self.kpbpfs = {
            number: NodeKpbpf(self.nodes.nodes[number], directory, **environment)
            for number in daemons
        }
        self.seen: Mapping[str, Seen] = {}
        self._shape = shape
        self._numbers = count(1)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.nodes)
            if self._shape:
                self._shape(self.nodes, stack)
            self._serve(stack)
            self.write_nodes()
            for kpbpf in self.kpbpfs.values():
                stack.callback(kpbpf.close)
                kpbpf.launch(*self.options)
            for kpbpf in self.kpbpfs.values():
                until(
                    kpbpf.is_ready,
                    f"the daemon of {kpbpf.node_name} is ready",
                    START_SEC * (1 + len(self.kpbpfs)),
                )
            with ThreadPoolExecutor(len(self.kpbpfs)) as pool:
                list(pool.map(self._attach_pods, self.kpbpfs))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def configured(self, *options: str, number: int = 1) -> Iterator[None]:
        """Have another configuration of one node's daemon for the block; programs stay."""
        kpbpf = self.kpbpfs[number]
        kpbpf.stop()
        try:
            kpbpf.start(*options)
            yield
        finally:
            if kpbpf.daemon is not None:
                kpbpf.stop()
            kpbpf.start(*self.options)

    def _serve(self, stack: ExitStack) -> None:
        nodes = (node.node for node in self.nodes.nodes.values())
        outside = (self.nodes.outside, self.nodes.stranger)
        seen = {}
        for place in chain(self.nodes.pods.values(), nodes, outside):
            stack.enter_context(serve(place, USUAL_PORTS.target, "TCP"))
            seen[place.name] = stack.enter_context(serve(place, USUAL_PORTS.target, "UDP"))
        self.seen = seen

    def _attach_pods(self, number: int) -> None:
        for pod in self.nodes.nodes[number].pods.values():
            self.kpbpfs[number].attach(pod)

    def write_nodes(self, **addresses: dict[int, str]) -> None:
        """State the Node objects; `addresses` are those of one that has others now, by name."""
        manifests = [
            node(
                one.name,
                list(addresses.get(one.name.replace("-", "_"), one.node.addresses).values()),
                list(one.pod_cidr.values()),
                {"topology.kubernetes.io/zone": ZONES[number]},
            )
            for number, one in self.nodes.nodes.items()
        ]
        write(next(iter(self.kpbpfs.values())).manifests / "nodes.yaml", *manifests)

    def place(self, name: str) -> Place:
        """A pod, a node, `outside` or `stranger`."""
        if name in self.nodes.pods:
            return self.nodes.pods[name]
        if name.startswith("node-"):
            return self.nodes.nodes[int(name[5:])].node
        return {"outside": self.nodes.outside, "stranger": self.nodes.stranger}[name]

    def places(self, *names: str) -> list[Place]:
        """Several of them."""
        return [self.place(name) for name in names]

    @contextmanager
    def service(
        self,
        *backends: str | Endpoint,
        ports: Ports = USUAL_PORTS,
        kinds: tuple[str, ...] = EVERY_KIND,
        ip_mode: str = "",
        **spec: Any,
    ) -> Iterator[FleetService]:
        """A Service with addresses of its own, of all these kinds, for the length of a test.

        `backends` are names of places, or Endpoints.
        """
        made = self.prepare(ports=ports, kinds=kinds, ip_mode=ip_mode, **spec)
        try:
            made.put(*(b if isinstance(b, Endpoint) else self.place(b) for b in backends))
            yield made
        finally:
            made.path.unlink(missing_ok=True)

    def prepare(
        self,
        *,
        ports: Ports = USUAL_PORTS,
        kinds: tuple[str, ...] = EVERY_KIND,
        ip_mode: str = "",
        **spec: Any,
    ) -> FleetService:
        """Think of a Service without writing it."""
        n = next(self._numbers)
        high, low = divmod(n, 250)
        balancer = {IPV4: f"192.0.2.{low + 1}", IPV6: f"fd02::{n:x}"}
        external = {IPV4: f"198.51.100.{low + 1}", IPV6: f"fd05::{n:x}"}
        status = {"loadBalancer": {"ingress": _ingress(balancer, ip_mode)}}
        if EXTERNAL_IP in kinds:
            spec.setdefault("externalIPs", list(external.values()))
        if NODE_PORT in kinds:
            ports = ports._replace(node_port=30000 + n)
        default = BALANCER if BALANCER in kinds else NODE_PORT if NODE_PORT in kinds else CLUSTER_IP
        shown = tuple(kind for kind in kinds if not (kind == BALANCER and ip_mode == "Proxy"))
        return FleetService(
            next(iter(self.kpbpfs.values())),
            f"svc-{n}",
            {IPV4: f"10.96.{high}.{low + 1}", IPV6: f"fd96::{n:x}"},
            {"type": default, **spec},
            ports,
            status if BALANCER in kinds else {},
            others=list(self.kpbpfs.values()),
            kinds=shown,
            external=external,
            balancer=balancer,
        )


def _ingress(balancer: dict[int, str], ip_mode: str) -> list[dict[str, str]]:
    more = {"ipMode": ip_mode} if ip_mode else {}
    return [{"ip": balancer[family], **more} for family in FAMILIES]
