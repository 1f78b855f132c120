"""An image as one tar file, out of a directory: for `ctr`, `podman` and `docker` to load.

The file is an OCI image layout with one layer, and has the older manifest.json beside it, which
is what Docker before version 25 reads. The same directory always gives the same bytes. What goes
into the directory is not known here.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

_OCI = "application/vnd.oci.image"
_COMPRESSION = 6


class Description(NamedTuple):
    """What an image says of itself."""

    architecture: str
    """As in GOARCH: amd64, arm64."""
    environment: list[str]
    """`NAME=VALUE`."""
    labels: dict[str, str]
    command: list[str]
    user: str
    created: int
    """Unix seconds; no file in the image is newer."""


class Layer(NamedTuple):
    """A compressed tar of files; the digests are `sha256:` with hexadecimal digits."""

    path: Path
    digest: str
    size: int
    unpacked_digest: str


def pack(root: Path, target: Path, newest: int) -> Layer:
    """Pack a directory as a layer, in the order of names; no time in it is after `newest`."""
    with target.open("wb") as file:
        zipped = _Digest(file)
        # Both ask for a whole file object in their types, and for write() only in fact.
        with gzip.GzipFile("", "wb", _COMPRESSION, cast("BinaryIO", zipped), mtime=0) as stream:
            plain = _Digest(stream)
            form = tarfile.PAX_FORMAT
            with tarfile.open(mode="w|", fileobj=cast("BinaryIO", plain), format=form) as archive:
                for path in _walk(root):
                    _add(archive, root, path, newest)
    return Layer(target, zipped.digest(), target.stat().st_size, plain.digest())


def write(target: Path, layer: Layer, description: Description, name: str) -> str:
    """Write the image under its full name, `docker.io/library/kpbpf:0.1.0`; return its digest."""
    config = _json(_config(layer, description))
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor("config.v1+json", config),
            "layers": [
                {
                    "mediaType": f"{_OCI}.layer.v1.tar+gzip",
                    "digest": layer.digest,
                    "size": layer.size,
                }
            ],
        }
    )
    entry = _descriptor("manifest.v1+json", manifest)
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [entry]}
    older = [
        {
            "Config": _blob(sha256(config)),
            "RepoTags": [name.removeprefix("docker.io/library/")],
            "Layers": [_blob(layer.digest)],
        }
    ]
    small = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
        "manifest.json": _json(older),
        _blob(sha256(manifest)): manifest,
        _blob(sha256(config)): config,
    }
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in small.items():
            archive.addfile(_file(path, len(content), description.created), io.BytesIO(content))
        with layer.path.open("rb") as file:
            archive.addfile(_file(_blob(layer.digest), layer.size, description.created), file)
    return sha256(manifest)


def _config(layer: Layer, description: Description) -> dict[str, Any]:
    created = datetime.fromtimestamp(description.created, UTC).isoformat().replace("+00:00", "Z")
    return {
        "created": created,
        "architecture": description.architecture,
        "os": "linux",
        "config": {
            "User": description.user,
            "Env": description.environment,
            "Cmd": description.command,
            "Labels": description.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.unpacked_digest]},
        "history": [{"created": created, "created_by": "deploy/image/build.py"}],
    }


def _walk(root: Path) -> Iterator[Path]:
    """Everything below a directory, each directory before what is in it."""
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))


def _add(archive: tarfile.TarFile, root: Path, path: Path, newest: int) -> None:
    if stat.S_IFMT(path.lstat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        return  # a device or a socket: the runtime makes its own
    info = archive.gettarinfo(path, str(path.relative_to(root)))
    info.mtime = min(int(info.mtime), newest)
    info.uname = info.gname = ""
    if info.isreg():
        with path.open("rb") as file:
            archive.addfile(info, file)
    else:
        archive.addfile(info)


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": sha256(content), "size": len(content)}


def _file(name: str, size: int, mtime: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, mtime, 0o644
    return info


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def sha256(content: bytes) -> str:
    """A digest as images name it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()


class _Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...
    def flush(self) -> None: ...


class _Digest:
    """A file to write to that knows the digest of what went through."""

    def __init__(self, target: _Writable) -> None:
        self._target = target
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._target.write(data)

    def flush(self) -> None:
        self._target.flush()

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
