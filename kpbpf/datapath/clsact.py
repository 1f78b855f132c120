"""Attaching by tc filters on a clsact qdisc, for kernels without tcx.

Ours is a direct-action bpf filter named `kpbpf`, first in order unless KPBPF_TC_PRIORITY says
otherwise; a filter of anybody else is never replaced or removed. Empty directories beside the
pinned links note what we did: `<ifindex>-<program>-clsact`, and `<ifindex>-qdisc` where the
qdisc is ours to remove.
"""

import errno
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kpbpf.errors import ForeignProgram, KpbpfError, LinkGone, MissingKernelFeature, NotRoot, Usage

if TYPE_CHECKING:
    from pyroute2 import IPRoute

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
"""clsact's own places on an interface."""

PARENT = {
    "from_pod": INGRESS,
    "to_pod": EGRESS,
    "from_wire": INGRESS,
    "to_wire": EGRESS,
    "from_wire_l3": INGRESS,
    "to_wire_l3": EGRESS,
}
"""Every program that runs on interfaces, and where."""

NAME = "kpbpf"
HANDLE = 1
ETH_P_ALL = 3
_GONE = (errno.ENOENT, errno.ENODEV, errno.EINVAL)

TCA_BPF_ID = 11
"""Attribute of a filter that pyroute2 leaves undecoded."""


class Filter(NamedTuple):
    """A filter as the kernel lists it; name and program_id only of bpf filters."""

    kind: str
    priority: int
    handle: int
    name: str
    program_id: int


def put(links: Path, ifindex: int, program: str, fd: int) -> bool:
    """Have an interface run a program; True when nothing of ours was at its hook before.

    A filter of ours that is there for another kind of place is this one's from then on.
    """
    note = _note(links, ifindex, program)
    others = _others(links, ifindex, program)
    present = note.exists() or bool(others)
    note.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        fresh = _put(links, ifindex, program, fd)
    except BaseException:
        if not present:
            remove(links, ifindex, program)
        raise
    for other in others:
        other.rmdir()
    return fresh


def _put(links: Path, ifindex: int, program: str, fd: int) -> bool:
    with _netlink() as netlink:
        _ensure_qdisc(netlink, links, ifindex)
        ours = _ours(netlink, ifindex, program)
        if ours is None:
            _refuse_foreign(netlink, ifindex, program)
        command = "replace-filter" if ours else "add-filter"
        priority = ours.priority if ours else _priority()
        options = {"fd": fd, "name": NAME, "direct_action": True}
        _filter(netlink, command, ifindex, program, priority, options)
    return ours is None


def remove(links: Path, ifindex: int, program: str) -> bool:
    """Take a program of ours off an interface, and our qdisc once it is empty."""
    note = _note(links, ifindex, program)
    if not note.exists():
        return False
    with _netlink() as netlink:
        ours = _ours(netlink, ifindex, program)
        if ours is not None and not _others(links, ifindex, program):
            _filter(netlink, "del-filter", ifindex, program, ours.priority, {})
        qdisc = links / f"{ifindex}-qdisc"
        in_use = any(filters(netlink, ifindex, hook) for hook in ("from_pod", "to_pod"))
        if qdisc.exists() and not in_use:
            _tc(netlink, ifindex, ("del", "clsact", ifindex), tolerated=_GONE)
            qdisc.rmdir()
    note.rmdir()
    return True


def found(links: Path) -> Iterator[tuple[int, str, int]]:
    """Yield (ifindex, program, program id) of all we attached, id 0 if it is gone since."""
    for note, program_id in programs_of([path.name for path in links.glob("*-clsact")]).items():
        ifindex, program, _ = note.split("-")
        yield int(ifindex), program, program_id


def programs_of(notes: Sequence[str]) -> dict[str, int]:
    """Ask which program of ours runs where these notes say, id 0 if it is gone since."""
    if not notes:
        return {}
    with _netlink() as netlink:
        found = {}
        for note in notes:
            ifindex, program, _ = note.split("-")
            ours = _ours(netlink, int(ifindex), program)
            found[note] = ours.program_id if ours else 0
        return found


