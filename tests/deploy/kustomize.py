"""Render a kustomization as `kubectl kustomize` does, for just what deploy/ uses of it.

That is: resources (files and directories), strategic merge patches from files, labels, images.
Anything else in a kustomization.yaml is an error. What it gives for kustomize_example/ is
compared with what the real one gave.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

FILE = "kustomization.yaml"
KNOWN = {"apiVersion", "kind", "resources", "patches", "labels", "images"}
LIST_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}
"""Lists of a pod that are merged item by item, and what tells the items apart."""


class Unsupported(Exception):
    """A kustomization that asks for more than this renderer knows."""


def render(directory: Path) -> list[Object]:
    """Return the objects of a kustomization, in the order of its resources."""
    wanted = yaml.safe_load((directory / FILE).read_text())
    _refuse_unknown(wanted, KNOWN, directory / FILE)
    objects = [made for name in wanted["resources"] for made in _resource(directory / name)]
    for patch in wanted.get("patches", []):
        _refuse_unknown(patch, {"path"}, directory / FILE)
        _patch(objects, load(directory / patch["path"]))
    for labels in wanted.get("labels", []):
        _label(objects, labels, directory / FILE)
    for image in wanted.get("images", []):
        _refuse_unknown(image, {"name", "newName", "newTag"}, directory / FILE)
        _set_image(objects, image)
    return objects


def load(path: Path) -> list[Object]:
    """Read the objects of one file."""
    # One by one and copied: an anchor must not tie two places together.
    return [copy.deepcopy(each) for each in yaml.safe_load_all(path.read_text()) if each]


def pod_spec(item: Object) -> Object | None:
    """The pod that an object makes, if it makes any."""
    found = item.get("spec", {}).get("template", {}).get("spec")
    return found if isinstance(found, dict) else None


def containers(item: Object) -> Iterator[Object]:
    """Every container of the pod that an object makes, initContainers first."""
    pod = pod_spec(item) or {}
    yield from pod.get("initContainers", [])
    yield from pod.get("containers", [])


def identity(item: Object) -> tuple[str, str, str]:
    """Kind, namespace and name."""
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _resource(path: Path) -> list[Object]:
    return render(path) if path.is_dir() else load(path)


def _patch(objects: list[Object], patches: list[Object]) -> None:
    for patch in patches:
        (at,) = [i for i, each in enumerate(objects) if identity(each) == identity(patch)]
        objects[at] = _merged(objects[at], patch)


def _merged(old: Any, new: Any, key: str = "") -> Any:
    """Merge as strategic merge patches do."""
    if isinstance(old, dict) and isinstance(new, dict):
        merged = {**old, **{name: _merged(old.get(name), new[name], name) for name in new}}
        return {name: value for name, value in merged.items() if value is not None}
    if isinstance(old, list) and isinstance(new, list) and key in LIST_KEYS:
        return _merged_items(old, new, LIST_KEYS[key])
    return new


def _merged_items(old: list[Object], new: list[Object], key: str) -> list[Object]:
    """Merge items that have the same key: those of the patch come first, then the others."""
    directives = [item["$patch"] for item in new if "$patch" in item]
    if directives not in ([], ["replace"]):
        raise Unsupported(f"$patch: {directives}")
    changes = [item for item in new if "$patch" not in item]
    if directives:
        return changes
    known = {item[key]: item for item in old}
    merged = [_merged(known.pop(item[key], {}), item) for item in changes]
    return merged + list(known.values())


def _label(objects: list[Object], labels: Object, where: Path) -> None:
    _refuse_unknown(labels, {"pairs", "includeSelectors", "includeTemplates"}, where)
    if labels.get("includeSelectors"):
        raise Unsupported(f"{where}: includeSelectors")
    for each in objects:
        places = [each["metadata"]]
        if labels.get("includeTemplates") and pod_spec(each):
            places.append(each["spec"]["template"]["metadata"])
        for metadata in places:
            metadata["labels"] = {**metadata.get("labels", {}), **labels["pairs"]}


def _set_image(objects: list[Object], image: Object) -> None:
    for each in objects:
        for container in containers(each):
            name, colon, tag = container["image"].partition(":")
            if name == image["name"]:
                tag = image.get("newTag", tag)
                container["image"] = image.get("newName", name) + (f":{tag}" if tag else colon)


def _refuse_unknown(given: Object, known: set[str], where: Path) -> None:
    unknown = ", ".join(sorted(set(given) - known))
    if unknown:
        raise Unsupported(f"{where}: {unknown}")
