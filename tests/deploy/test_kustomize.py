"""The renderer of these tests gives what the real kustomize gives, and refuses what it is not for.

kustomize_example/expected.yaml is what `kubectl kustomize overlay` (kustomize 5.5) printed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.kustomize import FILE, Unsupported, identity, load, render

EXAMPLE = Path(__file__).parent / "kustomize_example"


def test_the_example_comes_out_as_from_the_real_kustomize() -> None:
    expected = {identity(each): each for each in load(EXAMPLE / "expected.yaml")}
    rendered = {identity(each): each for each in render(EXAMPLE / "overlay")}
    assert rendered == expected


@pytest.fixture
def kustomization(tmp_path: Path) -> Callable[[str], Path]:
    """Make a kustomization with one object and these lines more."""

    def make(more: str) -> Path:
        (tmp_path / "one.yaml").write_text("{kind: ConfigMap, metadata: {name: one}}")
        (tmp_path / FILE).write_text(f"resources: [one.yaml]\n{more}\n")
        return tmp_path

    return make


@pytest.mark.parametrize(
    "more",
    [
        "namePrefix: my-",
        "patches: [{patch: '{}', target: {kind: ConfigMap}}]",
        "labels: [{pairs: {a: b}, includeSelectors: true}]",
        "labels: [{pairs: {a: b}, fields: []}]",
        "images: [{name: a, digest: b}]",
    ],
)
def test_what_the_renderer_does_not_know_is_refused(
    kustomization: Callable[[str], Path], more: str
) -> None:
    with pytest.raises(Unsupported):
        render(kustomization(more))


def test_a_patch_that_fits_no_object_is_refused(kustomization: Callable[[str], Path]) -> None:
    directory = kustomization("patches: [{path: patch.yaml}]")
    (directory / "patch.yaml").write_text("{kind: ConfigMap, metadata: {name: two}}")
    with pytest.raises(ValueError, match="not enough values"):
        render(directory)
