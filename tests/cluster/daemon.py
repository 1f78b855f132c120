"""A node in a cluster: a World, pods with servers, an API server that knows them, and kpbpf.

      the World of tests/lab/world.py                 127.0.0.1 of the node's namespace
    +-------------------------------------+           +-----------------------------------+
    |  pods client, a, b; a and b answer  |  <------  |  kpbpf, a process of its own      |
    |  on port 8080, TCP and UDP          |           |  TLS, a token, deploy/'s RBAC     |
    +-------------------------------------+           |  ApiServer, in the tests' process |
                                                      +-----------------------------------+

The API names the pods; nobody says `ep add`. What happens to the server is apiserver.py's.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from kpbpf.address import from_text
from kpbpf.datapath.attach import attachments
from maps.abi import EndpointKey
from tests.cluster.apiserver import ApiServer
from tests.cluster.behaviour import Behaviour
from tests.cluster.listener import listen_at
from tests.cluster.rbac import Rbac, service_account
from tests.cluster.resources import Raw, by_name
from tests.cluster.scratch import compiled, is_there
from tests.lab import manifests
from tests.lab.agent import ROOT, Kpbpf, until
from tests.lab.manifests import NODE_NAME, USUAL_PORTS, Endpoint, Ports
from tests.lab.sockets import serve
from tests.lab.world import FAMILIES, IPV4, IPV6, Place, World
from tests.unit.reading import member_lines, service_lines

TOKEN = "first-token"
USER = service_account("kube-system", "kpbpf")
RBAC = ROOT / "deploy" / "base" / "rbac.yaml"
HEALTH_PORT, METRICS_PORT = 10256, 10249
MAPS = ("frontends", "backends", "members", "endpoints", "names")
SOON_SEC = 20.0
KINDS = (
    *("services", "endpointslices", "servicecidrs", "networkpolicies"),
    *("namespaces", "pods", "nodes"),
    *("events", "events.events.k8s.io"),
)


class Page(NamedTuple):
    """An answer of one of the daemon's servers."""

    code: int
    text: str

    @property
    def raw(self) -> Any:
        """The text as JSON."""
        return json.loads(self.text)


