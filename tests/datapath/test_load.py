"""The gate for any change of the C code: every program passes the verifier, with room to spare."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kpbpf.datapath.build import PROGRAMS, SOCKET_PROGRAMS
from maps import bpf
from tests.datapath.node import Node

MOST_INSTRUCTIONS = 250_000
"""A quarter of what the verifier is willing to look at (BPF_COMPLEXITY_LIMIT_INSNS)."""

ON_PACKETS = [name for name in PROGRAMS if name not in SOCKET_PROGRAMS]
"""The others are in test_socket_load.py."""

TC_PROGRAM = 3
"""BPF_PROG_TYPE_SCHED_CLS in linux/bpf.h."""


@pytest.mark.parametrize("name", ON_PACKETS)
def test_verifier_takes_the_program_well_below_its_limit(
    node: Node, name: str, record_property: Callable[[str, object], None]
) -> None:
    info = bpf.prog_info(node.program(name))
    record_property("verified_insns", info.verified_insns)
    print(f"{name}: {info.verified_insns} instructions verified, {info.xlated_size} bytes")
    assert (info.kind, info.name) == (TC_PROGRAM, name)
    assert info.verified_insns < MOST_INSTRUCTIONS


@pytest.mark.parametrize("name", ON_PACKETS)
def test_program_uses_our_maps_and_no_other(node: Node, name: str) -> None:
    used = set(bpf.prog_info(node.program(name)).map_ids)
    ours = {bpf.map_info(table.fd).id for table in node.tables.by_name.values()}
    assert used
    assert used <= ours
