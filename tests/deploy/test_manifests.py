"""The manifests are valid, fit together, and say what the code says."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from kpbpf import home
from kpbpf.cli.main import build_parser
from kpbpf.cli.run import asked
from kpbpf.datapath import bpffs
from kpbpf.settings import Settings, read
from kpbpf.status import own_version
from tests.deploy import overlays
from tests.deploy.kustomize import Object, containers, pod_spec

KUBERNETES = ("1.29", "1.32", "1.37")
"""Versions whose schemas every object must satisfy, unknown fields refused."""

SINCE_1_30 = {"appArmorProfile"}
"""Fields that older API servers drop, with a warning; deploy/README.md says what to do there."""

each_overlay = pytest.mark.parametrize("overlay", overlays.OVERLAYS)
each_running = pytest.mark.parametrize("overlay", overlays.RUNNING)


@each_overlay
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_satisfies_the_schema_of_its_kind(overlay: str, version: str) -> None:
    for each in overlays.objects(overlay):
        if version < "1.30" and (pod := pod_spec(each)):
            for name in SINCE_1_30:
                pod["securityContext"].pop(name)
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize(
    "path", [("spec", "updateStratgy"), ("spec", "template", "spec", "hostNet")]
)
def test_a_misspelt_field_does_not_satisfy_it(path: tuple[str, ...]) -> None:
    made = overlays.the("DaemonSet", "policy-only")
    inner = made
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, KUBERNETES[-1], strict=True)


def test_every_file_is_part_of_a_kustomization() -> None:
    assert sorted(overlays.files()) == sorted(overlays.listed())


@each_overlay
def test_every_image_has_the_version_of_this_package(overlay: str) -> None:
    images = {c["image"] for each in overlays.objects(overlay) for c in containers(each)}
    assert images == {f"kpbpf:{own_version()}"}


@each_overlay
def test_the_selector_finds_its_own_pods_and_no_other_overlays(overlay: str) -> None:
    (made,) = (each for each in overlays.objects(overlay) if each["kind"] == "DaemonSet")
    labels = made["spec"]["template"]["metadata"]["labels"]
    selector = made["spec"]["selector"]["matchLabels"]
    assert selector.items() <= labels.items()
    assert ("cleanup" in selector.values()) == (overlay == "cleanup")


@each_overlay
def test_a_volume_is_mounted_for_every_mount_and_no_volume_is_idle(overlay: str) -> None:
    for each in overlays.objects(overlay):
        mounted = {m["name"] for c in containers(each) for m in c.get("volumeMounts", [])}
        assert mounted == {v["name"] for v in (pod_spec(each) or {}).get("volumes", [])}


# ---- the daemon's container ------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], Settings]:
    """What the daemon makes of an overlay's arguments, environment and configuration."""

    def find_out(overlay: str) -> Settings:
        (tmp_path / "config.yaml").write_text(overlays.config(overlay))
        words = [
            word.replace("$(NODE_NAME)", "node-1").replace("/etc/kpbpf", str(tmp_path))
            for word in overlays.container(overlay)["args"]
        ]
        environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
        return read(asked(parsed(*words)), environment, "wrong-name")

    return find_out