class ApiKpbpf(Kpbpf):
    """kpbpf that is told by an API server. `access` are the arguments that lead there."""

    access: tuple[str, ...] = ()

    def sources(self) -> list[str]:
        """Return the arguments for that, in place of manifests."""
        return [*self.access, "--hostname-override", NODE_NAME]

    def log_text(self) -> str:
        """Return the whole log, of all daemons so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""


class Cluster:
    """See the module's head. A context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.world = World()
        self.kpbpf = ApiKpbpf(self.world, directory)
        self.rules: list[Raw] = list(yaml.safe_load_all(RBAC.read_text()))
        self.server = ApiServer(behaviour=Behaviour(fresh_wait_sec=0.05), listen=self.listen)
        self.base: list[Raw] = []
        self._usual = False
        self._stack = ExitStack()

    def listen(self, host: str, port: int) -> socket.socket:
        """A listening socket in the node's namespace."""
        with self.world.node.inside():
            return listen_at(host, port)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.world)
            self.client, self.a, self.b = (
                self.world.add_pod(name) for name in ("client", "a", "b")
            )
            for place in (self.a, self.b):
                for protocol in USUAL_PORTS.protocols:
                    stack.enter_context(serve(place, USUAL_PORTS.target, protocol))
            stack.enter_context(self.server)
            stack.callback(self.kpbpf.close)
            self._stack = stack.pop_all()
        self.base = [node(), *map(pod, (self.client, self.a, self.b))]
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def reset(self) -> None:
        """Server and objects as at the beginning; a daemon that runs may go on."""
        server = self.server
        server.faults.clear()
        server.resume_open()
        server.refuse()
        server.accept()
        server.behaviour = Behaviour(fresh_wait_sec=0.05)
        server.rbac = Rbac(self.rules)
        server.tokens.set({TOKEN: USER})
        known = {(raw["kind"], raw["metadata"]["name"]) for raw in self.base}
        for kind in KINDS:
            resource = by_name(kind)
            with server.store.changed:
                there = list(server.store.table(resource).objects)
            for name in there:
                if (resource.kind, name[1]) not in known:
                    server.store.remove(resource, name)
        server.store.bulk(self.base)
        server.requests.clear()
        config = server.kubeconfig(self.directory / "kubeconfig", token=TOKEN)
        self.kpbpf.access = ("--kubeconfig", str(config))

    # ---- the daemon -------------------------------------------------------------------------

    def start(self, *options: str, **environment: str) -> None:
        """Start the daemon, and wait until it is in sync."""
        self._usual = False
        self.kpbpf.start(*options, **environment)

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End the daemon; its exit code."""
        return self.kpbpf.stop(how)

    def have_usual(self) -> None:
        """Have a daemon without options of its own, started where none runs."""
        if not (self.runs and self._usual):
            self.have_none()
            self.start()
            self._usual = True
        self.converges()
        until(lambda: self.pods_attached(self.client, self.a, self.b), "pods attached", SOON_SEC)

    def have_none(self) -> None:
        """End the daemon if one runs."""
        self.kpbpf.close()
        self.kpbpf.daemon = None

    @property
    def runs(self) -> bool:
        """Whether the daemon lives."""
        daemon = self.kpbpf.daemon
        return daemon is not None and daemon.poll() is None

    def status(self) -> dict[str, Any]:
        """What the daemon last wrote about itself."""
        found: dict[str, Any] = json.loads(self.kpbpf.home.status_file.read_text())
        return found

    def page(self, path: str, port: int = METRICS_PORT) -> Page:
        """Ask one of the daemon's servers, from the node."""
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.sock = self.world.node.socket(IPV4, socket.SOCK_STREAM)
        try:
            connection.sock.connect(("127.0.0.1", port))
            connection.request("GET", path)
            answer = connection.getresponse()
            return Page(answer.status, answer.read().decode())
        finally:
            connection.close()

    def page_or_none(self, path: str, port: int = METRICS_PORT) -> Page | None:
        """The same; None when nobody listens."""
        try:
            return self.page(path, port)
        except OSError:
            return None

    def events(self) -> list[Raw]:
        """The Events that have arrived."""
        return self.server.store.objects(by_name("events.events.k8s.io"))

    def event(self, reason: str) -> Raw:
        """The Event with that reason, waited for."""
        until(lambda: bool(self._reasons(reason)), f"an Event {reason}", SOON_SEC)
        return self._reasons(reason)[0]

    def _reasons(self, reason: str) -> list[Raw]:
        return [raw for raw in self.events() if raw["reason"] == reason]

    def log_grows(self, words: str, before: str = "", timeout_sec: float = SOON_SEC) -> str:
        """Wait until the log says so, behind what it said `before`; all of the log behind that."""
        start = len(before)
        until(lambda: words in self.kpbpf.log_text()[start:], f"the log: {words}", timeout_sec)
        return self.kpbpf.log_text()[start:]

    # ---- maps -------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """The Service maps in words; [] when they changed while they were read."""
        with self.kpbpf.tables() as tables:
            try:
                return [*service_lines(tables), *member_lines(tables)]
            except AssertionError:
                return []

    def wanted(self) -> list[str]:
        """What they should say, compiled from nothing but the objects at the server."""
        tables = compiled(self.server.store, NODE_NAME)
        return [*service_lines(tables), *member_lines(tables)]

    def converges(self, timeout_sec: float = SOON_SEC) -> None:
        """Wait until the maps are what the server's objects make them."""
        wanted = self.wanted()
        try:
            until(lambda: self.lines() == wanted, "the maps are what the API says", timeout_sec)
        except AssertionError:
            assert self.lines() == wanted, self.kpbpf.log_tail()

    def entries(self) -> dict[str, dict[bytes, bytes]]:
        """Every entry of the maps that the daemon writes."""
        return self.kpbpf.entries(*MAPS)

    def pods_attached(self, *pods: Place) -> bool:
        """Whether all addresses of these pods are in the maps, and both programs in force."""
        keys = [EndpointKey(from_text(ip)) for one in pods for ip in one.addresses.values()]
        with self.kpbpf.tables() as tables:
            known = all(tables.endpoints.get(key) for key in keys)
        return known and all(map(self.in_force, pods))

    def in_force(self, pod: Place) -> bool:
        """Whether both programs run on the pod's host-side interface."""
        with self.world.node.inside():
            index = socket.if_nametoindex(pod.host_ifname)
            ours = [one for one in attachments(self.kpbpf.home) if one.ifindex == index]
        return [bool(one.program_id) for one in ours] == [True, True]

    # ---- objects ----------------------------------------------------------------------------

    @contextmanager
    def service(self, name: str, number: int, *places: Place) -> Iterator[ApiService]:
        """A Service for the length of the block, in the maps when the block begins."""
        made = ApiService(self, name, number)
        made.put(*places)
        self.converges()
        try:
            yield made
        finally:
            made.remove()


class ApiService:
    """A Service at the API server, with one slice for each family."""

    def __init__(self, cluster: Cluster, name: str, number: int) -> None:
        self._cluster = cluster
        self.name = name
        self.addresses = {IPV4: f"10.96.7.{number}", IPV6: f"fd96::7:{number:x}"}
        self.ports: Ports = USUAL_PORTS

    def put(self, *places: Place, **spec: Any) -> None:
        """State it, and these endpoints."""
        service = manifests.service(self.name, self.addresses, self.ports, spec)
        endpoints = [Endpoint(place) for place in places]
        self._cluster.server.store.bulk(
            [service, *manifests.slices(self.name, endpoints, self.ports)]
        )

    def remove(self) -> None:
        """Take it away, if it is there."""
        store = self._cluster.server.store
        slices = [("endpointslices", f"{self.name}-ipv{family}") for family in FAMILIES]
        for kind, name in (("services", self.name), *slices):
            if is_there(store, kind, name):
                store.remove(by_name(kind), ("default", name))

    def backends(self, family: int = IPV4, protocol: str = "TCP") -> set[str] | None:
        """Addresses of its backends in the maps now; None: it is not there."""
        address = self.addresses[family]
        found = self._cluster.kpbpf.backends(address, self.ports.port, protocol)
        return None if found is None else {address for address, _ in found}


def node(name: str = NODE_NAME, **spec: Any) -> Raw:
    """The daemon's own Node."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {}},
        "spec": spec,
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.1"}]},
    }


def name_of(place: Place) -> str:
    """The name of its Pod."""
    return place.name.removeprefix("pod-")


def pod(place: Place) -> Raw:
    """A pod of the World as the API has it."""
    ips = [place.addresses[family] for family in FAMILIES]
    name = name_of(place)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"nodeName": NODE_NAME, "containers": []},
        "status": {"phase": "Running", "podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]},
    }
