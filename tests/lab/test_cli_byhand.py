"""A node without a cluster, by hand: every command a person would type, and what it does."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.agent import Kpbpf, until
from tests.lab.sockets import ask_tcp, ask_udp, serve
from tests.lab.world import IPV4, IPV6, Place, World

TARGET_PORT = 8080
VIP = {IPV4: "10.96.7.1", IPV6: "fd96:7::1"}


def end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Hand:
    """A World with two pods, a server in one of them, and no daemon."""

    def __init__(self, world: World, directory: Path) -> None:
        self.kpbpf = Kpbpf(world, directory)
        self.client = world.add_pod("client")
        self.server = world.add_pod("server")
        self.ask = self.kpbpf.ask

    def attach(self) -> None:
        """Have both pods attached; they stay so from test to test."""
        if not self.kpbpf.home.pins.exists() or len(self.kpbpf.rows("ep", "ls")) < 2:
            self.add_endpoints()

    def add_endpoints(self) -> None:
        for pod in (self.client, self.server):
            self.ask("ep", "add", "--ifname=eth0", f"--netns={pod.netns}")

    def clear(self) -> None:
        """Back to the start: no daemon, no Service, nothing remembered."""
        self.kpbpf.close()
        self.kpbpf.environment.pop("KPBPF_ATTACH", None)
        if not self.kpbpf.home.pins.exists():
            return
        for service in self.kpbpf.rows("svc", "ls"):
            self.ask("svc", "rm", service["name"].rpartition("/")[0])
        with self.kpbpf.tables() as tables:
            for table in (tables.flows, tables.drops, tables.affinities):
                table.delete_many_raw([key for key, _ in table.items_raw()])

    def serve_at(self, family: int, *more: str) -> str:
        """`svc add`: port 80 of the address of that family leads to the server."""
        backend = end(self.server.addresses[family], TARGET_PORT)
        frontend = end(VIP[family], 80)
        return self.ask("svc", "add", f"--service={frontend}", f"--backend={backend}", *more)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """One node for all tests here: its programs are compiled once."""
    with World() as world:
        made = Hand(world, tmp_path_factory.mktemp("by-hand"))
        with serve(made.server, TARGET_PORT, "TCP"), serve(made.server, TARGET_PORT, "UDP"):
            try:
                yield made
            finally:
                made.kpbpf.close()


@pytest.fixture
def hand(node: Hand) -> Iterator[Hand]:
    """The node without daemon and Services."""
    try:
        yield node
    finally:
        node.clear()


@pytest.fixture(params=[False, True], ids=["no daemon", "daemon"])
def served(hand: Hand, request: pytest.FixtureRequest) -> Hand:
    """The same with pods attached, without and with a daemon."""
    if request.param:
        hand.kpbpf.start()
    hand.attach()
    return hand


def reached(place: Place, family: int) -> bool:
    try:
        return ask_tcp(place, VIP[family], 80).server == "pod-server"
    except OSError:
        return False


def test_a_service_lives_from_add_to_rm(served: Hand, family: int) -> None:
    assert not reached(served.client, family)
    assert "added" in served.serve_at(family, "--name=default/web")
    assert reached(served.client, family)
    assert "changed" in served.serve_at(family, "--name=default/web", "--affinity")
    (service,) = json.loads(served.ask("svc", "get", "default/web", "-o", "json"))
    known = "ClusterIP" if served.kpbpf.daemon else None  # the maps hold no types
    assert (service["type"], service["affinity_sec"]) == (known, 10800)
    assert service["notes"] == []
    (row,) = service["frontends"]
    assert row["backends"] == [end(served.server.addresses[family], TARGET_PORT)]
    served.ask("svc", "rm", end(VIP[family], 80))
    assert not reached(served.client, family)
    assert served.kpbpf.rows("svc", "ls") == []
    assert served.kpbpf.cli("svc", "get", "default/web").returncode == 1


def test_a_udp_service_without_a_name(served: Hand, family: int) -> None:
    served.serve_at(family, "--protocol", "udp")
    assert ask_udp(served.client, VIP[family], 80).server == "pod-server"
    (row,) = served.kpbpf.rows("svc", "ls")
    assert row["name"].startswith("by-hand/svc-")


def test_of_two_services_at_one_port_the_protocol_tells_which_goes(served: Hand) -> None:
    for proto in ("tcp", "udp"):
        served.serve_at(IPV4, "--protocol", proto)
    place = f"--service={end(VIP[IPV4], 80)}"
    refused = served.kpbpf.cli("svc", "rm", place)
    assert (refused.returncode, "--protocol" in refused.stderr) == (2, True)
    served.ask("svc", "rm", place, "--protocol", "udp")
    (row,) = served.kpbpf.rows("svc", "ls")
    assert row["protocol"] == "TCP"


def test_a_service_without_backends_refuses_and_the_drop_is_told(served: Hand) -> None:
    served.ask("svc", "add", "--service=10.96.7.9:80")
    with pytest.raises(ConnectionRefusedError):
        ask_tcp(served.client, "10.96.7.9", 80)
    (row,) = served.kpbpf.rows("drop", "ls")
    assert (row["verdict"], row["destination"]) == ("no_backend", "10.96.7.9:80")
    assert row["source"] == served.client.addresses[IPV4]


def test_what_was_added_without_a_daemon_is_kept_by_one(hand: Hand) -> None:
    hand.attach()
    hand.serve_at(IPV4)
    hand.serve_at(IPV6)
    before = hand.kpbpf.rows("svc", "ls")
    assert {row["type"] for row in before} == {None}
    hand.kpbpf.start()
    # Type and labels are a daemon's to tell.
    told = {"type": "ClusterIP", "labels": {}}
    assert hand.kpbpf.rows("svc", "ls") == [row | told for row in before]
    assert reached(hand.client, IPV4)
    hand.kpbpf.stop()
    hand.ask("svc", "rm", before[0]["name"].rpartition("/")[0])
    hand.kpbpf.start()
    assert hand.kpbpf.rows("svc", "ls") == [row | told for row in before[1:]]


def test_an_address_that_another_service_has_is_refused(served: Hand) -> None:
    served.serve_at(IPV4, "--name=default/web")
    other = served.kpbpf.cli("svc", "add", f"--service={VIP[IPV4]}:80", "--name=default/other")
    assert other.returncode == 1
    assert "default/web" in other.stderr
    assert reached(served.client, IPV4)


def test_endpoints_come_and_go_and_come_again(hand: Hand) -> None:
    hand.add_endpoints()
    before = hand.kpbpf.rows("ep", "ls")
    assert [row["host"] for row in before] == ["veth-client", "veth-server"]
    assert set(before[0]["ips"]) == set(hand.client.addresses.values())
    hand.add_endpoints()
    assert hand.kpbpf.rows("ep", "ls") == before, "adding twice is adding once"
    for way in (("1",), (hand.server.addresses[IPV6],)):
        hand.ask("ep", "rm", *way)
    assert hand.kpbpf.rows("ep", "ls") == []
    hand.add_endpoints()
    hand.ask("ep", "rm", "veth-client")
    hand.ask("ep", "rm", "--ifname=eth0", f"--netns={hand.server.netns}")
    assert hand.kpbpf.rows("ep", "ls") == []
    assert hand.kpbpf.cli("ep", "rm", "1").returncode == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--ifname=eth0", "--netns=/run/netns/not-there"), "no network namespace"),
        (("--ifname=eth9", "--netns={netns}"), "no interface eth9"),
        (("--ifname=lo", "--netns={netns}"), "not a veth"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused_with_the_reason(
    hand: Hand, flags: tuple[str, ...], words: str
) -> None:
    refused = hand.kpbpf.cli("ep", "add", *(f.format(netns=hand.client.netns) for f in flags))
    assert refused.returncode in (1, 2)
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_trace_tells_the_way_and_changes_nothing(served: Hand, family: int) -> None:
    served.serve_at(family, "--name=default/web")
    told = served.ask("trace", "veth-client", VIP[family], "80")
    assert "the destination is a Service: default/web" in told
    assert re.search(r"Verdict: +to_backend", told)
    assert end(served.server.addresses[family], TARGET_PORT) in told
    assert served.kpbpf.rows("flow", "ls") == []
    refused = json.loads(served.ask("trace", "1", VIP[family], "81", "-o", "json"))
    assert refused["verdict"] == "unknown_port"
    tables = served.kpbpf.entries("flows", "drops", "affinities")
    served.ask("trace", "1", VIP[family], "--protocol", "icmp")
    served.ask("trace", "1", VIP[family], "80", "--protocol", "sctp")
    served.ask("trace", "1", VIP[family], "80", "--protocol", "udp")
    assert served.kpbpf.entries("flows", "drops", "affinities") == tables


def test_a_trace_follows_a_connection_that_stands(served: Hand, family: int) -> None:
    served.serve_at(family)
    answer = ask_tcp(served.client, VIP[family], 80)
    assert answer.server == "pod-server"
    (flow,) = served.kpbpf.rows("flow", "ls")
    port = flow["client"].rpartition(":")[2]
    told = served.ask("trace", "1", VIP[family], "80", "--source-port", port)
    assert "the flow table knows this connection" in told or "timed out" in told


def test_status_says_what_is_not_well(hand: Hand) -> None:
    down = hand.kpbpf.cli("status")
    assert down.returncode == 1
    assert "no daemon runs" in down.stdout
    hand.kpbpf.start()
    hand.attach()
    assert "Healthy:" in hand.ask("status")
    status = json.loads(hand.ask("status", "-o", "json"))
    assert status["healthy"]
    assert status["endpoints"] == 2
    assert {row["name"] for row in status["programs"]} >= {"from_pod", "to_pod"}
    hand.kpbpf.stop(signal.SIGKILL)
    assert hand.kpbpf.cli("status").returncode == 1


def test_programs_and_maps_are_listed(hand: Hand) -> None:
    hand.attach()
    for row in hand.kpbpf.rows("prog", "ls"):
        assert row["instructions"] > 10
        if row["name"].endswith("_pod"):
            assert set(row["interfaces"]) == {"veth-client", "veth-server"}
    names = {row["name"] for row in hand.kpbpf.rows("map", "ls")}
    assert names >= {"flows", "frontends", "backends"}


def test_attachments_that_somebody_removed_are_back_within_a_second(hand: Hand) -> None:
    hand.kpbpf.environment["KPBPF_ATTACH"] = "tcx"
    hand.kpbpf.start()
    hand.attach()
    (link,) = hand.kpbpf.home.pins.glob("v*/links/102-from_pod*")
    link.unlink()
    assert until(link.exists, "the link is back", 3) < 1.5


def test_cleanup_works_on_what_is_damaged(hand: Hand) -> None:
    hand.kpbpf.start()
    hand.attach()
    assert hand.kpbpf.cli("cleanup", "--yes").returncode == 1, "not while the daemon runs"
    hand.kpbpf.stop()
    (flows,) = hand.kpbpf.home.pins.glob("v*/maps/flows")
    flows.unlink()
    for program in hand.kpbpf.home.pins.glob("v*/progs/*/to_pod"):
        program.unlink()
    hand.kpbpf.home.status_file.write_text("{")
    assert hand.kpbpf.cli("cleanup").returncode == 2, "it asks, and nobody is there"
    hand.ask("cleanup", "--yes")
    assert not hand.kpbpf.home.pins.exists()
    assert not hand.kpbpf.home.run.exists()
    assert "nothing to do" in hand.ask("cleanup", "--yes")
