"""One pod on a plain veth: two network namespaces, without any program."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kpbpf.datapath.netns import in_netns


class Pair(NamedTuple):
    """The node's namespace with host0, the pod's with eth0, and host0's number."""

    netns: Path
    pod: Path
    ifindex: int


@contextmanager
def pod_on_a_veth() -> Iterator[Pair]:
    """Make the pair and enter the node's namespace; remove both at the end."""
    names = [f"kpbpf-test-{os.getpid()}-{role}" for role in ("node", "pod")]
    clear_leftovers()
    netns, pod = (Path("/run/netns", name) for name in names)
    try:
        for name in names:
            run("ip", "netns", "add", name)
        pair = ("type", "veth", "peer", "name", "eth0", "netns", names[1])
        run("ip", "-n", names[0], "link", "add", "host0", *pair)
        for name, device in zip(names, ("host0", "eth0"), strict=True):
            run("ip", "-n", name, "link", "set", device, "addrgenmode", "none", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        with in_netns(netns):
            yield Pair(netns, pod, socket.if_nametoindex("host0"))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def clear_leftovers() -> None:
    """Delete namespaces of runs that were killed."""
    for left in Path("/run/netns").glob("kpbpf-test-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            run("ip", "netns", "del", left.name)


def run(*command: str) -> str:
    """Run a command that must succeed; return what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
