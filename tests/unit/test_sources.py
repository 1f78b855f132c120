"""Several sources as one: the earlier one's object counts, and the other is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpbpf.kube.manifests import ManifestSource
from kpbpf.kube.source import Sources, Unread
from kpbpf.model.objects import Key
from kpbpf.model.service import Service
from tests import make

WEB = Key("Service", "default", "web")


class Two:
    """Two directories, each a source of its own."""

    def __init__(self, root: Path) -> None:
        self.folders = [root / "first", root / "second"]
        for folder in self.folders:
            folder.mkdir(parents=True)
        self.sources = Sources([ManifestSource([folder]) for folder in self.folders])

    def write(self, number: int, *raws: make.Raw) -> None:
        (self.folders[number] / "a.yaml").write_text(make.text(*raws))

    def changed(self) -> dict[Key, int | None]:
        """The first port of each Service that changed; None: it is gone."""
        return {
            change.key: change.model.ports[0].port if isinstance(change.model, Service) else None
            for change in self.sources.refresh()
        }


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def test_of_an_object_that_both_hold_the_first_counts_and_the_other_is_named(two: Two) -> None:
    two.write(1, make.service(ports=[82]))
    assert two.changed() == {WEB: 82}
    assert two.sources.problems() == []
    two.write(0, make.service(ports=[81]))
    assert two.changed() == {WEB: 81}
    (problem,) = two.sources.problems()
    assert str(two.folders[1]) in problem.where
    assert str(two.folders[0]) in problem.got
    assert str(two.folders[0]) in two.sources.where(WEB)


def test_what_the_first_gives_up_is_taken_from_the_second(two: Two) -> None:
    two.write(0, make.service(ports=[81]))
    two.write(1, make.service(ports=[82]))
    two.changed()
    two.write(0, make.service("other"))
    assert two.changed() == {WEB: 82, Key("Service", "default", "other"): 80}
    assert two.sources.problems() == []
    two.write(1)
    assert two.changed() == {WEB: None}
    assert two.sources.where(WEB) == "Service default/web"


def test_both_are_awaited_and_both_may_be_unread(two: Two) -> None:
    two.folders[1].rmdir()
    (two.folders[0] / "x.yaml").write_text("{")
    two.changed()
    assert two.sources.awaited() == [f"directory {two.folders[1]}"]
    assert two.sources.unread() == Unread((str(two.folders[0] / "x.yaml"), str(two.folders[1])))
    two.folders[1].mkdir()
    two.write(1, make.service())


def test_both_are_watched(two: Two) -> None:
    import threading

    woken = threading.Event()
    two.changed()
    two.sources.start(woken.set)
    try:
        for number in (0, 1):
            woken.clear()
            two.write(number, make.service(f"web-{number}"))
            assert woken.wait(5)
            while Key("Service", "default", f"web-{number}") not in two.changed():
                assert woken.wait(5)
                woken.clear()
    finally:
        two.sources.close()
