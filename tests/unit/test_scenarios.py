"""Stories in files: manifests are written and removed, and the maps hold what is expected.

Each file in scenarios/ is one story: `-- write NAME --` and a manifest, `-- remove NAME --`,
`-- restart --` for another daemon on the same maps, `-- expect --` and the lines that
tests.unit.reading makes of the maps, with the problems behind them. Every story runs twice:
undisturbed, and with one write in ten failing. After each step a fresh daemon must find
nothing to write.

With KPBPF_UPDATE=1 the expectations are written anew, to be reviewed as a diff.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from controllers.services import ServicesController
from kpbpf.kube.manifests import ManifestSource
from maps.fake import fake_tables
from tests.unit.reading import (
    member_lines,
    node_port_lines,
    range_lines,
    service_lines,
    whole_lines,
)

STORIES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
_MARK = re.compile(r"^-- (write|remove|restart|expect)(?: (\S+))? --\n", re.MULTILINE)


class Step(NamedTuple):
    verb: str
    name: str
    body: str


def steps(text: str) -> Iterator[Step]:
    """The steps of a story; what stands before the first one is its heading."""
    _, *parts = _MARK.split(text)
    for verb, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        yield Step(verb, name or "", body)


class Stage:
    """A directory and all that follows from it."""

    def __init__(self, directory: Path, fail_every: int) -> None:
        self.directory = directory
        self.tables = fake_tables()
        self.source, self.controller = self._daemon()
        self.fail_every = fail_every
        self.tables.fail_every(fail_every)

    def _daemon(self) -> tuple[ManifestSource, ServicesController]:
        source = ManifestSource([self.directory])
        controller = ServicesController(
            self.tables, "node-a", where=source.where, unread=source.unread
        )
        return source, controller

    def play(self, step: Step) -> None:
        """Write or remove a file, or start again."""
        if step.verb == "write":
            (self.directory / step.name).write_text(step.body)
        elif step.verb == "remove":
            (self.directory / step.name).unlink()
        else:
            self.source.close()
            self.source, self.controller = self._daemon()

    def lines(self) -> str:
        """What the maps hold, once everything that was played is in them."""
        for event in self.source.refresh():
            self.controller.changed(event.key, event.model)
        for _ in range(100):
            if not self.controller.reconcile().failed:
                break
        problems = [*self.source.problems(), *self.controller.problems()]
        told = [f"problem: {problem}" for problem in problems]
        if held := self.controller.status().held:
            told.append(f"held: {held}")
        of_maps = (service_lines, whole_lines, member_lines, range_lines, node_port_lines)
        lines = [line for read in of_maps for line in read(self.tables)] + told
        return "".join(f"{line}\n".replace(f"{self.directory}/", "") for line in lines)

    def writes_of_a_fresh_daemon(self) -> int:
        """Entries that another daemon, reading the same directory, would change."""
        source, controller = self._daemon()
        for event in source.refresh():
            controller.changed(event.key, event.model)
        source.close()
        self.tables.fail_every(0)
        writes = controller.reconcile().writes
        self.tables.fail_every(self.fail_every)
        return writes


@pytest.mark.parametrize("fail_every", [0, 10], ids=["undisturbed", "one write in ten fails"])
@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_story(story: Path, fail_every: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path, fail_every)
    text = story.read_text()
    played = text[: text.index("-- ")]
    for step in steps(text):
        played += f"-- {f'{step.verb} {step.name}'.strip()} --\n"
        if step.verb != "expect":
            stage.play(step)
            played += step.body
            continue
        found = stage.lines()
        played += found
        if not os.environ.get("KPBPF_UPDATE"):
            assert found == step.body
        # While an object is wrong, its last good state is known to the old daemon only.
        if "problem: " not in found:
            assert stage.writes_of_a_fresh_daemon() == 0
    stage.source.close()
    if os.environ.get("KPBPF_UPDATE"):
        story.write_text(played)


def test_there_are_stories() -> None:
    assert len(STORIES) >= 5
