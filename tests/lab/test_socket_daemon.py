"""Socket load balancing as the daemon runs it: nothing asked, and off."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kpbpf.datapath import cgroup
from tests.lab.agent import until
from tests.lab.host import Udp, reach
from tests.lab.lab import Lab


def test_processes_of_the_node_reach_a_service_by_socket(lab: Lab, family: int) -> None:
    with lab.service(lab.a) as service:
        front = service.addresses[family]
        assert reach(lab.world.node, front) == "pod-a"
        with Udp(lab.world.node, family) as udp:
            assert udp.ask(front) == ("pod-a", (front, 80))
    assert not cgroup.state(lab.kpbpf.home)["missing"]


def test_udp_sockets_of_the_node_follow_the_endpoints(lab: Lab, family: int) -> None:
    with lab.service(lab.a) as service:
        front = service.addresses[family]
        with Udp(lab.world.node, family) as free, Udp(lab.world.node, family) as connected:
            connected.sock.connect((front, 80))
            assert free.ask(front)[0] == connected.ask_peer()[0] == "pod-a"
            service.put(lab.b)
            until(lambda: free.ask(front)[0] == "pod-b", "the next datagram goes to b")
            with pytest.raises(ConnectionAbortedError):
                connected.sock.recv(10)


def test_switched_off_no_program_is_attached(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab("--socket-lb=off")
    state = cgroup.state(lab.kpbpf.home)
    assert (state["attached"], state["why"]) == ({}, "")
