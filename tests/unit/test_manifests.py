"""A directory of manifests: every change is seen, and what is wrong harms only itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpbpf.kube import manifests
from kpbpf.kube.manifests import ManifestSource
from kpbpf.model.objects import Key
from kpbpf.model.service import Service
from tests import make

WEB = Key("Service", "default", "web")


class Folder:
    """A directory with manifests, and the source that reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = ManifestSource([path])

    def write(self, name: str, *objects: make.Raw) -> None:
        (self.path / name).write_text(make.text(*objects))

    def changed(self) -> dict[str, str]:
        """What became of which object: "gone", or its first port or name."""
        return {
            event.key.path: "gone" if event.model is None else told(event.model)
            for event in self.source.refresh()
        }

    def problems(self) -> list[str]:
        return [str(problem).replace(f"{self.path}/", "") for problem in self.source.problems()]


def told(model: object) -> str:
    return str(model.ports[0].port) if isinstance(model, Service) else type(model).__name__


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    yield folder
    folder.source.close()


# ---- what comes, changes and goes --------------------------------------------------------


def test_objects_of_every_kind_in_files_of_every_kind(folder: Folder) -> None:
    folder.write("a.yaml", make.service(), make.slice_())
    folder.write("b.json", make.node())
    (folder.path / "c.yml").write_text(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n"
        "  metadata:\n    name: prod\n    creationTimestamp: 2024-01-01T00:00:00Z\n"
    )
    (folder.path / ".hidden.yaml").write_text("nonsense: [")
    (folder.path / "readme.txt").write_text("nonsense: [")
    assert folder.changed() == {
        "default/web": "80",
        "default/web-abcde": "EndpointSlice",
        "node-a": "Node",
        "prod": "Namespace",
    }
    assert folder.problems() == []


def test_only_what_changed_is_told(folder: Folder) -> None:
    folder.write("a.yaml", make.service("a", "10.96.0.1"), make.service("b", "10.96.0.2"))
    folder.changed()
    folder.write("a.yaml", make.service("a", "10.96.0.1"), make.service("b", "10.96.0.2", [81]))
    assert folder.changed() == {"default/b": "81"}
    folder.write("a.yaml", make.service("b", "10.96.0.2", [81]))
    assert folder.changed() == {"default/a": "gone"}
    (folder.path / "a.yaml").unlink()
    assert folder.changed() == {"default/b": "gone"}
    assert folder.changed() == {}


def test_an_object_moves_to_another_file(folder: Folder) -> None:
    folder.write("a.yaml", make.service())
    folder.changed()
    (folder.path / "a.yaml").rename(folder.path / "z.yaml")
    assert folder.changed() == {}
    (folder.path / "z.yaml").rename(folder.path / "z.off")
    assert folder.changed() == {"default/web": "gone"}


def test_where_an_object_stands(folder: Folder) -> None:
    folder.write("a.yaml", make.service(), make.slice_())
    folder.changed()
    assert folder.source.where(Key("EndpointSlice", "default", "web-abcde")) == (
        f"{folder.path}/a.yaml: document 2"
    )
    assert folder.source.where(Key("Service", "x", "y")) == "Service x/y"


# ---- what is wrong -------------------------------------------------------------------------


def test_a_wrong_object_is_named_and_its_last_good_state_stays(folder: Folder) -> None:
    folder.write("a.yaml", make.service(), make.service("other", "10.96.0.11"))
    folder.changed()
    folder.write("a.yaml", make.service("other", "10.96.0.11", [81]), make.service(ports=[-1]))
    assert folder.changed() == {"default/other": "81"}
    (problem,) = folder.problems()
    assert problem == (
        "a.yaml: document 2: Service default/web: spec.ports[0].port: "
        "expected a number from 1 to 65535, got -1"
    )
    folder.write("a.yaml", make.service("other", "10.96.0.11", [81]), make.service(ports=[82]))
    assert folder.changed() == {"default/web": "82"}
    assert folder.problems() == []


def test_a_file_that_does_not_parse_keeps_all_its_objects(folder: Folder) -> None:
    folder.write("a.yaml", make.service(), make.slice_())
    folder.write("b.yaml", make.node())
    folder.changed()
    (folder.path / "a.yaml").write_text("kind: Service\nmetadata: {name: [\n")
    folder.write("b.yaml", make.node(zone="z"))
    assert folder.changed() == {"node-a": "Node"}
    (problem,) = folder.problems()
    assert problem.startswith("a.yaml: manifest: the file: expected readable YAML, got ")
    assert "at line 3, column 1" in problem
    folder.write("a.yaml", make.slice_())
    assert folder.changed() == {"default/web": "gone"}
    assert folder.problems() == []


