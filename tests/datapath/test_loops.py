"""Loops as Linux 6.1 takes them: a kernel that is here knows more, and would not complain.

Until 6.8 (kernel/bpf/verifier.c, check_cfg) the way back to a loop's beginning had to be a jump.
Compilers like to move a load to the end of a loop, from where it falls into the beginning; such
a program is refused there with "back-edge from insn N to N+1".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from bpf_src import SOURCE
from kpbpf.datapath.build import PROGRAMS, kept_bytecode
from maps.bytecode import Bytecode
from tests.datapath.node import Node

LD, JMP, JMP32 = 0, 5, 6
"""Classes of instructions: linux/bpf_common.h, linux/bpf.h."""

JA, CALL, EXIT = 0x00, 0x80, 0x90
LOAD_64 = 0x18


def falls_into_loops(code: bytes) -> list[tuple[int, int]]:
    """Every (from, to) where an instruction that is no jump goes back on the way that it came."""
    instructions = list(struct.iter_unpack("=BBhi", code))
    found = []
    on_the_way: set[int] = set()
    seen = {0}
    way = [(0, _next(instructions, 0))]
    on_the_way.add(0)
    while way:
        at, others = way[-1]
        for to, by_jump in others:
            if to in on_the_way and not by_jump:
                found.append((at, to))
            if to not in seen:
                seen.add(to)
                on_the_way.add(to)
                way.append((to, _next(instructions, to)))
                break
        else:
            on_the_way.discard(at)
            way.pop()
    return found


def _next(instructions: list[tuple[int, ...]], at: int) -> Iterator[tuple[int, bool]]:
    code, _, offset, _ = instructions[at]
    kind, operation = code & 7, code & 0xF0
    if kind not in (JMP, JMP32) or (kind == JMP and operation == CALL):
        yield at + (2 if code == LOAD_64 else 1), False
    elif kind == JMP and operation == JA:
        yield at + 1 + offset, True
    elif not (kind == JMP and operation == EXIT):
        yield at + 1, True
        yield at + 1 + offset, True


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_comes_back_to_a_loop_by_a_jump(node: Node, name: str) -> None:
    bytecode = Bytecode.read(kept_bytecode(node.home, SOURCE) / name)
    assert bytecode, "nothing is kept of it"
    assert not falls_into_loops(bytecode.instructions)


def test_loop_that_is_fallen_into_is_found() -> None:
    increment, exit_ = (0x07, 1, 0, 1), (0x95, 0, 0, 0)
    into_the_middle, out = (0x05, 0, 1, 0), (0x15, 1, 1, 9)
    back = (0x05, 0, -3, 0)
    program = [increment, into_the_middle, increment, out, back, exit_]
    assert falls_into_loops(_packed(program)) == [(2, 3)]
    assert falls_into_loops(_packed([increment, out, (0x05, 0, -3, 0), exit_])) == []


def _packed(program: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("=BBhi", *instruction) for instruction in program)
