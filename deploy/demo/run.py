"""The demo: kpbpf on this machine, step by step, on a node whose pods are network namespaces.

Prints each step, the commands it runs and what came of them. Exits 0 only if every step was seen
to hold, and leaves nothing behind; with KEEP=1 in the environment all stays up until `--down`.
The topology is that of tests/lab/world.py; nothing outside its namespaces is touched. What the
steps do is in steps.py, what runs meanwhile in cluster.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from deploy.demo.cluster import DIRECTORY, PREFIX, DemoApi, take_down
from deploy.demo.steps import APPLY, WEB, Steps
from tests.lab.agent import ROOT, Kpbpf
from tests.lab.world import World

INTERRUPTED = 130


class Demo:
    """The steps, in order, and how many of them did not hold."""

    def __init__(self, keep: bool) -> None:
        self.steps = Steps(keep)
        self.failures = 0
        self.number = 0

    def run(self) -> None:
        """Do the steps; without the first four there is no use in the others."""
        steps = self.steps
        if (
            self.step("Pods, a router and a remote server, as network namespaces", steps.make_pods)
            and self.step("An API server, with Node, Pods, Services and slices", steps.start_api)
            and self.step("The daemon, which follows the API server", steps.start_daemon)
            and self.step("The pods are found and attached by themselves", steps.find_pods)
        ):
            self.step("A client pod reaches the Service, each backend answers", steps.reach)
            self.step("A pod reaches itself through its Service", steps.hairpin)
            self.step("A Service without endpoints is refused at once", steps.refused)
            self.step("A client outside the cluster asks a NodePort", steps.from_outside)
            self.step("A process of the node asks, too", steps.from_node)
            self.step("An endpoint leaves, at the API", steps.remove_endpoint)
            self.step("The API server goes away, and comes back", steps.lose_api)
            self.step("What kpbpf shows", steps.look)
            self.step("The daemon is restarted in the middle of a download", steps.restart)
            self.step("Somebody removes the programs from a pod", steps.remove_programs)

    def step(self, title: str, action: Callable[[], str]) -> bool:
        """Number, do and judge one step; a failure is told and counted. Whether it held."""
        self.number += 1
        print(f"\n{bold(f'{self.number}. {title}')}", flush=True)
        try:
            print(f"   {bold('holds:')} {action()}", flush=True)
        except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            self.failures += 1
            print(f"   {bold('DOES NOT HOLD:')} {error}", flush=True)
            return False
        return True


def bold(text: str) -> str:
    """Make it stand out on a terminal."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def show(keep: bool) -> int:
    """Do the demo from its beginning to its end."""
    print(bold("kpbpf: Kubernetes Services for pods, in eBPF, on one machine"))
    demo = Demo(keep)
    demo.run()
    if demo.failures:
        print(f"\nEnd of the daemon's log:\n{demo.steps.kpbpf.log_tail()}")
        print(f"\n{bold(f'{demo.failures} of {demo.number} steps did not hold.')}")
    else:
        print(f"\n{bold(f'All {demo.number} steps hold.')} ", end="")
        print("It stays up." if keep else "Nothing is left behind; KEEP=1 make demo leaves it up.")
    explain(keep)
    return 1 if demo.failures else 0


def explain(keep: bool) -> None:
    """What KEEP=1 leaves, and how to use it; and what there is without any cluster."""
    if keep:
        home = Kpbpf(World(PREFIX), DIRECTORY).home
        node = World(PREFIX).node.netns
        print(f"""
To look:
   export KPBPF_PINS={home.pins} KPBPF_RUN={home.run}
   alias kpbpf='nsenter --net={node} {ROOT}/.venv/bin/kpbpf'
   kpbpf svc ls        (also: ep ls, flow ls, drop ls, status)
   kpbpf trace client {WEB[4]} 80
   nsenter --net=/run/netns/{PREFIX}-pod-client bash -c \\
       'exec 3<>/dev/tcp/{WEB[4]}/80; echo who >&3; head -n 1 <&3'
To change something at the API server, edit its YAML, and tell it (in {ROOT}):
   {APPLY} {DIRECTORY}/manifests/web.yaml
To take it down:
   make demo-down""")
    print("""
On your own cluster: deploy/README.md. No cluster? A directory of the same YAML does as well,
and pods and Services can be told by hand:
   kpbpf run --manifests DIRECTORY --node node-1
   kpbpf ep add --ifname=eth0 --netns=/run/netns/POD
   kpbpf svc add --service=10.96.0.100:80 --backend=10.42.0.3:8080""")


def apply(path: Path) -> int:
    """Put the objects of a file to the API server of a demo that was kept."""
    try:
        count = DemoApi(World(PREFIX)).apply(path)
    except FileNotFoundError as error:
        print(f"There is no {error.filename}. KEEP=1 make demo leaves an API server to apply to.")
        return 1
    except (OSError, AssertionError, yaml.YAMLError) as error:
        print(f"Not applied: {path}: {error}")
        return 1
    print(f"{count} objects of {path} are at the API server")
    return 0


def interrupt(_number: int, _frame: object) -> None:
    """End as Ctrl-C does: what was made is taken down first."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo, take a kept one down, or change objects of one."""
    parser = argparse.ArgumentParser(description="The demo; KEEP=1 leaves it up.")
    parser.add_argument("--down", action="store_true", help="take down what KEEP=1 left")
    parser.add_argument("--apply", type=Path, metavar="FILE", help="YAML for its API server")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("The demo makes network namespaces and loads programs: run it as root.")
        return 1
    if arguments.apply:
        return apply(arguments.apply)
    take_down()
    if arguments.down:
        print("The demo is down.")
        return 0
    keep = os.environ.get("KEEP", "") not in ("", "0")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    stays = False
    try:
        code = show(keep)
        stays = keep
    except KeyboardInterrupt:
        print("\nInterrupted: everything is taken down.", flush=True)
        code = INTERRUPTED
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # nothing cuts this short but a kill
        if not stays:
            take_down()
    return code


if __name__ == "__main__":
    sys.exit(main())
