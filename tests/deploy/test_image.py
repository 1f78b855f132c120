"""The image: what the two recipes share, and the file that build.py packs.

`make image` builds a whole one and starts kpbpf from it; here the same packer gets a small tree.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deploy.image import build, oci, recipe
from tests.deploy import overlays

NAME = "docker.io/library/kpbpf:1.2.3"
NEWEST = 1_700_000_000
DESCRIPTION = oci.Description("amd64", ["A=b"], {"label": "text"}, ["kpbpf", "run"], "0:0", NEWEST)


# ---- recipes -----------------------------------------------------------------------------------


def test_what_the_dockerfile_copies_is_there() -> None:
    copied = [line.rest.split()[:-1] for line in recipe.lines() if line.word == "COPY"]
    paths = [word for words in copied for word in words if not words[0].startswith("--from")]
    assert paths
    assert [path for path in paths if not (recipe.ROOT / path).exists()] == []


def test_every_package_of_ours_is_copied() -> None:
    project = tomllib.loads((recipe.ROOT / "pyproject.toml").read_text())
    found = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name for name in found if "*" not in name} <= set(recipe.sources())


def test_nothing_that_is_copied_is_kept_from_docker() -> None:
    ignored = (recipe.HERE / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    for path in recipe.sources():
        assert any(Path(path).is_relative_to(each) for each in let_in), path


def test_both_recipes_take_packages_and_installation_from_the_same_files() -> None:
    assert {"python3", "python3-bpfcc"} <= set(recipe.packages())
    whole = " ".join(line.rest for line in recipe.lines())
    assert "/tmp/packages.txt" in whole
    assert "deploy/image/install.sh" in whole
    shared = {package for package in recipe.packages() if package in whole.split()}
    assert shared == set(), "these are named in the Dockerfile too"


def test_the_image_starts_what_the_daemonset_starts() -> None:
    assert recipe.image().command == overlays.container("policy-only")["command"]
    assert recipe.image().user == "0:0"
    (path,) = (e for e in recipe.image().environment if e.startswith("PATH="))
    assert path.startswith("PATH=/opt/kpbpf/bin:")


def test_a_line_that_the_other_recipe_would_miss_is_an_error(tmp_path: Path) -> None:
    odd = tmp_path / "Dockerfile"
    odd.write_text('FROM base\nUSER 0:0\nCMD ["a"]\nWORKDIR /x\n')
    with pytest.raises(ValueError, match="WORKDIR in the last stage"):
        recipe.image(odd)


# ---- the file ----------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with each kind of file."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    program = root / "bin" / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (root / "bin" / "link").symlink_to("program")
    (root / "bin" / "dangling").symlink_to("/nowhere")
    os.link(program, root / "bin" / "second-name")
    os.mkfifo(root / "pipe")
    os.utime(program, (1, 1))
    return root


def image(tree: Path, target: Path) -> tuple[str, dict[str, bytes]]:
    """Pack a tree; return the image's digest and the files of its tar."""
    layer = oci.pack(tree, target.with_suffix(".layer"), NEWEST)
    digest = oci.write(target, layer, DESCRIPTION, NAME)
    files = {}
    with tarfile.open(target) as archive:
        for each in archive.getmembers():
            file = archive.extractfile(each)
            assert file is not None, f"{each.name} is no file"
            files[each.name] = file.read()
    return digest, files


def blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    """What a descriptor names; its digest and size are checked."""
    content = files[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert descriptor["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert descriptor["size"] == len(content)
    return content


def test_every_digest_in_the_image_is_that_of_its_content(tree: Path, tmp_path: Path) -> None:
    digest, files = image(tree, tmp_path / "image.tar")
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["digest"] == digest
    assert entry["annotations"]["io.containerd.image.name"] == NAME
    manifest = json.loads(blob(files, entry))
    config = json.loads(blob(files, manifest["config"]))
    (descriptor,) = manifest["layers"]
    layer = blob(files, descriptor)
    with tarfile.open(fileobj=io.BytesIO(layer)) as unpacked:
        assert "bin/program" in unpacked.getnames()
    assert config["config"]["Cmd"] == DESCRIPTION.command
    assert config["rootfs"]["diff_ids"] == [oci.sha256(gzip.decompress(layer))]


def test_older_dockers_find_the_same_image(tree: Path, tmp_path: Path) -> None:
    _, files = image(tree, tmp_path / "image.tar")
    (entry,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(blob(files, entry))
    (older,) = json.loads(files["manifest.json"])
    assert older["RepoTags"] == ["kpbpf:1.2.3"]
    assert files[older["Config"]] == blob(files, manifest["config"])
    assert [files[path] for path in older["Layers"]] == [blob(files, manifest["layers"][0])]


def test_the_layer_holds_files_and_links_as_they_are_and_no_devices(
    tree: Path, tmp_path: Path
) -> None:
    layer = oci.pack(tree, tmp_path / "layer", NEWEST)
    with tarfile.open(layer.path) as archive:
        found = {each.name: each for each in archive.getmembers()}
    assert sorted(found) == ["bin", "bin/dangling", "bin/link", "bin/program", "bin/second-name"]
    assert found["bin/program"].mode == 0o755
    assert found["bin/program"].mtime == 1
    assert found["bin/link"].linkname == "program"
    assert found["bin/second-name"].islnk()
    assert max(each.mtime for each in found.values()) == NEWEST


def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    first, _ = image(tree, tmp_path / "first.tar")
    os.utime(tree / "bin")
    second, _ = image(tree, tmp_path / "second.tar")
    assert first == second
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()


def test_the_builder_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        build.main(["--help"])
    assert end.value.code == 0
    assert "images import" in capsys.readouterr().out
