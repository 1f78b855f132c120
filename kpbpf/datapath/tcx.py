"""Attaching by tcx (Linux 6.6 and newer): a link for each program, pinned to stay.

Ours goes to the head of the list; whatever others have there runs after it, untouched. Swapping
a link's program is one atomic step. Links are pinned as `<ifindex>-<program>`.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from kpbpf.errors import LinkGone, MissingKernelFeature, NotRoot
from maps import bpf

ATTACH_TYPE = {
    "from_pod": bpf.TCX_INGRESS,
    "to_pod": bpf.TCX_EGRESS,
    "from_wire": bpf.TCX_INGRESS,
    "to_wire": bpf.TCX_EGRESS,
    "from_wire_l3": bpf.TCX_INGRESS,
    "to_wire_l3": bpf.TCX_EGRESS,
}
"""Every program that runs on interfaces, and where."""

LOOPBACK = 1


def works() -> bool:
    """Ask the kernel whether it knows tcx."""
    try:
        bpf.query(LOOPBACK, bpf.TCX_INGRESS)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise NotRoot("list attached programs") from None
        return False
    return True


def put(links: Path, ifindex: int, program: str, fd: int) -> bool:
    """Have an interface run a program; True when nothing of ours was at its hook before.

    A program of ours for another kind of place is swapped for it, and its pin renamed first: a
    name that promises too much is put right by whoever looks next.
    """
    pin = links / f"{ifindex}-{program}"
    if not pin.exists():
        _take_over(links, ifindex, program)
    if _update(pin, fd):
        return False
    pin.unlink(missing_ok=True)
    links.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        link = bpf.link_create(fd, ifindex, ATTACH_TYPE[program], bpf.F_BEFORE)
    except OSError as error:
        raise _explained(error, ifindex) from error
    try:
        bpf.obj_pin(link, pin)
    finally:
        os.close(link)
    return True


def _take_over(links: Path, ifindex: int, program: str) -> None:
    """Have the link that another program of ours has at the same hook, if there is one."""
    for other, hook in ATTACH_TYPE.items():
        if other != program and hook == ATTACH_TYPE[program]:
            with contextlib.suppress(FileNotFoundError):
                (links / f"{ifindex}-{other}").rename(links / f"{ifindex}-{program}")


def _explained(error: OSError, ifindex: int) -> Exception:
    if error.errno == errno.ENODEV:
        return LinkGone(ifindex)
    if error.errno == errno.EINVAL:
        return MissingKernelFeature("tcx links", "set KPBPF_ATTACH=clsact or leave it unset")
    return error


def _update(pin: Path, fd: int) -> bool:
    """Swap the program of a pinned link; False when there is none, or it joins nothing now."""
    try:
        link = bpf.obj_get(pin)
    except FileNotFoundError:
        return False
    try:
        found = bpf.link_info(link)
        if not found.ifindex:
            return False
        if found.program_id != bpf.prog_info(fd).id:
            bpf.link_update(link, fd)
    except OSError as error:
        if error.errno == errno.ENOLINK:
            return False
        raise
    finally:
        os.close(link)
    return True


def remove(links: Path, ifindex: int, program: str) -> bool:
    """Take a program of ours off an interface; False when there was none."""
    pin = links / f"{ifindex}-{program}"
    try:
        link = bpf.obj_get(pin)
    except FileNotFoundError:
        return False
    try:
        with contextlib.suppress(OSError):  # its interface is gone already
            bpf.link_detach(link)
    finally:
        os.close(link)
    pin.unlink(missing_ok=True)
    return True


def found(links: Path) -> Iterator[tuple[int, str, int]]:
    """Yield (ifindex, program, program id) of every pinned link, id 0 if it joins nothing."""
    for program in ATTACH_TYPE:
        for pin in links.glob(f"*-{program}"):
            try:
                link = bpf.obj_get(pin)
            except FileNotFoundError:
                continue  # taken off since
            try:
                info = bpf.link_info(link)
            finally:
                os.close(link)
            yield int(pin.name.partition("-")[0]), program, info.program_id if info.ifindex else 0
