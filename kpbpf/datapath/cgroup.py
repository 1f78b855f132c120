"""The socket programs at the root of cgroup2: put on, swapped without a gap, taken off, told of.

Attached by links, pinned as `cgroup-<program>`, which other people's programs run beside. Where
links do not work, or are not wanted (KPBPF_ATTACH=clsact), by plain attachment; the program
itself is pinned then, as `cgroup-attached-<program>`, so that it is found again. Nothing is
remembered here. Several kpbpf may be at one root: each leaves the sockets of others alone.
"""

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kpbpf.datapath import cgroup_root
from kpbpf.datapath.cgroup_root import Cgroup
from kpbpf.errors import Fix, ForeignProgram, NotFound, NotRoot
from kpbpf.home import Home
from maps import bpf
from maps.abi import ABI_VERSION

ATTACH_TYPE = {
    "getpeername4": 29,
    "getpeername6": 30,
    "recvmsg4": 19,
    "recvmsg6": 20,
    "sendmsg4": 14,
    "sendmsg6": 15,
    "connect4": 10,
    "connect6": 11,
}
"""enum bpf_attach_type of every socket program. Put on in this order, taken off in the other:
nothing goes out to a backend whose answer would not show the Service."""

OFF = "off"
"""The value of --socket-lb that has no program attached."""

How = Literal["link", "program"]

_NO_LINKS = (errno.EINVAL, errno.EOPNOTSUPP)
"""What a kernel without links on cgroups says."""


def attach(home: Home, programs: Mapping[str, Path], mode: str) -> None:
    """Have these pinned programs run for every socket of the machine; with mode "off", none.

    What runs already is left, what is another version is swapped, what somebody took off is put
    on again. Whose sockets are served is not decided here but by kp_configs. A Fix tells why it
    was not possible: NoCgroup, ForeignProgram, NotRoot, or of no kind of its own; processes of the
    node then reach Services packet by packet.
    """
    if mode == OFF:
        detach(home)
        return
    links = home.links_dir(ABI_VERSION)
    with home.writer_lock(), cgroup_root.opened() as cgroup:
        links.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ATTACH_TYPE:
            fd = _open(programs[name])
            try:
                _put(links, cgroup, name, fd)
            except OSError as error:
                raise _explained(error, cgroup, name) from error
            finally:
                os.close(fd)


def _open(pin: Path) -> int:
    try:
        return bpf.obj_get(pin)
    except FileNotFoundError:
        raise NotFound(f"there is no program {pin}") from None


def _explained(error: OSError, cgroup: Cgroup, name: str) -> Fix:
    others: list[int] = []
    with contextlib.suppress(OSError):
        others = _programs(cgroup, name)
    if error.errno in (errno.EPERM, errno.E2BIG) and others:
        ids = ", ".join(map(str, others))
        return ForeignProgram(f"{name} of cgroup {cgroup.path}", f"program {ids}")
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotRoot(f"attach to cgroup {cgroup.path}")
    return Fix(
        f"program {name} cannot be attached to cgroup {cgroup.path}",
        f"{error.strerror}; processes of this node reach Services packet by packet",
        "run a kernel with CONFIG_CGROUP_BPF, or choose --socket-lb=off",
    )


def detach(home: Home) -> bool:
    """Take every program of this home off; False when there was none.

    A socket that was connected keeps its backend. Its getpeername shows that from now on.
    """
    links = home.links_dir(ABI_VERSION)
    removed = False
    with home.writer_lock():
        for name in reversed(ATTACH_TYPE):
            removed |= _remove_link(links, name)
            removed |= _remove_program(links, name)
    return removed


def state(home: Home) -> dict[str, Any]:
    """Tell how things are: for `kpbpf status`, and to see whether `attach` has something to do.

    cgroup: where they are, or should be, in words. how: "link", "program" or "". attached: names
    of the programs that run there, by name; missing: of those that do not. why: what stands in
    the way, in three lines, or "".
    """
    links = home.links_dir(ABI_VERSION)
    told: dict[str, Any] = {"cgroup": "", "how": "", "attached": {}, "missing": [], "why": ""}
    try:
        with cgroup_root.opened() as cgroup:
            told["cgroup"] = cgroup.path
            for name in sorted(ATTACH_TYPE):
                how, program_id = _running(links, cgroup, name)
                if program_id:
                    told["attached"][name] = program_id
                    told["how"] = how
                else:
                    told["missing"].append(name)
    except Fix as error:
        told["why"] = str(error)
        told["missing"] = sorted(ATTACH_TYPE)
    return told


