"""The demo: kpbpf on this machine, step by step, with pods in network namespaces.

Prints each step, the commands it runs and what came of them. Exits 0 only if every step was seen
to hold, and leaves nothing behind; with KEEP=1 in the environment all stays up until `--down`.
The topology is that of tests/lab/world.py; nothing outside its namespaces is touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from kpbpf.status import daemon_pid
from tests.lab.agent import ROOT, Kpbpf, until
from tests.lab.sockets import Download, ask_tcp, serve
from tests.lab.world import World, remove

PREFIX = "kpbpf-demo"
DIRECTORY = Path("/run", PREFIX)
SERVERS_PID = DIRECTORY / "servers.pid"
MANIFESTS = Path(__file__).parent / "manifests"
WEB = {4: "10.96.0.10", 6: "fd96::10"}
IDLE = {4: "10.96.0.20", 6: "fd96::20"}
HAIRPIN = {4: "169.254.107.112", 6: "fd6b:7062:7066::1"}
EDITED = ("10.42.0.4", "fd42::4")  # the endpoint that the live edit takes out: pod web-2


class Demo:
    """The steps, in order; each returns a sentence of what was seen, or raises."""

    def __init__(self, keep: bool) -> None:
        self.world = World(PREFIX)
        self.kpbpf = Kpbpf(self.world, DIRECTORY)
        self.kpbpf.outlives = keep
        self.failures = 0
        self.number = 0

    def run(self) -> None:
        """Do the steps; without the first three there is no use in the others."""
        self.step("Pods, a router and a remote server, as network namespaces", self._make_pods)
        self.step("The daemon, on a directory of Kubernetes YAML", self._start_daemon)
        self.step("Attach the pods", self._attach)
        if self.failures:
            return
        self.step("A client pod reaches the Service, each backend answers", self._reach)
        self.step("A pod reaches itself through its Service", self._hairpin)
        self.step("A Service without endpoints is refused at once", self._refused)
        self.step("A live edit of the YAML takes effect", self._edit)
        self.step("What kpbpf shows", self._look)
        self.step("The daemon is restarted in the middle of a download", self._restart)

    def step(self, title: str, action: Callable[[], str]) -> None:
        """Number, do and judge one step; a failure is told and counted."""
        self.number += 1
        print(f"\n{bold(f'{self.number}. {title}')}", flush=True)
        try:
            print(f"   {bold('holds:')} {action()}", flush=True)
        except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            self.failures += 1
            print(f"   {bold('DOES NOT HOLD:')} {error}", flush=True)

    def _make_pods(self) -> str:
        self.world.build()
        for name in ("client", "web-1", "web-2"):
            pod = self.world.add_pod(name)
            print(f"   {pod.name:<10} {pod.addresses[4]:<13} {pod.addresses[6]}")
        remote = self.world.remote.addresses
        print(f"   {'remote':<10} {remote[4]:<13} {remote[6]}")
        pid = serve_in_child(self.world, self.kpbpf.outlives)
        SERVERS_PID.write_text(f"{pid}\n")
        return "three pods on plain veth; servers in two of them and on the remote side"

    def _start_daemon(self) -> str:
        for source in sorted(MANIFESTS.glob("*.yaml")):
            shutil.copy(source, self.kpbpf.manifests)
        print(f"   $ kpbpf run --manifests {self.kpbpf.manifests} --node node-1")
        start = time.monotonic()
        self.kpbpf.start()
        return (
            f"programs compiled and loaded, Services written, in {time.monotonic() - start:.1f} s"
        )

    def _attach(self) -> str:
        for pod in self.world.pods.values():
            print(f"   $ kpbpf ep add --ifname=eth0 --netns={pod.netns}")
            self.kpbpf.attach(pod)
        return f"{len(self.world.pods)} pods attached"

    def _reach(self) -> str:
        for family, address in WEB.items():
            answers = [ask_tcp(self.world.pods["client"], address, 80) for _ in range(60)]
            seen = Counter(answer.server for answer in answers)
            shares = ", ".join(f"{server} {times}" for server, times in sorted(seen.items()))
            print(f"   60 connections to {address} port 80, answered by: {shares}")
            assert set(seen) == {"pod-web-1", "pod-web-2", "remote"}, seen
            clients = {answer.client for answer in answers}
            assert clients == {self.world.pods["client"].addresses[family]}, clients
        return "every backend answers, and sees the client's own address"

    def _hairpin(self) -> str:
        for family, address in WEB.items():
            answers = [ask_tcp(self.world.pods["web-1"], address, 80) for _ in range(60)]
            clients = {answer.client for answer in answers if answer.server == "pod-web-1"}
            print(f"   web-1 -> {address} -> web-1, which sees {' '.join(clients)}")
            assert clients == {HAIRPIN[family]}, answers
        return "the pod is its own backend, and sees the hairpin address as its client"

    def _refused(self) -> str:
        for address in IDLE.values():
            start = time.monotonic()
            try:
                ask_tcp(self.world.pods["client"], address, 80)
            except ConnectionRefusedError as error:
                took = time.monotonic() - start
                print(
                    f"   connect to {address} port 80: {error.strerror}, after {took * 1000:.1f} ms"
                )
                assert took < 0.5
            else:
                raise AssertionError("the connection was accepted")
        return "the client need not wait for a time-out"

    def _edit(self) -> str:
        path = self.kpbpf.manifests / "web.yaml"
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if not any(gone in line for gone in EDITED)]
        print(f"   $ sed -i '/10.42.0.4/d; /fd42::4/d' {path}")
        draft = path.with_suffix(".new")
        draft.write_text("".join(kept))
        draft.rename(path)
        took = until(
            lambda: all(len(self.kpbpf.backends(a, 80, "TCP") or ()) == 2 for a in WEB.values()),
            "the Service has two backends",
        )
        for address in WEB.values():
            answers = [ask_tcp(self.world.pods["client"], address, 80) for _ in range(60)]
            assert {answer.server for answer in answers} == {"pod-web-1", "remote"}, answers
        return f"in the kernel after {took * 1000:.0f} ms; web-2 is not asked any more"

    def _look(self) -> str:
        wanted = {
            ("svc", "ls"): ["default/web:http", WEB[4], WEB[6], "default/idle:http"],
            ("ep", "ls"): [pod.addresses[4] for pod in self.world.pods.values()],
            ("flow", "ls"): [self.world.pods["client"].addresses[4], WEB[4]],
            ("drop", "ls"): ["no_backend", IDLE[4], IDLE[6]],
        }
        for command, words in wanted.items():
            shown = self.kpbpf.ask(*command)
            print(f"\n   $ kpbpf {' '.join(command)}")
            lines = shown.splitlines()
            for line in lines[:9]:
                print(f"   {line}")
            if len(lines) > 9:
                print(f"   ... and {len(lines) - 9} more")
            missing = [word for word in words if word not in shown]
            assert not missing, f"kpbpf {' '.join(command)} does not show {missing}"
        print()
        return "Services, pods, connections and drops are told by name"

    def _restart(self) -> str:
        with Download(self.world.pods["client"], WEB[4], 80) as download:
            assert download.grows(), f"no download: {download.fault}"
            before = download.received
            self.kpbpf.stop()
            assert download.grows(), f"stopped while the daemon was down: {download.fault}"
            down = download.received
            self.kpbpf.start()
            assert download.grows(), f"stopped after the restart: {download.fault}"
        print(f"   {before:,} bytes before, {down - before:,} without a daemon,", end=" ")
        print(f"{download.received - down:,} after")
        assert not download.fault, download.fault
        return "every byte was the right one"


def serve_in_child(world: World, outlives: bool) -> int:
    """Run the servers of the pods and the remote side in a process of their own."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    stop = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    with ExitStack() as stack:
        for place in (world.pods["web-1"], world.pods["web-2"], world.remote):
            stack.enter_context(serve(place, 8080))
        while outlives or os.getppid() == parent:
            if signal.sigtimedwait(stop, 1):
                break
    os._exit(0)


