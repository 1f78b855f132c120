"""Beside other people's rules and programs: a FORWARD chain that drops, tc filters, XDP.

Docker sets the policy of FORWARD to DROP, and firewalls add rules about connection tracking.
What goes through a Service does not depend on them; what does not is theirs as before. Whatever
others have put on a node stays as it is, to the byte, and goes on counting.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.agent import ROOT
from tests.lab.fleet import CLUSTER_IP, EVERY_KIND, NODE_PORT, Fleet
from tests.lab.manifests import USUAL_PORTS
from tests.lab.sockets import ping
from tests.lab.test_uplinks_beside_others import OTHERS, counted
from tests.lab.visits import (
    CLIENTS,
    doors,
    expect,
    expect_refusal,
    expect_silence,
    expect_whole_payloads,
    own,
)
from tests.lab.world import BPFFS, FAMILIES, IPV4, IPV6, Place

PODS = {IPV4: "10.42.0.0/16", IPV6: "fd42::/32"}
DIRECTIONS = ("ingress", "egress")
_POLICY = ("-P FORWARD DROP",)
_TRACKING = (
    "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
    "-A INPUT -m conntrack --ctstate INVALID -j DROP",
    "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)
_NFT = """
table inet others {
    chain forward {
        type filter hook forward priority filter; policy drop;
        %s
    }
    chain input {
        type filter hook input priority filter; policy accept;
        %s
        counter
    }
}
"""
_NFT_TRACKING = "ct state invalid counter drop\n        ct state related,established counter accept"
RULES: dict[str, tuple[str, ...] | str] = {
    "legacy": _POLICY,
    "legacy-conntrack": _POLICY + _TRACKING,
    "nft": _NFT % ("counter", "counter"),
    "nft-conntrack": _NFT % (_NFT_TRACKING, _NFT_TRACKING),
}
TOOL = {IPV4: "iptables-legacy", IPV6: "ip6tables-legacy"}


@pytest.fixture(params=RULES)
def ruled(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Fleet]:
    """node-1 has these rules for the length of a test, and nothing that lets pods through."""
    node = fleet.place("node-1")
    try:
        put(node, RULES[request.param])
        yield fleet
    finally:
        take_away(node)


def put(place: Place, rules: tuple[str, ...] | str) -> None:
    if isinstance(rules, str):
        place.run("nft", rules)
        return
    for tool in TOOL.values():
        for rule in rules:
            place.run(tool, *rule.split())


def take_away(place: Place) -> None:
    place.run("nft", "flush ruleset")
    for tool in TOOL.values():
        for line in ("-P FORWARD ACCEPT", "-F"):
            place.run(tool, *line.split())


def rules_of(place: Place) -> list[str]:
    """What rules say, without what they count."""
    text = place.run("nft", "-s", "list", "ruleset")
    return [text, *(place.run(tool, "-S") for tool in TOOL.values())]


def forwarded(client: str, kind: str, backend: str) -> bool:
    """Whether it is forwarded like any packet of a pod: as with kube-proxy, nothing marks it."""
    return client == "client" and kind == CLUSTER_IP and backend in ("a2", "node-2")


def test_services_do_not_depend_on_what_the_forward_chain_says(
    ruled: Fleet, family: int, protocol: str
) -> None:
    fleet, node = ruled, ruled.place("node-1")
    before = rules_of(node)
    for backend in ("a1", "a2", "node-1", "node-2"):
        with fleet.service(backend) as service:
            for client in CLIENTS:
                for kind in EVERY_KIND:
                    if not forwarded(client, kind, backend):
                        target = service.at(kind, family, node)
                        expect({backend}, fleet, client, target, protocol)
    with fleet.service() as nobody:
        for client in CLIENTS:
            for target in doors(fleet, nobody, family, (CLUSTER_IP, NODE_PORT)):
                expect_refusal(fleet.place(client), *target, protocol)
    assert rules_of(node) == before


def test_payloads_arrive_whole_whatever_the_forward_chain_says(ruled: Fleet, family: int) -> None:
    for backend in ("a1", "a2"):
        with ruled.service(backend) as service:
            for client in CLIENTS:
                target = service.at(NODE_PORT, family, ruled.place("node-1"))
                expect_whole_payloads(ruled, client, target, backend, 300_000)


def test_pods_reach_endpoints_elsewhere_where_their_network_is_let_through(
    ruled: Fleet, family: int, protocol: str
) -> None:
    let_pods_through(ruled.place("node-1"))
    with ruled.service("a1", "a2") as service:
        target = service.at(CLUSTER_IP, family)
        expect({"a1", "a2"}, ruled, "client", target, protocol)
        expect_whole_payloads(ruled, "client", target, size=300_000)


def let_pods_through(node: Place) -> None:
    """Add what a network plugin adds where the policy of FORWARD is DROP."""
    for family, block in PODS.items():
        for flag, word in (("-s", "saddr"), ("-d", "daddr")):
            if "others" in node.run("nft", "list", "tables"):
                ip = {IPV4: "ip", IPV6: "ip6"}[family]
                node.run("nft", f"add rule inet others forward {ip} {word} {block} accept")
            else:
                node.run(TOOL[family], "-A", "FORWARD", flag, block, "-j", "ACCEPT")


def test_what_is_no_service_is_dropped_as_the_rules_have_it(
    ruled: Fleet, family: int, protocol: str
) -> None:
    for client, server in (("client", "a2"), ("outside", "a1")):
        address = own(ruled, server, family)
        expect_silence(ruled.place(client), address, USUAL_PORTS.target, protocol)


# ---- tc filters and XDP -----------------------------------------------------------------------


@pytest.fixture
def others(fleet: Fleet) -> Iterator[Path]:
    """Somebody else's pinned programs, `xdp` and `tc`, which count in slots 0 and 1 of `seen`."""
    directory = BPFFS / f"{fleet.nodes.prefix}-others"
    directory.mkdir()
    try:
        subprocess.run([sys.executable, "-c", OTHERS, str(directory)], check=True, cwd=ROOT)
        yield directory
    finally:
        shutil.rmtree(directory)


