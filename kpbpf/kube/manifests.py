"""Objects from directories of YAML and JSON, and what is wrong with them.

Turns changed files into changed objects, keeping the last good state of whatever cannot be
read now. Decides which of two files that hold the same object counts. Knows nothing of
what the objects are for.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kpbpf import log
from kpbpf.errors import Problem
from kpbpf.kube import parse
from kpbpf.kube.decode import Document, Undecodable, documents
from kpbpf.kube.directory import Directories
from kpbpf.kube.fields import BadObject
from kpbpf.kube.parse import Model, Parsed
from kpbpf.kube.source import Change, Unread
from kpbpf.model.objects import Key
from kpbpf.model.service import Service

#: A larger file is a mistake; reading it would take minutes and gigabytes.
MAX_FILE_BYTES = 64 << 20

#: Kinds beyond are ignored without a word.
MAX_IGNORED_KINDS = 100

_LOG = log.get(__name__)


class _Held(NamedTuple):
    model: Model
    place: str


@dataclass(slots=True)
class _File:
    """What one file says: its objects, also the last good state of those it now spoils.

    `whole`: nothing in it had to be left out, so what it does not hold does not exist.
    """

    objects: dict[Key, _Held] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    whole: bool = True


class ManifestSource:
    """The objects of some directories. The directories given first win over later ones.

    One kind of `source.Source`. `refresh` and the accessors belong to one thread;
    `directories.watch` to another, which `start` begins.
    """

    def __init__(self, directories: Sequence[Path], rescan_sec: float = 10.0) -> None:
        self.directories = Directories(directories, rescan_sec)
        self._files: dict[Path, _File] = {}
        self._claims: dict[Key, list[Path]] = {}
        self._spoiled: set[Path] = set()
        self._contested: set[Key] = set()
        self._current: dict[Key, Model] = {}
        self._ignored: dict[str, str] = {}
        self._told = log.Told(_LOG)
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to watch: `wake` is called, from another thread, when `refresh` has news."""
        target, arguments = self.directories.watch, (wake, self._stopping)
        self._watcher = threading.Thread(target=target, args=arguments, name="manifests")
        self._watcher.start()

    def refresh(self) -> list[Change]:
        """Read the files that changed; the objects that are different now, in order of files.

        The first call reads everything. Reading the same content again yields nothing.
        """
        touched: dict[Key, None] = {}
        for path in self.directories.changed():
            before = self._files.get(path, _File())
            after = self._read(path, before)
            for key in (*before.objects, *(after.objects if after else ())):
                touched[key] = None
            self._claim(path, before, after)
        changes = [change for key in touched if (change := self._settle(key)) is not None]
        self._told.tell(self.problems())
        return changes

    def problems(self) -> list[Problem]:
        """Everything that is wrong now, in order of files."""
        found = [
            Problem(str(directory), "directory", "the path", "a readable directory", "none")
            for directory in self.directories.missing
        ]
        for path in sorted(self._spoiled, key=self.directories.order):
            found += self._files[path].problems
        for key in sorted(self._contested):
            first, *others = self._claims[key]
            found += [
                Problem(
                    where=f"{path}: {self._files[path].objects[key].place}",
                    obj=str(key),
                    field="metadata.name",
                    expected="an object that no other manifest holds",
                    got=f"one that {first} holds too, which counts",
                )
                for path in others
            ]
        return found

    def get(self, key: Key) -> Model | None:
        """An object's last good state."""
        return self._current.get(key)

    def awaited(self) -> list[str]:
        """Directories that are not there: what they hold is not known."""
        return [f"directory {directory}" for directory in self.directories.missing]

    def unread(self) -> Unread:
        """Files and directories that hold, or may hold, an object that could not be read.

        As long as there are none the view is whole. Remarks on an object that counts all the
        same, and objects that two files hold, do not make it less so.
        """
        spoiled = [path for path in self._spoiled if not self._files[path].whole]
        files = sorted({*spoiled, *self.directories.unread()}, key=self.directories.order)
        return Unread(tuple(map(str, (*self.directories.missing, *files))))

    def ignored(self) -> dict[str, str]:
        """Kinds that were met and are not read ("apps/v1 Deployment"), and where one was."""
        return dict(self._ignored)

    def where(self, key: Key) -> str:
        """File and document of an object, for messages; its key when no file holds it."""
        claims = self._claims.get(key)
        if not claims:
            return str(key)
        return f"{claims[0]}: {self._files[claims[0]].objects[key].place}"

    def close(self) -> None:
        """Stop watching."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        self.directories.close()

    # ---- one file -----------------------------------------------------------------------

    def _read(self, path: Path, before: _File) -> _File | None:
        """The file as it is now; None when it is gone. What cannot be read stays as before."""
        try:
            text = _text(path)
            return self._contents(path, before, documents(text, path.suffix == ".json"))
        except FileNotFoundError:
            return None
        except (OSError, Undecodable) as error:
            got = (error.strerror or "an error") if isinstance(error, OSError) else str(error)
            expected = "JSON" if path.suffix == ".json" else "YAML"
            problem = Problem(str(path), "manifest", "the file", f"readable {expected}", got)
            return _File(before.objects, [problem], whole=False)

    def _contents(self, path: Path, before: _File, found: Iterable[Document]) -> _File:
        after = _File()
        unidentified = False
        for document in found:
            where = f"{path}: {document.place}"
            try:
                api_version, kind = parse.kind_of(document.raw)
                if not parse.is_read(api_version, kind):
                    self._ignore(f"{api_version} {kind}".strip(), where)
                    continue
                key = parse.key_of(document.raw)
            except BadObject as bad:
                unidentified = True
                after.problems.append(_problem(where, "object", bad))
                continue
            self._object(key, document, where, before, after)
        if unidentified:
            after.whole = False
            # One of them may be an object that we knew: nothing goes until it can be told.
            for key, held in before.objects.items():
                after.objects.setdefault(key, held)
        return after

    def _object(
        self, key: Key, document: Document, where: str, before: _File, after: _File
    ) -> None:
        if key in after.objects:
            twice = BadObject("metadata.name", "an object that stands here once", "a second one")
            after.problems.append(_problem(where, str(key), twice))
            return
        try:
            parsed = parse.parse(document.raw)
        except BadObject as bad:
            after.whole = False
            after.problems.append(_problem(where, str(key), bad))
            if key in before.objects:
                after.objects.setdefault(key, before.objects[key])
            return
        after.objects[key] = _Held(parsed.model, document.place)
        after.problems += [_problem(where, str(key), remark) for remark in _remarks(parsed)]

    def _ignore(self, kind: str, where: str) -> None:
        if kind not in self._ignored and len(self._ignored) < MAX_IGNORED_KINDS:
            self._ignored[kind] = where
            _LOG.info("%s: objects of kind %.100s are ignored", where, kind)

    # ---- all files ----------------------------------------------------------------------

    def _claim(self, path: Path, before: _File, after: _File | None) -> None:
        """Note which objects the file holds from now on."""
        now = after.objects if after else {}
        for key in before.objects.keys() - now.keys():
            self._claims[key].remove(path)
            if not self._claims[key]:
                del self._claims[key]
        for key in now.keys() - before.objects.keys():
            claims = self._claims.setdefault(key, [])
            claims.append(path)
            claims.sort(key=self.directories.order)
        if after:
            self._files[path] = after
        else:
            self._files.pop(path, None)
        if after and after.problems:
            self._spoiled.add(path)
        else:
            self._spoiled.discard(path)

    def _settle(self, key: Key) -> Change | None:
        """What became of an object that a file touched."""
        claims = self._claims.get(key, [])
        if len(claims) > 1:
            self._contested.add(key)
        else:
            self._contested.discard(key)
        model = self._files[claims[0]].objects[key].model if claims else None
        if model == self._current.get(key):
            return None
        if model is None:
            del self._current[key]
        else:
            self._current[key] = model
        return Change(key, model)


def _text(path: Path) -> str:
    """The text of a manifest; Undecodable when it is none."""
    # Not blocking: a named pipe would hold us up for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Undecodable("something that is not a regular file")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise Undecodable(f"more than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Undecodable(f"a byte that is not UTF-8 at offset {error.start}") from None


def _remarks(parsed: Parsed) -> Iterable[BadObject]:
    """What can be left out of the object, and what only an API server would have filled in."""
    yield from parsed.remarks
    model = parsed.model
    if isinstance(model, Service) and model.served and not model.cluster_ips:
        expected = 'an address (nothing here allocates one), or "None"'
        yield BadObject("spec.clusterIP", expected, "nothing")


def _problem(where: str, obj: str, bad: BadObject) -> Problem:
    return Problem(where, obj, bad.field, bad.expected, bad.got)
