"""Looking into a pod's network namespace: enter it, and find what its interface is joined to.

Enters by setns(2) in the calling thread and comes back; no process is started. Changes nothing
in the namespace, nor in the node's.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kpbpf.address import from_text, mac_bytes
from kpbpf.errors import KpbpfError, LinkGone, NotFound, NotRoot, Usage

if TYPE_CHECKING:
    from pyroute2 import IPRoute

CLONE_NEWNET = 0x40000000
SCOPE_GLOBAL = 0

_libc = ctypes.CDLL(None, use_errno=True)


class PodLink(NamedTuple):
    """A pod's interface and its host-side end, as they are now."""

    ifname: str
    host_ifname: str
    ifindex: int
    """Of the host-side end."""
    pod_mac: bytes
    node_mac: bytes
    addresses: list[bytes]
    """Of global scope, both families, in the order in which they were added."""


@contextmanager
def in_netns(path: str | Path) -> Iterator[None]:
    """Let the calling thread be in another network namespace for the length of the block."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = _open(path)
        try:
            _setns(target, path)
        finally:
            os.close(target)
        try:
            yield
        finally:
            _setns(home, "its own")
    finally:
        os.close(home)


def _open(path: str | Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"there is no network namespace {path}") from None
    except PermissionError:
        raise NotRoot(f"open {path}") from None


def _setns(fd: int, path: str | Path) -> None:
    if _libc.setns(fd, CLONE_NEWNET) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EPERM, errno.EACCES):
        raise NotRoot(f"enter network namespace {path}")
    raise Usage(f"{path} is not a network namespace: {os.strerror(number)}")


def find_host_end(ifname: str, netns_path: str | Path) -> PodLink:
    """Find the host-side end of a pod's veth, with addresses and MACs of both.

    NotFound when there is no such namespace or interface; Usage when it is no veth, or its
    other end is not in this network namespace; LinkGone when it vanishes meanwhile.
    """
    from pyroute2 import IPRoute

    with in_netns(netns_path), IPRoute() as inside:
        pod = _link(inside, ifname, f"in {netns_path}")
        found = inside.get_addr(index=pod["index"], scope=SCOPE_GLOBAL)
        addresses = [message.get("IFA_LOCAL") or message.get("IFA_ADDRESS") for message in found]
    if _kind(pod) != "veth":
        raise Usage(f"{ifname} in {netns_path} is {_kind(pod) or 'not virtual'}, not a veth")
    with IPRoute() as outside:
        host = _peer(outside, pod, netns_path)
    return PodLink(
        ifname=ifname,
        host_ifname=host.get("IFLA_IFNAME"),
        ifindex=host["index"],
        pod_mac=mac_bytes(pod.get("IFLA_ADDRESS")),
        node_mac=mac_bytes(host.get("IFLA_ADDRESS")),
        addresses=[from_text(address) for address in addresses],
    )


def _link(netlink: "IPRoute", ifname: str, where: str) -> Any:
    indexes = netlink.link_lookup(ifname=ifname)
    if not indexes:
        raise NotFound(f"there is no interface {ifname} {where}")
    return _get(netlink, indexes[0])


def _peer(netlink: "IPRoute", pod: Any, netns_path: str | Path) -> Any:
    """Return the interface that names the pod's as its other end, or say that there is none."""
    fd = _open(netns_path)
    try:
        namespace = netlink.get_netnsid(fd=fd)["nsid"]
    finally:
        os.close(fd)
    try:
        host = _get(netlink, pod.get("IFLA_LINK"))
    except LinkGone:
        host = None
    joined = host and (_kind(host), host.get("IFLA_LINK"), host.get("IFLA_LINK_NETNSID"))
    if joined != ("veth", pod["index"], namespace):
        name = f"{pod.get('IFLA_IFNAME')} in {netns_path}"
        raise Usage(f"the other end of {name} is not in this network namespace")
    return host


def _get(netlink: "IPRoute", index: int) -> Any:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        return netlink.link("get", index=index)[0]
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            raise LinkGone(index) from None
        raise KpbpfError(f"asking for interface {index} failed: {error}") from error


def _kind(link: Any) -> str:
    info = link.get("IFLA_LINKINFO")
    return (info.get("IFLA_INFO_KIND") or "") if info else ""