def test_filters_of_others_stay_as_they_are_and_go_on_counting(fleet: Fleet, others: Path) -> None:
    node, devices = fleet.place("node-1"), ("uplink", fleet.place("a1").host_ifname)
    try:
        for dev in devices:
            node.run("tc", "qdisc", "add", "dev", dev, "clsact")
            for where in DIRECTIONS:
                words = f"filter add dev {dev} {where} prio 7 handle 0x77 bpf da pinned {others}/tc"
                node.run("tc", *words.split())
        before = [filters(node, dev) for dev in devices]
        reach_every_door(fleet)
        seen = counted(others, 1)
        for family in FAMILIES:
            assert ping(fleet.place("outside"), node.addresses[family])
            assert ping(fleet.place("a1"), node.addresses[family])
        assert counted(others, 1) >= seen + 8, "two directions, two families, two pings"
        assert [filters(node, dev) for dev in devices] == before
    finally:
        for dev in devices:
            node.run("tc", "qdisc", "del", "dev", dev, "clsact")


def reach_every_door(fleet: Fleet) -> None:
    with fleet.service("a1", "a2") as service:
        for family in FAMILIES:
            for client in CLIENTS:
                for target in doors(fleet, service, family):
                    expect({"a1", "a2"}, fleet, client, target)


def filters(node: Place, dev: str) -> list[Any]:
    """Their filters, as tc shows them."""
    return [json.loads(node.run("tc", "-j", "filter", "show", "dev", dev, w)) for w in DIRECTIONS]


def test_an_xdp_program_of_others_stays_and_sees_every_packet(fleet: Fleet, others: Path) -> None:
    node = fleet.place("node-1")
    try:
        node.run("ip", "link", "set", "uplink", "xdpgeneric", "pinned", f"{others}/xdp")
        before, seen = xdp_of(node), counted(others, 0)
        reach_every_door(fleet)
        assert xdp_of(node) == before
        assert counted(others, 0) > seen + 100, "what went through Services is among it"
    finally:
        node.run("ip", "link", "set", "uplink", "xdpgeneric", "off")


def xdp_of(node: Place) -> Any:
    """The XDP program of the uplink: its number, its tag, and when it was loaded."""
    return json.loads(node.run("ip", "-j", "link", "show", "dev", "uplink"))[0]["xdp"]