def take_down() -> None:
    """End the demo's processes and remove its namespaces, pins and files."""
    daemon = Kpbpf(World(PREFIX), DIRECTORY)
    pids = {"the daemon": daemon_pid(daemon.home), "the process of the servers": 0}
    if SERVERS_PID.exists():
        pids["the process of the servers"] = int(SERVERS_PID.read_text())
    for name, pid in pids.items():
        if pid and is_ours(pid):
            os.kill(pid, signal.SIGTERM)
            until(lambda pid=pid: not is_ours(pid), f"{name} ends")  # type: ignore[misc]
    remove(PREFIX)
    shutil.rmtree(DIRECTORY, ignore_errors=True)


def is_ours(pid: int) -> bool:
    """Whether the pid is still a process of the demo, and not a later one of the same number."""
    try:
        words = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"kpbpf" in words or any(word.endswith(b"demo/run.py") for word in words)


def bold(text: str) -> str:
    """Make it stand out on a terminal."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def explain_how_to_look() -> None:
    """What KEEP=1 leaves, and how to use it."""
    world = World(PREFIX)
    print(f"""
To look:
   export KPBPF_PINS={world.pins} KPBPF_RUN={DIRECTORY / "run"}
   alias kpbpf='nsenter --net={world.node.netns} {ROOT}/.venv/bin/kpbpf'
   kpbpf svc ls        (also: ep ls, flow ls, drop ls, status)
   kpbpf trace 10.42.0.2 {WEB[4]} 80
   nsenter --net=/run/netns/{PREFIX}-pod-client bash -c \\
       'exec 3<>/dev/tcp/{WEB[4]}/80; echo who >&3; head -n 1 <&3'
   edit {DIRECTORY}/manifests/web.yaml, and ask again
To take it down:
   make demo-down""")


def main() -> int:
    """Run the demo, or with `--down` take a kept one down."""
    if os.geteuid() != 0:
        print("The demo makes network namespaces and loads programs: run it as root.")
        return 1
    take_down()
    if "--down" in sys.argv[1:]:
        print("The demo is down.")
        return 0
    keep = os.environ.get("KEEP", "") not in ("", "0")
    print(bold("kpbpf: Kubernetes Services for pods, in eBPF, without a cluster"))
    demo = Demo(keep)
    try:
        demo.run()
    finally:
        if demo.failures:
            print(f"\nEnd of the daemon's log:\n{demo.kpbpf.log_tail()}")
        if not keep:
            take_down()
    if demo.failures:
        print(f"\n{bold(f'{demo.failures} of {demo.number} steps did not hold.')}")
    else:
        print(f"\n{bold(f'All {demo.number} steps hold.')} ", end="")
        print("It stays up." if keep else "Nothing is left behind; KEEP=1 make demo leaves it up.")
    if keep:
        explain_how_to_look()
    return 1 if demo.failures else 0


if __name__ == "__main__":
    sys.exit(main())
