"""Homes that are gone afterwards whatever happens, and the node that packets are sent through.

`home` and `module_home` are for tests that make maps, load or attach. `node` is one for the
whole session, emptied before each test, in a network namespace of its own.
"""

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest

from kpbpf.datapath import attach
from kpbpf.datapath.programs import ensure_programs
from kpbpf.home import Home
from maps import bpf
from maps.table import open_tables
from tests.datapath.node import Node
from tests.datapath.packets import IPV4, IPV6, Net
from tests.datapath.pair import Pair, pod_on_a_veth
from tests.datapath.result import Pod
from tests.datapath.wire import Wire, uplinks

BPFFS = Path("/sys/fs/bpf")
CLONE_NEWNET = 0x40000000

_numbers = count()
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="session", autouse=True)
def bpffs() -> None:
    """Mount what is missing, and clear away what killed runs have left."""
    if os.geteuid() != 0:
        pytest.exit("These tests load programs into the kernel: run them as root.", 2)
    if not os.path.ismount(BPFFS):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    for left in BPFFS.glob("kpbpf-test-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left)


def fresh_home(directory: Path) -> Iterator[Home]:
    """Yield a home with private pins, and take down all that was attached and pinned there."""
    pins = BPFFS / f"kpbpf-test-{os.getpid()}-{next(_numbers)}"
    home = Home(pins, directory / "run")
    yield home
    for one in attach.attachments(home):
        attach.detach(home, one.ifindex)
    shutil.rmtree(pins, ignore_errors=True)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    yield from fresh_home(tmp_path)


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    yield from fresh_home(tmp_path_factory.mktemp("home"))


# ---- the node -----------------------------------------------------------------------------


def _call(function: str, *arguments: int) -> None:
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


@contextmanager
def _inside(namespace: int) -> Iterator[None]:
    """Be in a network namespace, with this thread."""
    with open("/proc/thread-self/ns/net") as outside:  # noqa: PTH123
        _call("setns", namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", outside.fileno(), CLONE_NEWNET)


@pytest.fixture(scope="session")
def namespace() -> Iterator[int]:
    """A network namespace that nobody else sees, as a file descriptor that keeps it alive."""
    with open("/proc/thread-self/ns/net") as outside:  # noqa: PTH123
        _call("unshare", CLONE_NEWNET)
        with open("/proc/thread-self/ns/net") as fresh:  # noqa: PTH123
            _call("setns", outside.fileno(), CLONE_NEWNET)
            yield fresh.fileno()


def _make_pod(number: int, name: str) -> Pod:
    """Make a veth pair, whose host end is where the programs see the pod."""
    device = f"host-{number}"
    command = f"ip link add {device} type veth peer name pod-{number}"
    subprocess.run(command.split(), check=True)
    return Pod(
        name,
        socket.if_nametoindex(device),
        mac=f"02:00:00:00:01:{number:02x}",
        node_mac=f"02:00:00:00:00:{number:02x}",
        addresses=(getattr(IPV4, name), getattr(IPV6, name)),
    )


@pytest.fixture(scope="session")
def _node(tmp_path_factory: pytest.TempPathFactory, namespace: int) -> Iterator[Node]:
    with ExitStack() as stack:
        homes = contextmanager(fresh_home)
        home = stack.enter_context(homes(tmp_path_factory.mktemp("node")))
        tables = stack.enter_context(open_tables(home, create=True))
        pins = ensure_programs(home)
        programs = {name: bpf.obj_get(pin) for name, pin in pins.items()}
        for fd in programs.values():
            stack.callback(os.close, fd)
        with _inside(namespace):
            pods = [
                _make_pod(number, name)
                for number, name in enumerate(("client", "server", "other"), start=1)
            ]
        yield Node(home, tables, programs, pods)


@pytest.fixture
def node(_node: Node, namespace: int) -> Iterator[Node]:
    """The node: three pods, no Service, no flow."""
    with _inside(namespace):
        _node.reset()
        yield _node


@pytest.fixture(scope="module")
def _uplinks(namespace: int) -> Iterator[None]:
    with _inside(namespace), uplinks():
        yield


@pytest.fixture
def wire(_uplinks: None, node: Node) -> Wire:
    """The node with two uplinks."""
    return Wire(node)


@pytest.fixture(params=[IPV4, IPV6], ids=["ipv4", "ipv6"])
def net(request: pytest.FixtureRequest) -> Net:
    """Each address family in turn."""
    found: Net = request.param
    return found


@pytest.fixture(params=["TCP", "UDP", "SCTP"])
def proto(request: pytest.FixtureRequest) -> str:
    """Each protocol with ports in turn."""
    return str(request.param)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A pod on a veth, in the node's namespace for the length of the test."""
    with pod_on_a_veth() as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many instructions the verifier looked at; its limit is a million."""
    for report in terminalreporter.getreports("passed"):
        verified = dict(report.user_properties).get("verified_insns")
        if verified:
            program = report.nodeid.partition("[")[2].rstrip("]")
            terminalreporter.write_line(f"verifier: {program} took {verified:,} instructions")
