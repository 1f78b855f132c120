"""A compiled program, apart from the maps it was compiled for: kept in a file, loaded with others.

Instructions of bpf(2), 8 bytes each; one that loads a map's address takes two, and has the map's
file descriptor in it, which is another one in every process. What compiled it is not known here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from maps import bpf

_INSTRUCTION = struct.Struct("=BBhi")
_SIZE = _INSTRUCTION.size
_LOAD_64, _MAP = 0x18, 1
"""BPF_LD | BPF_IMM | BPF_DW, and BPF_PSEUDO_MAP_FD in its source register (linux/bpf.h)."""


class Bytecode(NamedTuple):
    """`maps` are the names of maps, by the number of the instruction that loads each."""

    instructions: bytes
    maps: dict[int, str]

    @classmethod
    def of(cls, instructions: bytes, names: Mapping[int, str]) -> Self:
        """Take a program as compiled, with its maps' names by file descriptor."""
        found = {number: names[fd] for number, fd in _map_loads(instructions)}
        return cls(_with_fds(instructions, dict.fromkeys(found, 0)), found)

    def load(self, name: str, kind: int, attach_type: int, fds: Mapping[str, int]) -> int:
        """Have the kernel take it, bound to these maps; return its file descriptor.

        `kind` is an enum bpf_prog_type, `attach_type` an enum bpf_attach_type or -1. OSError when
        the verifier refuses it.
        """
        bound = _with_fds(self.instructions, {at: fds[map_] for at, map_ in self.maps.items()})
        return bpf.prog_load(kind, name, bound, max(attach_type, 0))

    def write(self, path: Path) -> None:
        """Keep it in a file, in whole or not at all."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}-{id(self)}")
        draft.write_text(json.dumps([self.instructions.hex(), self.maps]))
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read it back; None where there is none, or something else."""
        try:
            text, maps = json.loads(path.read_text())
            return cls(bytes.fromhex(text), {int(at): str(name) for at, name in maps.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return None


def _map_loads(instructions: bytes) -> Iterator[tuple[int, int]]:
    """Yield (number of the instruction, file descriptor)."""
    second = False
    for number in range(len(instructions) // _SIZE):
        code, registers, _, value = _INSTRUCTION.unpack_from(instructions, number * _SIZE)
        if second:
            second = False
            continue
        second = code == _LOAD_64
        if second and registers >> 4 == _MAP:
            yield number, value


def _with_fds(instructions: bytes, fds: Mapping[int, int]) -> bytes:
    changed = bytearray(instructions)
    for number, fd in fds.items():
        struct.pack_into("=i", changed, number * _SIZE + 4, fd)
    return bytes(changed)
