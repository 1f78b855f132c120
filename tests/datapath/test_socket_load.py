"""Every socket program passes the verifier, with room to spare, and uses our maps only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from kpbpf.datapath import cgroup
from kpbpf.datapath.build import PROGRAMS, SOCKET_PROGRAMS
from kpbpf.datapath.programs import ensure_programs
from maps import bpf
from tests.datapath.node import Node

MOST_INSTRUCTIONS = 100_000
"""A tenth of what the verifier is willing to look at (BPF_COMPLEXITY_LIMIT_INSNS)."""

CGROUP_SOCK_ADDR = 18
"""BPF_PROG_TYPE_CGROUP_SOCK_ADDR in linux/bpf.h."""


@pytest.fixture
def program(node: Node, name: str) -> Iterator[int]:
    """The file descriptor of a pinned program."""
    fd = bpf.obj_get(ensure_programs(node.home)[name])
    yield fd
    os.close(fd)


def test_the_loader_makes_every_program_that_is_to_be_attached() -> None:
    assert set(SOCKET_PROGRAMS) == set(cgroup.ATTACH_TYPE) <= set(PROGRAMS)


@pytest.mark.parametrize("name", SOCKET_PROGRAMS)
def test_verifier_takes_the_program_well_below_its_limit(
    program: int, name: str, record_property: Callable[[str, object], None]
) -> None:
    info = bpf.prog_info(program)
    record_property("verified_insns", info.verified_insns)
    assert (info.kind, info.name) == (CGROUP_SOCK_ADDR, name)
    assert info.verified_insns < MOST_INSTRUCTIONS


@pytest.mark.parametrize("name", SOCKET_PROGRAMS)
def test_program_uses_our_maps_and_no_other(node: Node, program: int) -> None:
    used = set(bpf.prog_info(program).map_ids)
    ours = {bpf.map_info(table.fd).id for table in node.tables.by_name.values()}
    assert used
    assert used <= ours