def test_nothing_goes_while_a_document_cannot_be_identified(folder: Folder) -> None:
    folder.write("a.yaml", make.service(), make.slice_())
    folder.changed()
    nameless = make.service()
    nameless["metadata"] = {"nam": "web"}
    folder.write("a.yaml", nameless, make.slice_(["10.1.0.7"]))
    assert folder.changed() == {"default/web-abcde": "EndpointSlice"}
    assert folder.problems() == [
        "a.yaml: document 1: object: metadata.name: expected a DNS name in lower case, got nothing"
    ]
    folder.write("a.yaml", make.slice_(["10.1.0.7"]))
    assert folder.changed() == {"default/web": "gone"}


def test_a_remark_is_a_problem_but_the_object_counts(folder: Folder) -> None:
    folder.write("a.yaml", make.service(externalIPs=["x"]))
    assert folder.changed() == {"default/web": "80"}
    (problem,) = folder.problems()
    assert problem == (
        "a.yaml: document 1: Service default/web: spec.externalIPs[0]: "
        'expected an IP address, got "x"'
    )


def test_nobody_here_allocates_cluster_ips(folder: Folder) -> None:
    raw = make.service()
    del raw["spec"]["clusterIP"], raw["spec"]["clusterIPs"]
    folder.write("a.yaml", raw, make.service("headless", "None"))
    folder.changed()
    (problem,) = folder.problems()
    assert "spec.clusterIP: expected an address" in problem


def test_other_kinds_are_named_once_and_ignored(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}
    knative = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "a"}}
    with caplog.at_level("INFO"):
        folder.write("a.yaml", deployment, deployment, knative, make.service())
        assert folder.changed() == {"default/web": "80"}
    assert folder.problems() == []
    assert sorted(folder.source.ignored()) == [
        "apps/v1 Deployment",
        "serving.knative.dev/v1 Service",
    ]
    assert caplog.text.count("Deployment") == 1


def test_problems_are_logged_once_and_when_they_are_mended(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        folder.write("a.yaml", make.service(ports=[0]))
        folder.changed()
        folder.write("b.yaml", make.node())
        folder.changed()
        assert caplog.text.count("spec.ports[0].port") == 1
        folder.write("a.yaml", make.service())
        folder.changed()
        assert caplog.text.count("mended: ") == 1


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\xff\xfe", "a byte that is not UTF-8 at offset 0"),
        (b"a: " + b"x" * 200, "more than 0 MiB"),
    ],
)
def test_files_that_are_no_text(
    folder: Folder, content: bytes, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "MAX_FILE_BYTES", 100)
    (folder.path / "a.yaml").write_bytes(content)
    assert folder.changed() == {}
    assert folder.problems() == [f"a.yaml: manifest: the file: expected readable YAML, got {found}"]