def filters(netlink: "IPRoute", ifindex: int, program: str) -> list[Filter]:
    """List the filters at one hook of an interface, everybody's."""
    listed = []
    for message in netlink.get_filters(index=ifindex, parent=PARENT[program]):
        options = message.get("TCA_OPTIONS")
        if not options:
            continue  # the head of a list of filters
        attributes = options.get("attrs", [])
        name = next((value for key, value in attributes if key == "TCA_BPF_NAME"), "")
        ids = [value for key, value in attributes if key == "UNKNOWN"]
        program_id = next((_number(nla) for nla in ids if nla["header"]["type"] == TCA_BPF_ID), 0)
        kind, priority = message.get("TCA_KIND"), message["info"] >> 16
        listed.append(Filter(kind, priority, message["handle"], name, program_id))
    return listed


def _number(attribute: Any) -> int:
    number: int = struct.unpack_from("=I", attribute.data, attribute.offset + 4)[0]
    return number


def _ours(netlink: "IPRoute", ifindex: int, program: str) -> Filter | None:
    listed = filters(netlink, ifindex, program)
    return next((one for one in listed if one.name == NAME and one.handle == HANDLE), None)


def _refuse_foreign(netlink: "IPRoute", ifindex: int, program: str) -> None:
    for one in filters(netlink, ifindex, program):
        if one.priority == _priority() and (one.kind != "bpf" or one.handle == HANDLE):
            place = f"tc priority {one.priority} of interface {ifindex}"
            raise ForeignProgram(place, f"filter {one.name or one.kind}, handle {one.handle}")


def _ensure_qdisc(netlink: "IPRoute", links: Path, ifindex: int) -> None:
    """Add clsact unless it is there, and note beforehand that it is ours.

    It is tried, not looked for: pyroute2 lists the qdiscs of all interfaces to find one's.
    """
    note = links / f"{ifindex}-qdisc"
    noted = note.exists()
    note.mkdir(exist_ok=True)
    added = False
    try:
        added = _tc(netlink, ifindex, ("add", "clsact", ifindex), tolerated=(errno.EEXIST,))
    finally:
        if not added and not noted:
            note.rmdir()


def _filter(
    netlink: "IPRoute",
    command: str,
    ifindex: int,
    program: str,
    priority: int,
    options: dict[str, Any],
) -> None:
    options |= {"parent": PARENT[program], "prio": priority, "protocol": ETH_P_ALL}
    arguments = (command, "bpf", ifindex, HANDLE)
    _tc(netlink, ifindex, arguments, options, _GONE if command == "del-filter" else ())


def _tc(
    netlink: "IPRoute",
    ifindex: int,
    arguments: tuple[Any, ...],
    options: dict[str, Any] | None = None,
    tolerated: Collection[int] = (),
) -> bool:
    """Run one tc command, and say in our words what went wrong; False: a tolerated error."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        netlink.tc(*arguments, **(options or {}))
    except NetlinkError as error:
        if error.code in tolerated:
            return False
        if error.code == errno.ENODEV:
            raise LinkGone(ifindex) from None
        if error.code == errno.EPERM:
            raise NotRoot("attach programs") from None
        if error.code == errno.ENOENT:
            why = "neither tcx nor clsact with bpf filters works"
            raise MissingKernelFeature("a place to attach tc programs", why) from None
        raise KpbpfError(f"tc {arguments[0]} on interface {ifindex} failed: {error}") from error
    return True


def _netlink() -> "IPRoute":
    from pyroute2 import IPRoute

    return IPRoute()


def _note(links: Path, ifindex: int, program: str) -> Path:
    return links / f"{ifindex}-{program}-clsact"


def _others(links: Path, ifindex: int, program: str) -> list[Path]:
    """Notes of the programs that share this one's hook, and so its one filter."""
    sharing = [name for name, hook in PARENT.items() if hook == PARENT[program] and name != program]
    notes = (_note(links, ifindex, name) for name in sharing)
    return [note for note in notes if note.exists()]


def _priority() -> int:
    text = os.environ.get("KPBPF_TC_PRIORITY") or "1"
    if not text.isdecimal() or not 1 <= int(text) <= 0xFFFF:
        raise Usage(f"KPBPF_TC_PRIORITY is {text!r}, expected a number from 1 to 65535")
    return int(text)