def parsed(*words: str) -> argparse.Namespace:
    """The command line of the daemon; a mistake in it is shown."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return build_parser(["run"]).parse_args(["run", *words])
    except SystemExit:
        raise AssertionError(said.getvalue()) from None


@each_running
def test_the_daemon_accepts_its_arguments_and_configuration(
    settings: Callable[[str], Settings], overlay: str
) -> None:
    found = settings(overlay)
    assert found.node == "node-1"
    assert found.api is not None
    assert found.api.kubeconfig is None, "the pod's service account"
    assert found.follow_pods
    assert found.warnings == ()


@each_running
def test_the_probes_ask_where_the_daemon_listens(
    settings: Callable[[str], Settings], overlay: str
) -> None:
    found = settings(overlay)
    assert found.health is not None
    assert found.metrics is not None
    wanted = {
        "startupProbe": (found.health.port, "/livez"),
        "livenessProbe": (found.health.port, "/livez"),
        "readinessProbe": (found.metrics.port, "/readyz"),
    }
    made = overlays.container(overlay)
    ports = {port["name"]: port["containerPort"] for port in made["ports"]}
    for probe, (port, path) in wanted.items():
        asks = made[probe]["httpGet"]
        assert (ports[asks["port"]], asks["path"], asks["host"]) == (port, path, "127.0.0.1")
    for server in (found.health, found.metrics):
        assert server.host in ("127.0.0.1", "0.0.0.0")


def test_beside_kube_proxy_no_port_of_kube_proxys_is_taken(
    settings: Callable[[str], Settings],
) -> None:
    defaults, beside = Settings(node="any"), settings("policy-only")
    taken = {address.port for address in (defaults.health, defaults.metrics) if address}
    ours = {address.port for address in (beside.health, beside.metrics) if address}
    assert len(ours) == 2
    assert not ours & taken
    assert {port["hostPort"] for port in overlays.container("policy-only")["ports"]} == ours


def test_without_kube_proxy_the_ports_are_kube_proxys(
    settings: Callable[[str], Settings],
) -> None:
    defaults, found = Settings(node="any"), settings("kube-proxy-replacement")
    assert (found.health, found.metrics) == (defaults.health, defaults.metrics)


def test_without_kube_proxy_the_api_server_is_reached_by_an_address_of_its_own() -> None:
    named = {
        each["name"]: each["valueFrom"]["configMapKeyRef"]
        for each in overlays.container("kube-proxy-replacement")["env"]
        if each["name"].startswith("KUBERNETES_SERVICE_")
    }
    assert set(named) == {"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"}
    data = overlays.the("ConfigMap", "kube-proxy-replacement", "kpbpf-api-server")["data"]
    for reference in named.values():
        assert reference["name"] == "kpbpf-api-server"
        assert reference["key"] in data
        assert not reference.get("optional"), "without it the pod waits, and says for what"


@each_running
def test_the_pins_and_the_run_directory_are_the_nodes_own(overlay: str) -> None:
    mounts = {m["mountPath"]: m["name"] for m in overlays.container(overlay)["volumeMounts"]}
    volumes = {v["name"]: v for v in overlays.pod(overlay)["volumes"]}
    for path in (bpffs.MOUNT_POINT, home.RUN):
        assert volumes[mounts[str(path)]]["hostPath"]["path"] == str(path)
    assert home.PINS.is_relative_to(bpffs.MOUNT_POINT)


@each_overlay
def test_nothing_is_privileged_and_every_capability_is_named(overlay: str) -> None:
    for each in overlays.objects(overlay):
        for made in containers(each):
            context: dict[str, Any] = made["securityContext"]
            assert context["privileged"] is False
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            assert "ALL" not in context["capabilities"].get("add", [])
            assert "limits" not in made["resources"]


def test_only_the_ipvlan_overlay_may_do_what_an_administrator_may() -> None:
    least = overlays.capabilities("policy-only")
    assert overlays.capabilities("kube-proxy-replacement") == least
    assert set(overlays.capabilities("ipvlan")) - set(least) == {"CAP_SYS_ADMIN"}
    assert "CAP_SYS_ADMIN" not in least


def test_two_daemons_never_meet_on_a_node() -> None:
    rolling = overlays.the("DaemonSet", "policy-only")["spec"]["updateStrategy"]["rollingUpdate"]
    assert rolling["maxSurge"] == 0
    (term,) = affinity(overlays.the("DaemonSet", "cleanup", "kpbpf-cleanup"))
    labels = overlays.the("DaemonSet", "policy-only")["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()


def affinity(daemon_set: Object) -> list[Object]:
    """What must not be on a node of this DaemonSet's pods."""
    pod = pod_spec(daemon_set)
    assert pod is not None
    terms = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert isinstance(terms, list)
    return terms
