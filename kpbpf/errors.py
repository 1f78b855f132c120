"""Everything that can go wrong, in three kinds: try again, fix something, or you asked wrongly.

`Retry` passes by itself or is repaired by the next attempt; loops catch it and nothing else.
`Fix` needs a person: it ends the process with one message of three lines (what, why, do).
`NotFound` and `Usage` answer a command line. This module never prints and never exits.
"""

from collections.abc import Iterable
from typing import NamedTuple


class KpbpfError(Exception):
    """Root of all errors that kpbpf raises on purpose; str() is fit to be shown to a person."""


class Retry(KpbpfError):
    """The attempt failed; a later one may succeed without anybody doing anything."""


class MapFull(Retry):
    """A map did not take an entry; `done` entries of the same batch had been written before."""

    def __init__(self, name: str, entries: int, done: int = 0) -> None:
        super().__init__(f"map {name} is full: it holds at most {entries:,} entries")
        self.name = name
        self.entries = entries
        self.done = done


class LinkGone(Retry):
    """A network interface vanished while it was worked on."""

    def __init__(self, interface: str | int) -> None:
        named = f"with index {interface}" if isinstance(interface, int) else interface
        super().__init__(f"interface {named} is gone")
        self.interface = interface


class Fix(KpbpfError):
    """Somebody has to do something: what is wrong, why, and what to do about it."""

    def __init__(self, what: str, why: str, do: str) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.do = do

    def __str__(self) -> str:
        return f"{self.what}\n  why: {self.why}\n  do:  {self.do}"


class AbiMismatch(Fix):
    """A pinned map is not laid out as this code expects; `differences` name both sides."""

    def __init__(self, path: str, differences: Iterable[str]) -> None:
        super().__init__(
            f"map {path} has another layout than this kpbpf expects",
            "; ".join(differences),
            "use the kpbpf that made it, or run `kpbpf cleanup` and start again",
        )
        self.path = path


class CompileFailed(Fix):
    """The compiler refused a program's source: a broken installation, or a bug of ours."""

    def __init__(self, program: str, output: str) -> None:
        super().__init__(
            f"program {program} does not compile",
            _tail(output),
            "reinstall kpbpf and python3-bpfcc; if it persists, report it with this message",
        )
        self.program = program


class VerifierRejected(Fix):
    """The kernel's verifier refused a program; `why` holds the end of its log."""

    def __init__(self, program: str, log: str) -> None:
        super().__init__(
            f"the kernel refused to load program {program}",
            _tail(log),
            "report it with this message and the output of `uname -r`",
        )
        self.program = program


class MissingKernelFeature(Fix):
    """The running kernel lacks something that kpbpf cannot do without."""

    def __init__(self, feature: str, why: str) -> None:
        super().__init__(
            f"the kernel lacks {feature}",
            why,
            "run a newer kernel (Debian 12 has one that will do), with CONFIG_BPF_SYSCALL, "
            "CONFIG_BPF_JIT, CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS",
        )


class MissingPackage(Fix):
    """A package of the distribution is not installed."""

    def __init__(self, package: str, why: str) -> None:
        super().__init__(
            f"{package} is not installed",
            why,
            f"apt-get install --no-install-recommends {package}",
        )


class MissingBpffs(Fix):
    """No BPF file system is mounted where pins should go; `mount_point` is the usual place for one.

    Without it, `path` lies elsewhere: mounting over a directory that is in use would hide it.
    """

    def __init__(self, path: str, mount_point: str = "") -> None:
        super().__init__(
            f"{path} is not on a BPF file system",
            "maps and programs are kept there, so that traffic goes on while kpbpf restarts",
            f"mount -t bpf bpf {mount_point}"
            if mount_point
            else "choose --pins below /sys/fs/bpf, or below a new directory that has such a file "
            "system to itself: mkdir DIR && mount -t bpf bpf DIR",
        )


class NoCgroup(Fix):
    """The root of the cgroup2 hierarchy cannot be reached; `why` says what was tried."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "socket load balancing has no cgroup to attach to",
            f"{why}; until then processes of this node reach Services packet by packet",
            "mount -t cgroup2 none /sys/fs/cgroup/unified (in a container: give it the node's "
            "/sys/fs/cgroup as a volume), or choose --socket-lb=off",
        )


class NotRoot(Fix):
    """The kernel did not permit it; `attempted` is what was tried."""

    def __init__(self, attempted: str) -> None:
        super().__init__(
            f"not permitted to {attempted}",
            "it needs root, or the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (in a "
            "container, also a seccomp profile that allows bpf(2))",
            "run it again as root, for example with sudo",
        )


class AlreadyRunning(Fix):
    """Another daemon holds this node's lock."""

    def __init__(self, pid: int, run: str) -> None:
        super().__init__(
            f"kpbpf is already running on this node, as process {pid}",
            f"one daemon per node owns {run}",
            "stop that one first, or give this one another --pins and --run-dir",
        )
        self.pid = pid


class ForeignProgram(Fix):
    """Something that is not ours sits where we would have to put ours."""

    def __init__(self, place: str, found: str) -> None:
        super().__init__(
            f"{place} is taken by a program that is not kpbpf's",
            f"found {found}; kpbpf never replaces or removes what others attached",
            "remove it with the tool that put it there, or move it to another priority",
        )


class NotFound(KpbpfError):
    """What was asked for does not exist."""


class Usage(KpbpfError):
    """The command line contradicts itself or names something impossible."""


class Problem(NamedTuple):
    """One thing that is wrong with one object that was given to us, and is skipped for it."""

    where: str
    """File and document, or the API's resource path."""
    obj: str
    """Kind and name, as in "Service default/web"."""
    field: str
    """Path of the field, as in "spec.ports[0].port"; empty when it is the whole object."""
    expected: str
    got: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.obj, self.field) if part)
        return f"{place}: expected {self.expected}, got {self.got}"


def _tail(text: str, lines: int = 12) -> str:
    """Keep the last lines of a compiler's or verifier's output: the reason stands at its end."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
    return "\n       ".join(kept) or "it gave no reason"
