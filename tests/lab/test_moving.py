"""A node moves from kube-proxy's iptables rules to kpbpf and back, with traffic running.

The rules are those that kube-proxy would have (kubeproxy_rules.py), the steps those of
docs/moving.md. Pods, the node itself and a client outside open connections all the time and keep
some; nothing new may be refused, and what lives may not end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from maps import config
from maps.abi import ConfigFlag, State
from tests.lab import iptables, kubeproxy_rules
from tests.lab.agent import Kpbpf, until
from tests.lab.iptables import MAKES
from tests.lab.kubeproxy_rules import Served
from tests.lab.manifests import Endpoint, Ports, service, slices, write
from tests.lab.sockets import Connection, ask_tcp, ask_udp, serve
from tests.lab.traffic import Lasting, Route, Traffic, open_each
from tests.lab.world import FAMILIES, IPV4, IPV6, Place, World

PORTS = Ports(80, 8080, ("TCP", "UDP"), 30080)
ADDRESSES = {IPV4: "10.96.0.1", IPV6: "fd96::1"}

FIREWALL = {
    "filter": [
        "-A FORWARD -j NODE-FIREWALL",
        "-A NODE-FIREWALL -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ]
}
"""Of the node, as most have one. The kernel tracks connections while any rule asks it to."""


class Moving:
    """A node with pods and one Service, of which kube-proxy's rules and kpbpf may know."""

    def __init__(self, directory: Path) -> None:
        self.world = World()
        self.kpbpf = Kpbpf(self.world, directory)
        self._stack = ExitStack()

    def __enter__(self) -> Moving:
        with ExitStack() as stack:
            stack.enter_context(self.world)
            self.client, self.a, self.b = (
                self.world.add_pod(name) for name in ("client", "a", "b")
            )
            self.outside, self.remote = self.world.router, self.world.remote
            for place in (self.a, self.b, self.remote):
                for protocol in PORTS.protocols:
                    stack.enter_context(serve(place, PORTS.target, protocol))
            for family in FAMILIES:
                iptables.put(self.world.node, family, FIREWALL)
            stack.callback(self.kpbpf.close)
            self._stack = stack.pop_all()
        self.backends = (self.a, self.remote)
        self.served = Served("web", ADDRESSES, self.backends, PORTS)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # ---- the steps ------------------------------------------------------------------------

    def kube_proxy_writes(self, make: str = "legacy") -> None:
        kubeproxy_rules.write(self.world.node, self.served, make=make)

    def kube_proxy_cleans_up(self, make: str = "legacy") -> None:
        kubeproxy_rules.remove(self.world.node, self.served, make=make)

    def kpbpf_comes(self) -> None:
        """The daemon starts, finds the Service, and the pods are attached one by one."""
        endpoints = [Endpoint(place) for place in self.backends]
        write(
            self.kpbpf.manifests / "web.yaml",
            service("web", ADDRESSES, PORTS, {"type": "NodePort"}),
            *slices("web", endpoints, PORTS),
        )
        self.kpbpf.start()
        for pod in self.world.pods.values():
            self.kpbpf.attach(pod)

    def kpbpf_hands_over(self) -> str:
        """The daemon ends, and new connections are kube-proxy's."""
        self.kpbpf.stop()
        return self.kpbpf.ask("cleanup", "--keep-connections", "--yes")

    # ---- who asks -------------------------------------------------------------------------

    def routes(self) -> Iterator[Route]:
        """Pods, the node and a client outside, by cluster IP and NodePort, both families."""
        node = self.world.node
        for family in FAMILIES:
            for protocol in PORTS.protocols:
                for place in (self.client, self.a, node):
                    yield Route(place, ADDRESSES[family], PORTS.port, protocol)
                for place in (self.client, node, self.outside):
                    yield Route(place, node.addresses[family], PORTS.node_port, protocol)

    def traffic(self) -> Traffic:
        """All of them in a loop, and of each over TCP long connections to each backend."""
        routes = list(self.routes())
        lasting = [route for route in routes if route.protocol == "TCP" and route.place != self.a]
        return Traffic(routes, lasting, {place.name for place in self.backends})

    def flags(self) -> ConfigFlag:
        """The flags of the programs' configuration."""
        with self.kpbpf.tables() as tables:
            return ConfigFlag(config.read(tables).flags)


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[Moving]:
    with Moving(tmp_path) as made:
        yield made


@pytest.mark.parametrize("make", MAKES)
def test_there_and_back_with_traffic_running(moving: Moving, make: str) -> None:
    moving.kube_proxy_writes(make)
    with moving.traffic() as traffic:
        traffic.goes_on()
        moving.kpbpf_comes()
        traffic.goes_on()
        moving.kube_proxy_cleans_up(make)
        traffic.goes_on(30)
    assert not traffic.faults, "\n".join(traffic.faults)
    with moving.traffic() as traffic:
        traffic.goes_on()
        moving.kube_proxy_writes(make)
        traffic.goes_on()
        said = moving.kpbpf_hands_over()
        assert "connections through Services are left" in said
        traffic.goes_on(30)
        # What kpbpf translates has to end before its programs go.
        ends_with_the_programs = traffic.lasting
        for one in ends_with_the_programs:
            assert not one.fault
            one.__exit__()
        traffic.lasting = []
        moving.kpbpf.ask("cleanup", "--yes")
        traffic.goes_on(30)
    assert not traffic.faults, "\n".join(traffic.faults)