def test_things_that_are_no_files_block_nobody(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe.yaml")
    (folder.path / "folder.yaml").mkdir()
    (folder.path / "broken.yaml").symlink_to("nowhere")
    folder.write("good.yaml", make.service())
    assert folder.changed() == {"default/web": "80"}
    assert len(folder.problems()) == 2


# ---- one object, two places ------------------------------------------------------------------


def test_of_two_files_with_one_object_the_first_by_name_counts(folder: Folder) -> None:
    folder.write("b.yaml", make.service(ports=[2]))
    assert folder.changed() == {"default/web": "2"}
    folder.write("a.yaml", make.service(ports=[1]))
    assert folder.changed() == {"default/web": "1"}
    (problem,) = folder.problems()
    assert problem == (
        "b.yaml: document 1: Service default/web: metadata.name: expected an object that no "
        "other manifest holds, got one that a.yaml holds too, which counts"
    )
    (folder.path / "a.yaml").unlink()
    assert folder.changed() == {"default/web": "2"}
    assert folder.problems() == []


def test_within_a_file_the_first_counts(folder: Folder) -> None:
    folder.write("a.yaml", make.service(ports=[1]), make.service(ports=[2]))
    assert folder.changed() == {"default/web": "1"}
    (problem,) = folder.problems()
    assert "document 2" in problem


def test_an_object_that_was_never_good_does_not_stand_in_the_way(folder: Folder) -> None:
    folder.write("a.yaml", make.service(ports=[0]))
    folder.write("b.yaml", make.service(ports=[2]))
    assert folder.changed() == {"default/web": "2"}


def test_directories_count_in_the_order_given(tmp_path: Path) -> None:
    first, second = tmp_path / "z", tmp_path / "a"
    for directory, port in ((first, 1), (second, 2)):
        directory.mkdir()
        (directory / "x.yaml").write_text(make.text(make.service(ports=[port])))
    source = ManifestSource([first, second])
    (event,) = source.refresh()
    assert told(event.model) == "1"
    source.close()


# ---- how files are written ---------------------------------------------------------------------


def test_a_file_is_not_read_while_it_is_written(folder: Folder) -> None:
    folder.write("a.yaml", make.service(), make.slice_())
    folder.changed()
    with (folder.path / "a.yaml").open("w") as file:
        # What is there so far could be read, and would lack the slice.
        file.write(make.text(make.service(ports=[81])) + "---\n")
        file.flush()
        assert folder.changed() == {}
        folder.source.directories.look_again()
        assert folder.changed() == {}
        file.write(make.text(make.slice_()))
    assert folder.changed() == {"default/web": "81"}


def test_an_editor_writes_aside_and_renames(folder: Folder) -> None:
    folder.write("a.yaml", make.service())
    folder.changed()
    (folder.path / "a.yaml").rename(folder.path / "a.yaml~")
    (folder.path / ".a.yaml.swp").write_text(make.text(make.service(ports=[81])))
    (folder.path / ".a.yaml.swp").rename(folder.path / "a.yaml")
    assert folder.changed() == {"default/web": "81"}


def test_a_link_is_complete_at_once(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    aside = tmp_path_factory.mktemp("aside")
    for name in ("hard", "soft"):
        (aside / name).write_text(make.text(make.service(name, "10.96.0.1")))
    folder.changed()
    (folder.path / "hard.yaml").hardlink_to(aside / "hard")
    (folder.path / "soft.yaml").symlink_to(aside / "soft")
    assert folder.changed() == {"default/hard": "80", "default/soft": "80"}


def test_a_mounted_config_map_swaps_its_data_link(folder: Folder) -> None:
    def version(name: str, port: int) -> None:
        (folder.path / name).mkdir()
        (folder.path / name / "a.yaml").write_text(make.text(make.service(ports=[port])))
        (folder.path / "..data_tmp").symlink_to(name)
        (folder.path / "..data_tmp").rename(folder.path / "..data")

    version("..2026_01", 1)
    (folder.path / "a.yaml").symlink_to("..data/a.yaml")
    assert folder.changed() == {"default/web": "1"}
    version("..2026_02", 2)
    assert folder.changed() == {"default/web": "2"}


def test_a_missing_directory_keeps_its_objects_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "here"
    path.mkdir()
    folder = Folder(path)
    folder.write("a.yaml", make.service())
    folder.changed()
    path.rename(tmp_path / "away")
    assert folder.changed() == {}
    assert len(folder.problems()) == 1
    path.mkdir()
    folder.write("a.yaml", make.service(ports=[81]))
    folder.source.directories.look_again()
    assert folder.changed() == {"default/web": "81"}
    folder.write("a.yaml", make.service(ports=[82]))
    assert folder.changed() == {"default/web": "82"}
    assert folder.problems() == []
    folder.source.close()


# ---- in time -----------------------------------------------------------------------------------


@pytest.fixture
def notified(folder: Folder) -> Iterator[threading.Event]:
    """Set whenever the watching thread says that something changed."""
    event, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=folder.source.directories.watch, args=(event.set, stop))
    thread.start()
    yield event
    stop.set()
    thread.join()


def test_every_change_is_told(folder: Folder, notified: threading.Event) -> None:
    folder.changed()
    for port in range(1, 21):
        notified.clear()
        folder.write("a.yaml", make.service(ports=[port]))
        while not folder.changed():
            assert notified.wait(5)
            notified.clear()


def test_an_idle_directory_wakes_nobody(folder: Folder, notified: threading.Event) -> None:
    folder.write("a.yaml", make.service())
    assert notified.wait(5)
    folder.changed()
    time.sleep(0.1)
    notified.clear()
    assert not notified.wait(0.3)


def test_the_slow_look_finds_what_inotify_missed(folder: Folder) -> None:
    folder.write("a.yaml", make.service())
    folder.changed()
    inotify = folder.source.directories._inotify
    assert inotify is not None
    folder.write("a.yaml", make.service(ports=[81]))
    folder.write("b.yaml", make.node())
    inotify.read()
    assert folder.changed() == {}
    folder.source.directories.look_again()
    assert folder.changed() == {"default/web": "81", "node-a": "Node"}
