"""Packets that a device has summed up (CHECKSUM_COMPLETE): the sum must stay true.

A test-run gives such a packet, and fails with EBADMSG when the kernel's idea of the sum does not
match the packet that comes out. Only what comes from a wire has such a sum, so it is `to_pod`.
"""

from __future__ import annotations

import errno
import os

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from maps import bpf
from tests.datapath.node import Node, context
from tests.datapath.packets import Net, quote
from tests.datapath.test_fragments import UDP_NUMBER, fragments, transport
from tests.datapath.test_icmp import Error, errors, opened, with_ports


def kernel_version() -> tuple[int, ...]:
    """Major and minor number of the kernel that runs."""
    return tuple(int(number) for number in os.uname().release.split(".")[:2])


def summed(node: Node, packet: Packet) -> bytes:
    """What comes out at the client pod, of a packet that carries a device's sum."""
    data = bytes(Ether(src=node.client.node_mac, dst=node.client.mac) / packet)
    flags = bpf.F_TEST_SKB_CHECKSUM_COMPLETE
    program = node.program("to_pod")
    try:
        done = bpf.prog_test_run(program, data, context(node.client.ifindex), flags=flags)
    except OSError as error:
        if error.errno == errno.EINVAL and kernel_version() < (6, 18):
            pytest.skip("this kernel has no BPF_F_TEST_SKB_CHECKSUM_COMPLETE (Linux 6.18 has)")
        raise
    return done.data[14:]


@with_ports
def test_reply_that_shows_the_service_again(node: Node, net: Net, proto: str) -> None:
    talk, inside = opened(node, net, proto, net.remote)
    assert summed(node, inside.answer()) == bytes(talk.answer())


def test_reply_without_a_checksum(node: Node, net: Net) -> None:
    talk, inside = opened(node, net, "UDP", net.remote)
    packet = inside.back.data(b"answer", chksum=0)
    assert summed(node, packet) == bytes(talk.back.data(b"answer", chksum=0))


def test_fragments_of_a_reply(node: Node, net: Net) -> None:
    talk, inside = opened(node, net, "UDP", net.remote)
    views = (inside.back, talk.back)
    sent, seen = (fragments(v, transport(v.data(b"z" * 64)), UDP_NUMBER) for v in views)
    for packet, shown in zip(sent, seen, strict=True):
        assert summed(node, packet) == bytes(shown)


@errors
@with_ports
def test_error_that_is_translated(node: Node, net: Net, proto: str, error: Error) -> None:
    talk, inside = opened(node, net, proto, net.remote)
    told = error(net, net.router, net.client, quote(talk.more()))
    assert summed(node, error(net, net.router, net.client, quote(inside.more()))) == bytes(told)
