"""What the settings about clients outside of pods mean (SEMANTICS A32, A33, A42)."""

from __future__ import annotations

import pytest

from kpbpf.address import block_from_text, from_text, lies_in
from kpbpf.errors import Usage
from kpbpf.settings import DetectLocal, NodePortAddresses
from tests.unit.test_settings import settings

TEN, PODS4, PODS6 = map(block_from_text, ("10.0.0.0/8", "10.244.0.0/16", "fd00:10::/56"))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), NodePortAddresses()),
        (("--nodeport-addresses=primary",), NodePortAddresses(primary=True)),
        (
            ("--nodeport-addresses=10.1.2.3/8,::/0",),
            NodePortAddresses(blocks=(TEN, (bytes(16), 0))),
        ),
        (("--nodeport-addresses=10.0.0.0/8,primary",), NodePortAddresses(True, (TEN,))),
        (
            ("--nodeport-addresses=10.0.0.0/8", "--nodeport-addresses="),
            NodePortAddresses(blocks=(TEN,)),
        ),
        (("--proxy-mode=nftables",), NodePortAddresses(primary=True)),
        (("--proxy-mode=ipvs",), NodePortAddresses()),
    ],
    ids=str,
)
def test_node_ports_are_served_where_it_was_said(
    words: tuple[str, ...], wanted: NodePortAddresses
) -> None:
    assert settings(*words).node_port_addresses == wanted


@pytest.mark.parametrize(
    ("value", "has", "lacks"),
    [("10.0.0.0/8", "IPv4", "IPv6"), ("fd00::/8,fd01::/16", "IPv6", "IPv4")],
)
def test_blocks_of_one_family_are_warned_of_once(value: str, has: str, lacks: str) -> None:
    assert settings(f"--nodeport-addresses={value}").warnings == (
        f"nodePortAddresses has blocks of {has} only: there are no NodePorts of {lacks}",
    )


@pytest.mark.parametrize("value", ["primary", "10.0.0.0/8,primary", "10.0.0.0/8,::/0", "all"])
def test_what_covers_both_families_is_not_warned_of(value: str) -> None:
    assert settings(f"--nodeport-addresses={value}").warnings == ()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), DetectLocal()),
        (("--detect-local-mode=ClusterCIDR",), DetectLocal("ClusterCIDR")),
        (
            ("--cluster-cidr=10.244.0.0/16,10.0.0.0/8,fd00:10::/56",),
            DetectLocal("ClusterCIDR", (PODS4, PODS6)),
        ),
        (("--detect-local-mode=NodeCIDR", "--cluster-cidr=10.0.0.0/8"), DetectLocal("NodeCIDR")),
        (
            ("--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"),
            DetectLocal("BridgeInterface", (), "cni0"),
        ),
        (
            ("--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"),
            DetectLocal("InterfaceNamePrefix", (), "veth"),
        ),
    ],
    ids=str,
)
def test_local_pods_are_told_as_it_was_said(words: tuple[str, ...], wanted: DetectLocal) -> None:
    assert settings(*words).detect_local == wanted


def test_a_mode_without_its_name_is_refused() -> None:
    with pytest.raises(Usage, match="BridgeInterface needs detectLocal"):
        settings("--detect-local-mode=BridgeInterface")


@pytest.mark.parametrize(
    ("words", "everything"),
    [
        ((), False),
        (("--masquerade-all",), True),
        (("--masquerade-all", "--proxy-mode=nftables"), True),
    ],
)
def test_masquerade_all_is_a_flag_for_every_mode(words: tuple[str, ...], everything: bool) -> None:
    assert settings(*words).masquerade_all is everything


def test_loopback_serves_node_ports_unless_it_was_refused_or_the_mode_is_nftables() -> None:
    assert settings().localhost_node_ports
    assert not settings("--iptables-localhost-nodeports=false").localhost_node_ports
    assert not settings("--proxy-mode=nftables").localhost_node_ports


def test_uplinks_sockets_and_ports_of_masquerading_reach_the_settings() -> None:
    assert settings().uplinks == ()
    found = settings(
        "--uplink=eth0,wg*", "--uplink=br0", "--socket-lb=off", "--masquerade-ports=40000-50000"
    )
    assert found.uplinks == ("eth0", "wg*", "br0")
    assert (found.socket_lb, found.masquerade_ports) == ("off", (40000, 50000))


@pytest.mark.parametrize(
    ("address", "block", "inside"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "0.0.0.0/0", True),
        ("fd00::1", "0.0.0.0/0", False),
        ("10.1.2.3", "::/0", True),
        ("fd00::1", "fd00::/127", True),
        ("fd00::2", "fd00::/127", False),
    ],
)
def test_an_address_lies_in_a_block(address: str, block: str, inside: bool) -> None:
    assert lies_in(from_text(address), *block_from_text(block)) is inside