def test_what_kpbpf_opened_lives_on_beside_what_kube_proxy_opens(moving: Moving) -> None:
    moving.kpbpf_comes()
    servers = {place.name for place in moving.backends}
    with ExitStack() as stack:
        old = [
            stack.enter_context(one)
            for family in FAMILIES
            for one in open_each(Route(moving.client, ADDRESSES[family], PORTS.port), servers)
        ]
        moving.served = moving.served._replace(endpoints=(moving.b,))
        moving.kube_proxy_writes()
        assert ask_tcp(moving.client, ADDRESSES[IPV4], 80).server in servers
        assert not moving.flags() & ConfigFlag.HAND_OVER
        moving.kpbpf_hands_over()
        assert moving.flags() & ConfigFlag.HAND_OVER
        for place in (moving.client, moving.a, moving.world.node):
            for family in FAMILIES:
                assert ask_tcp(place, ADDRESSES[family], 80).server == moving.b.name
                assert ask_udp(place, ADDRESSES[family], 80).server == moving.b.name
        node = moving.world.node.addresses
        for family in FAMILIES:
            assert ask_tcp(moving.outside, node[family], PORTS.node_port).server == moving.b.name
            assert ask_udp(moving.outside, node[family], PORTS.node_port).server == moving.b.name
        _answered(old)


def _answered(connections: list[Lasting]) -> None:
    goals = {one: one.answered + 1 for one in connections}
    until(
        lambda: all(one.fault or one.answered >= goal for one, goal in goals.items()),
        "each is answered again",
        30,
    )
    assert not [one.fault for one in connections if one.fault]


def test_a_daemon_that_starts_takes_the_node_back(moving: Moving) -> None:
    moving.kpbpf_comes()
    moving.served = moving.served._replace(endpoints=(moving.b,))
    moving.kube_proxy_writes()
    moving.kpbpf_hands_over()
    assert ask_tcp(moving.client, ADDRESSES[IPV4], 80).server == moving.b.name
    assert "as before" in moving.kpbpf.ask("cleanup", "--keep-connections", "--yes")
    moving.kpbpf.start()
    until(lambda: not moving.flags() & ConfigFlag.HAND_OVER, "the flag is taken back")
    assert ask_tcp(moving.client, ADDRESSES[IPV4], 80).server != moving.b.name


def test_connections_that_are_left_are_counted_and_waited_for(moving: Moving) -> None:
    moving.kpbpf_comes()
    with ExitStack() as stack:
        for _ in range(3):
            opened = stack.enter_context(Connection(moving.client, ADDRESSES[IPV4], 80))
            assert opened.who().server in ("pod-a", "remote")
        refusal = moving.kpbpf.cli("cleanup", "--keep-connections", "--yes")
        assert refusal.returncode == 1
        assert "the daemon runs, as process" in refusal.stderr
        said = moving.kpbpf_hands_over()
        assert "3 connections through Services are left" in said
        _shorten(moving.kpbpf, 3)
        waited = moving.kpbpf.cli("cleanup", "--keep-connections", "--yes", "--wait", "2")
        assert waited.returncode == 1
        assert "3 connections through Services are left; " in waited.stderr
        assert "3 connections through Services are left\n" in waited.stdout
    waited = moving.kpbpf.cli("cleanup", "--keep-connections", "--yes", "--wait", "60")
    assert waited.returncode == 0, waited.stdout
    assert "none is left: `kpbpf cleanup` takes the programs off" in waited.stdout


def _shorten(kpbpf: Kpbpf, seconds: int) -> None:
    """Have connections that ended forgotten after so long."""
    with kpbpf.tables() as tables:
        now = config.read(tables)
        timeouts = list(now.timeout_sec)
        timeouts[State.TCP_CLOSING] = seconds
        config.write(tables, now._replace(timeout_sec=tuple(timeouts)))


def test_cleanup_takes_off_what_serves_node_and_wire(moving: Moving) -> None:
    moving.kpbpf_comes()
    assert moving.kpbpf.rows("prog", "ls")
    moving.kpbpf.stop()
    moving.kpbpf.ask("cleanup", "--yes")
    assert not moving.kpbpf.home.pins.exists()
    assert not moving.kpbpf.home.run.exists()
    for place, name in ((moving.world.node, "uplink"), (moving.world.node, "veth-a")):
        assert not _programs(place, name)


def _programs(place: Place, ifname: str) -> str:
    """Filters of tc and tcx at an interface; "" for none."""
    shown = [place.run("tc", "filter", "show", "dev", ifname, way) for way in ("ingress", "egress")]
    return "".join(shown).strip()
