"""What deploy/ holds, rendered: every overlay, and the daemon's container in it."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.deploy.kustomize import FILE, Object, pod_spec, render

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.parent.name for path in (DEPLOY / "overlays").glob(f"*/{FILE}"))
RUNNING = [name for name in OVERLAYS if name != "cleanup"]
"""Overlays that run the daemon."""


def objects(overlay: str) -> list[Object]:
    """Every object of an overlay."""
    return render(DEPLOY / "overlays" / overlay)


def the(kind: str, overlay: str, name: str = "kpbpf") -> Object:
    """The one object of a kind and name."""
    (found,) = (
        each
        for each in objects(overlay)
        if each["kind"] == kind and each["metadata"]["name"] == name
    )
    return found


def pod(overlay: str) -> Object:
    """The daemon's pod."""
    found = pod_spec(the("DaemonSet", overlay))
    assert found is not None
    return found


def container(overlay: str) -> Object:
    """The daemon's container."""
    (found,) = pod(overlay)["containers"]
    assert isinstance(found, dict)
    return found


def capabilities(overlay: str) -> list[str]:
    """Those the daemon has, in the kernel's names: CAP_BPF."""
    added = container(overlay)["securityContext"]["capabilities"]["add"]
    return [f"CAP_{name}" for name in added]


def config(overlay: str) -> str:
    """The text of the daemon's configuration."""
    text = the("ConfigMap", overlay)["data"]["config.yaml"]
    assert isinstance(yaml.safe_load(text), dict)
    return str(text)


def files() -> list[Path]:
    """Every YAML file of base and overlays that is not a kustomization."""
    found = [*(DEPLOY / "base").glob("*.yaml"), *(DEPLOY / "overlays").glob("*/*.yaml")]
    return [path for path in found if path.name != FILE]


def listed() -> list[Path]:
    """The same, as far as some kustomization names it."""
    found = []
    for path in [*(DEPLOY / "base").glob(FILE), *(DEPLOY / "overlays").glob(f"*/{FILE}")]:
        wanted = yaml.safe_load(path.read_text())
        names = [*wanted["resources"], *(each["path"] for each in wanted.get("patches", []))]
        found += [path.parent / name for name in names if name.endswith(".yaml")]
    return found
