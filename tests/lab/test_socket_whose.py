"""Whose sockets are served: the node's own, those of pods where it is asked for, nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kpbpf.datapath import cgroup, cgroup_root
from maps.abi import ConfigFlag, FrontendFlag, Verdict
from tests.lab.host import NODE_PORT, VIP, Host, Udp, ask_tcp, own_cgroup, reach, silent

# ---- whose sockets --------------------------------------------------------------------------


def test_sockets_of_pods_are_left_alone(host: Host, family: int) -> None:
    host.serve(VIP[family], [host.a])
    assert reach(host.node, VIP[family]) == "a"
    counted = host.counted(Verdict.PASS_DIRECT), host.counted(Verdict.PASS_TO_BACKEND)
    assert silent(host.client, VIP[family])
    assert (host.counted(Verdict.PASS_DIRECT), host.counted(Verdict.PASS_TO_BACKEND)) == counted


@pytest.mark.parametrize("why", ["off", "not ready", "no namespace", "handed over"])
def test_nothing_is_touched_where_it_is_not_wanted(host: Host, family: int, why: str) -> None:
    host.serve(VIP[family], [host.a])
    host.serve(VIP[family], [host.a], protocol="UDP")
    with Udp(host.node, family) as udp:
        assert udp.ask(VIP[family])[0] == "a"
        match why:
            case "off":
                host.configure(without=ConfigFlag.SOCKET_HOST)
            case "not ready":
                host.configure(without=ConfigFlag.READY)
            case "no namespace":
                host.configure(node_netns=0)
            case "handed over":
                host.configure(ConfigFlag.HAND_OVER)
                assert udp.ask(VIP[family])[0] == "a", "what was known goes on"
    assert silent(host.node, VIP[family])


def test_two_kpbpf_at_one_cgroup_serve_their_own_nodes_only(
    host: Host, family: int, tmp_path: Path
) -> None:
    with Host(tmp_path) as other:
        host.serve(VIP[family], [host.a])
        other.serve(VIP[family], [other.b])
        assert reach(host.node, VIP[family]) == "a"
        assert reach(other.node, VIP[family]) == "b"
        host.serve(VIP[family], [])
        assert reach(host.node, VIP[family]) == "ConnectionRefusedError"
        assert reach(other.node, VIP[family]) == "b"
    assert reach(host.node, VIP[family]) == "ConnectionRefusedError"


# ---- --socket-lb=all --------------------------------------------------------------------------

PODS = ConfigFlag.SOCKET_PODS
DETECT = ConfigFlag.DETECT_LOCAL
LOCAL = FrontendFlag.EXTERNAL | FrontendFlag.EXTERNAL_LOCAL


@pytest.fixture
def pods(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """The host with programs for every namespace's sockets, in a cgroup of the test's own."""
    with own_cgroup() as mine:
        monkeypatch.setenv(cgroup_root.CHOSEN, str(mine))
        cgroup.attach(host.home, host.pins, "all")
        host.configure(PODS)
        yield host
        cgroup.detach(host.home)


def test_a_pod_reaches_a_service(pods: Host, family: int) -> None:
    pods.serve(VIP[family], [pods.a])
    pods.serve(VIP[family], [pods.a], protocol="UDP")
    answer, peer = ask_tcp(pods.client, VIP[family])
    assert (answer.server, answer.client) == ("a", pods.client.addresses[family])
    assert peer == (VIP[family], 80)
    with Udp(pods.client, family) as udp:
        assert udp.ask(VIP[family]) == ("a", (VIP[family], 80))
        udp.sock.connect((VIP[family], 80))
        assert udp.ask_peer() == ("a", (VIP[family], 80))
    assert reach(pods.node, VIP[family]) == "a"


def test_a_pod_reaches_itself_through_its_service(pods: Host, family: int) -> None:
    pods.serve(VIP[family], [pods.a])
    assert reach(pods.a, VIP[family]) == "a"


def test_a_pod_reaches_a_node_port_at_the_node_and_not_at_its_own_loopback(pods: Host) -> None:
    pods.node_port([pods.a], NODE_PORT)
    for front in pods.node.addresses.values():
        assert reach(pods.client, front, NODE_PORT) == "a"
    for front in ("127.0.0.1", "0.0.0.0", "::1", "::"):
        assert reach(pods.client, front, NODE_PORT) == "ConnectionRefusedError"
    assert reach(pods.node, "127.0.0.1", NODE_PORT) == "a"


def test_a_pod_is_refused_at_once_where_there_is_no_endpoint(pods: Host, family: int) -> None:
    pods.serve(VIP[family], [])
    assert reach(pods.client, VIP[family]) == "ConnectionRefusedError"


@pytest.mark.parametrize(
    ("flags", "affinity_sec", "more"),
    [
        (0, 60, PODS),
        (0, 0, PODS | ConfigFlag.MASQUERADE_ALL),
        (FrontendFlag.EXTERNAL | FrontendFlag.SOURCE_RANGES, 0, PODS),
        (LOCAL, 0, PODS),
        (LOCAL, 0, PODS | DETECT | ConfigFlag.DETECT_BY_RANGE),
    ],
    ids=["affinity", "masqueradeAll", "source ranges", "no detect-local", "local by range"],
)
def test_what_a_pods_address_decides_is_left_to_the_programs_on_packets(
    pods: Host, family: int, flags: int, affinity_sec: int, more: ConfigFlag
) -> None:
    pods.serve(VIP[family], [pods.a], flags=flags, affinity_sec=affinity_sec)
    pods.configure(more)
    before = pods.counted(Verdict.PASS_UNTRACKED)
    assert silent(pods.client, VIP[family])
    assert pods.counted(Verdict.PASS_UNTRACKED) == before + 1


def test_a_pod_goes_past_external_traffic_policy_local(pods: Host, family: int) -> None:
    """A28, where it is known which clients are pods of this node."""
    pods.serve(VIP[family], [pods.a], local=[pods.b], flags=LOCAL)
    pods.configure(PODS, DETECT)
    assert {reach(pods.client, VIP[family]) for _ in range(8)} == {"a"}


def test_a_pods_socket_hears_that_its_backend_left(pods: Host, family: int) -> None:
    service = pods.serve(VIP[family], [pods.a], protocol="UDP")
    with Udp(pods.client, family) as udp, Udp(pods.client, family) as free:
        udp.sock.connect((VIP[family], 80))
        assert udp.ask_peer()[0] == free.ask(VIP[family])[0] == "a"
        pods.serve(VIP[family], [pods.b], protocol="UDP", service=service)
        pods.backends_left()
        with pytest.raises(ConnectionAbortedError):
            udp.sock.recv(10)
        assert free.ask(VIP[family]) == ("b", (VIP[family], 80))
