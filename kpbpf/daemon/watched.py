"""Whether files still have the content that they had: the configuration that was read (A57).

Looks at content, not at names or times: a ConfigMap's files are links that are swapped, and an
editor's "save" without a change is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


class WatchedFiles:
    """Remembers the content of some files. One that cannot be read now has not changed."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._seen = dict.fromkeys(paths, b"")

    def changed(self) -> bool:
        """Whether the content of any is another than at the last call; at the first, it is."""
        found = {path: digest for path in self._seen if (digest := _digest(path))}
        other = any(self._seen[path] != digest for path, digest in found.items())
        self._seen |= found
        return other


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""