def _running(links: Path, cgroup: Cgroup, name: str) -> tuple[How, int]:
    """Tell how a program of ours is attached there, and its number; 0: it is not."""
    try:
        link = bpf.obj_get(_link_pin(links, name))
    except FileNotFoundError:
        return "program", _attached_program(links, cgroup, name)
    try:
        joined = bpf.link_cgroup(link) == cgroup.id
        return "link", bpf.link_info(link).program_id if joined else 0
    finally:
        os.close(link)


# ---- one program --------------------------------------------------------------------------


def _link_pin(links: Path, name: str) -> Path:
    return links / f"cgroup-{name}"


def _program_pin(links: Path, name: str) -> Path:
    return links / f"cgroup-attached-{name}"


def _put(links: Path, cgroup: Cgroup, name: str, fd: int) -> None:
    if os.environ.get("KPBPF_ATTACH") == "clsact":
        _put_program(links, cgroup, name, fd)
        _remove_link(links, name)
        return
    try:
        _put_link(links, cgroup, name, fd)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _put_program(links, cgroup, name, fd)
    else:
        _remove_program(links, name)


def _put_link(links: Path, cgroup: Cgroup, name: str, fd: int) -> None:
    pin = _link_pin(links, name)
    if _update_link(pin, cgroup, fd):
        return
    _remove_link(links, name)
    link = bpf.link_create(fd, cgroup.fd, ATTACH_TYPE[name])
    try:
        bpf.obj_pin(link, pin)
    finally:
        os.close(link)


def _update_link(pin: Path, cgroup: Cgroup, fd: int) -> bool:
    """Swap the program of a link; False when there is none, or it joins another cgroup, or none."""
    try:
        link = bpf.obj_get(pin)
    except FileNotFoundError:
        return False
    try:
        if bpf.link_cgroup(link) != cgroup.id:
            return False
        if bpf.link_info(link).program_id != bpf.prog_info(fd).id:
            bpf.link_update(link, fd)
    finally:
        os.close(link)
    return True


def _remove_link(links: Path, name: str) -> bool:
    pin = _link_pin(links, name)
    try:
        link = bpf.obj_get(pin)
    except FileNotFoundError:
        return False
    try:
        with contextlib.suppress(OSError):  # its cgroup is gone already
            bpf.link_detach(link)
    finally:
        os.close(link)
    pin.unlink(missing_ok=True)
    return True


def _put_program(links: Path, cgroup: Cgroup, name: str, fd: int) -> None:
    if _attached_program(links, cgroup, name) == bpf.prog_info(fd).id:
        return
    pin = _program_pin(links, name)
    try:
        before = bpf.obj_get(pin)
    except FileNotFoundError:
        before = -1
    try:
        try:
            bpf.prog_attach(fd, cgroup.fd, ATTACH_TYPE[name], before)
        except FileNotFoundError:  # somebody took the one before off
            bpf.prog_attach(fd, cgroup.fd, ATTACH_TYPE[name])
    finally:
        if before >= 0:
            os.close(before)
    pin.unlink(missing_ok=True)
    bpf.obj_pin(fd, pin)


def _remove_program(links: Path, name: str) -> bool:
    pin = _program_pin(links, name)
    try:
        fd = bpf.obj_get(pin)
    except FileNotFoundError:
        return False
    try:
        with contextlib.suppress(FileNotFoundError), cgroup_root.opened() as cgroup:
            bpf.prog_detach(fd, cgroup.fd, ATTACH_TYPE[name])
    finally:
        os.close(fd)
    pin.unlink(missing_ok=True)
    return True


def _attached_program(links: Path, cgroup: Cgroup, name: str) -> int:
    try:
        fd = bpf.obj_get(_program_pin(links, name))
    except FileNotFoundError:
        return 0
    try:
        number = bpf.prog_info(fd).id
    finally:
        os.close(fd)
    return number if number in _programs(cgroup, name) else 0


def _programs(cgroup: Cgroup, name: str) -> list[int]:
    """List the programs there by number, whoever's they are."""
    return [number for number, _ in bpf.query(cgroup.fd, ATTACH_TYPE[name], tcx=False)]
