"""What the Dockerfile says, for who builds without Docker: sources, packages, description.

Reads just the forms that ours is written in; a line of another form is an error, so that the two
ways of building cannot drift apart unseen.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Line(NamedTuple):
    """One instruction of the Dockerfile, continuation lines joined."""

    stage: str
    """Name of the stage, "" for the last one."""
    word: str
    rest: str


class Image(NamedTuple):
    """The last stage: what the image says of itself."""

    environment: list[str]
    labels: dict[str, str]
    command: list[str]
    user: str


def packages(path: Path = HERE / "packages.txt") -> list[str]:
    """Names of the Debian packages in the image."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def lines(path: Path = HERE / "Dockerfile") -> list[Line]:
    """Every instruction, in order."""
    found: list[Line] = []
    stage = ""
    whole = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for text in "\n".join(whole).replace("\\\n", " ").splitlines():
        word, _, rest = text.strip().partition(" ")
        if word == "FROM":
            stage = rest.partition(" AS ")[2]
        if word:
            found.append(Line(stage, word, rest))
    return found


def sources() -> list[str]:
    """Paths, relative to the project's root, that the wheel is built from."""
    copied = [line.rest.split() for line in lines() if line.word == "COPY" and line.stage]
    return [path for words in copied for path in words[:-1]]


def image(path: Path = HERE / "Dockerfile") -> Image:
    """Read ENV, LABEL, USER and CMD of the last stage."""
    last = [line for line in lines(path) if not line.stage]
    environment = [_pair(line) for line in last if line.word == "ENV"]
    labels = dict(_pair(line).split("=", 1) for line in last if line.word == "LABEL")
    (user,) = (line.rest for line in last if line.word == "USER")
    (command,) = (json.loads(line.rest) for line in last if line.word == "CMD")
    unknown = {line.word for line in last} - {"FROM", "COPY", "ENV", "LABEL", "USER", "CMD"}
    if unknown:
        raise ValueError(f"Dockerfile: {', '.join(sorted(unknown))} in the last stage is not read")
    return Image(environment, labels, command, user)


def _pair(line: Line) -> str:
    words = shlex.split(line.rest)
    if len(words) != 1 or "=" not in words[0]:
        raise ValueError(f"Dockerfile: {line.word} {line.rest}: expected one NAME=VALUE")
    return words[0]
