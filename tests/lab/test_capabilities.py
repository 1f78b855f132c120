"""kpbpf with just the capabilities that the manifests name: enough, and none to spare."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deploy import overlays
from tests.deploy.kustomize import containers
from tests.lab.agent import Kpbpf, until
from tests.lab.lab import Lab
from tests.lab.sockets import ask_tcp
from tests.lab.world import FAMILIES, World

DAEMON = overlays.capabilities("policy-only")
FIRST_WORDS = ("run", "cleanup")
"""Commands that the manifests start; all others are a person's, who is root on the node."""


class Confined(Kpbpf):
    """kpbpf whose pods' commands have these capabilities only, and can gain none."""

    capabilities = DAEMON

    def command(self, *arguments: str) -> list[str]:
        """Return the argv; of a pod's command with setpriv before it."""
        whole = super().command(*arguments)
        if arguments[0] not in FIRST_WORDS:
            return whole
        at = whole.index("--") + 1
        return [*whole[:at], *confine(self.capabilities), *whole[at:]]


def confine(capabilities: list[str]) -> list[str]:
    """Words before a command that take away all other capabilities from it."""
    names = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in capabilities)])
    sets = [f"--{which}={names}" for which in ("bounding-set", "inh-caps")]
    return ["setpriv", *sets, "--no-new-privs", "--"]


class ConfinedLab(Lab):
    """A Lab whose daemon has the capabilities of the pod."""

    def __init__(self, directory: Path, **environment: str) -> None:
        super().__init__(directory, **environment)
        self.kpbpf = Confined(self.world, directory, **environment)


@pytest.mark.parametrize("mechanism", ["tcx", "clsact"])
def test_the_daemon_serves_and_attaches_with_the_capabilities_of_its_pod(
    tmp_path: Path, mechanism: str
) -> None:
    with ConfinedLab(tmp_path, KPBPF_ATTACH=mechanism) as lab, lab.service(lab.a) as service:
        lab.kpbpf.stop()
        for pod in lab.world.pods.values():
            take_programs_off(lab, pod.host_ifname)
        lab.kpbpf.start()
        for family in FAMILIES:
            answer = ask_tcp(lab.client, service.addresses[family], service.port)
            assert answer.server == "pod-a"


def take_programs_off(lab: Lab, ifname: str) -> None:
    """Detach what is attached, by other means than kpbpf's; it must be back after a start."""
    (link,) = json.loads(lab.world.node.run("ip", "-json", "link", "show", "dev", ifname))
    for pin in lab.kpbpf.home.pins.glob(f"v*/links/{link['ifindex']}-*"):
        if pin.is_file():  # a link of tcx; clsact leaves a note of its own kind
            pin.unlink()
    subprocess.run(
        ["nsenter", f"--net={lab.world.node.netns}", "tc", "qdisc", "del", "dev", ifname, "clsact"],
        check=False,
        capture_output=True,
    )


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Confined]:
    """kpbpf on a node without pods, not started yet."""
    with ExitStack() as stack:
        world = stack.enter_context(World())
        kpbpf = Confined(world, tmp_path)
        stack.callback(kpbpf.close)
        yield kpbpf


@pytest.mark.parametrize("missing", DAEMON)
def test_the_daemon_does_not_start_without_any_one_of_them(bare: Confined, missing: str) -> None:
    bare.capabilities = [name for name in DAEMON if name != missing]
    with pytest.raises(AssertionError, match="the daemon ended: "):
        bare.start()


def test_cleanup_needs_no_more_than_its_pod_has_and_empties_what_is_mounted(
    make_lab: Callable[..., Lab],
) -> None:
    lab = make_lab()
    lab.kpbpf.stop()
    home = lab.kpbpf.home
    pod = overlays.the("DaemonSet", "cleanup", "kpbpf-cleanup")
    of_pod = {container["name"]: container for container in containers(pod)}
    hand_over = "kpbpf cleanup --keep-connections --yes --wait 600"
    assert of_pod["hand-over"]["command"] == ["sh", "-c", f"{hand_over} || true"]
    for name, command in (
        ("hand-over", hand_over.split()),
        ("cleanup", of_pod["cleanup"]["command"]),
    ):
        capabilities = of_pod[name]["securityContext"]["capabilities"]["add"]
        added = [f"CAP_{capability}" for capability in capabilities]
        words = lab.kpbpf.command(*command[1:])
        at = words.index("--") + 1
        # As in the pod: the run directory is a mount of its own in a root that is read-only.
        mount = 'mount --bind "$1" "$1"; mount -o remount,bind,ro /; shift; exec "$@"'
        mounted = ["unshare", "--mount", "sh", "-ec", mount, "sh"]
        done = subprocess.run(
            [*words[:at], *mounted, str(home.run), *confine(added), *words[at:]],
            check=False,
            capture_output=True,
            text=True,
            env=lab.kpbpf.environment,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert not home.pins.exists()
    assert list(home.run.iterdir()) == []
    veth = lab.client.host_ifname
    until(
        lambda: "kpbpf" not in lab.world.node.run("tc", "filter", "show", "dev", veth, "ingress"),
        "no program is left",
    )
