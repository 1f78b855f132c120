"""Namespaces: the host end of a pod's interface is found, and what is no pod is named."""

import os
import socket
from pathlib import Path

import pytest

from kpbpf.datapath.netns import find_host_end, in_netns
from kpbpf.errors import NotFound, Usage
from tests.datapath.pair import Pair, run

ADDRESSES = ("::ffff:10.1.0.1", "fd00::1")


def test_host_end_of_a_pod_is_found_with_its_addresses(pair: Pair) -> None:
    for address in ("10.1.0.1/32", "fd00::1/128"):
        run("nsenter", f"--net={pair.pod}", "ip", "addr", "add", address, "dev", "eth0", "nodad")
    link = find_host_end("eth0", pair.pod)
    assert (link.ifname, link.host_ifname, link.ifindex) == ("eth0", "host0", pair.ifindex)
    assert link.addresses == [socket.inet_pton(socket.AF_INET6, text) for text in ADDRESSES]
    seen = run("ip", "link", "show", "host0")
    assert link.node_mac.hex(":") in seen
    assert link.pod_mac.hex(":") in run("nsenter", f"--net={pair.pod}", "ip", "link")


def test_what_is_no_pod_is_named(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no interface eth7 in"):
        find_host_end("eth7", pair.pod)
    with pytest.raises(NotFound, match="no network namespace"):
        find_host_end("eth0", tmp_path / "none")
    with pytest.raises(Usage, match=r"lo in .* not a veth"):
        find_host_end("lo", pair.pod)
    (tmp_path / "file").touch()
    with pytest.raises(Usage, match="not a network namespace"):
        find_host_end("eth0", tmp_path / "file")


def test_other_end_elsewhere_is_told(pair: Pair) -> None:
    name = f"kpbpf-test-{os.getpid()}-elsewhere"
    run("ip", "netns", "add", name)
    try:
        with in_netns(f"/run/netns/{name}"), pytest.raises(Usage, match="other end of eth0"):
            find_host_end("eth0", pair.pod)
    finally:
        run("ip", "netns", "del", name)


def test_thread_comes_back_from_a_namespace_whatever_happens(pair: Pair) -> None:
    def netns() -> Path:
        return Path("/proc/thread-self/ns/net").readlink()

    def fail_inside() -> None:
        with in_netns(pair.pod):
            assert netns() != here
            raise ZeroDivisionError

    here = netns()
    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert netns() == here
