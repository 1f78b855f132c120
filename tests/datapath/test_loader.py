"""The loader: compiled once, pinned in whole or not at all, and every failure explained."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bpf_src import SOURCE
from kpbpf.datapath import build, programs
from kpbpf.errors import (
    CompileFailed,
    KpbpfError,
    MissingKernelFeature,
    MissingPackage,
    NotFound,
    VerifierRejected,
)
from kpbpf.home import Home
from maps import bpf
from maps.abi import ABI_VERSION
from maps.table import open_tables

HEAD = """\
#define MAP(name) ((void *)bpf_pseudo_fd(1, name##_FD))
static void *(*lookup)(void *, const void *) = (void *)BPF_FUNC_map_lookup_elem;
static void *(*unheard_of)(void) = (void *)9999;
#define TEXT(name) #name
#define PROGRAM(name) __attribute__((section(".bpf.fn." TEXT(name)), used))
"""
PROGRAM = """\
PROGRAM(NAME) int NAME(void *context)
{
	u32 slot = 0;
	u32 *config = lookup(MAP(kp_configs), &slot);
	BODY
}
"""
FINE = "return config ? 1 : 2;"
FINE_AT_A_CGROUP = "return 1;"


def write(directory: Path, body: str, *names: str) -> None:
    """Write a file of programs that all do the same; from_pod.c unless told."""
    file = build.PROGRAMS[names[0]].file if names else "from_pod.c"
    texts = [PROGRAM.replace("NAME", name) for name in names or ("from_pod",)]
    (directory / file).write_text("".join((HEAD, *texts)).replace("BODY", body))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """All programs, tiny ones."""
    directory = tmp_path / "source"
    directory.mkdir()
    plain = {name: one.file for name, one in build.PROGRAMS.items() if not one.options}
    for file in set(plain.values()):
        names = [name for name in plain if plain[name] == file]
        write(directory, FINE_AT_A_CGROUP if names[0] in build.SOCKET_PROGRAMS else FINE, *names)
    return directory


@pytest.fixture
def node(home: Home) -> Home:
    open_tables(home, create=True).close()
    return home


def test_programs_are_compiled_once_and_bound_to_our_maps(node: Home, source: Path) -> None:
    pins = programs.ensure_programs(node, source)
    first = {program.name: program for program in programs.present(node)}
    assert set(first) == set(pins) == set(build.PROGRAMS)
    with open_tables(node) as tables:
        assert first["from_pod"].info.map_ids == (bpf.map_info(tables.configs.fd).id,)
    assert first["from_pod"].info.name == "from_pod"
    assert first["from_pod"].path == pins["from_pod"]
    assert programs.ensure_programs(node, source) == pins
    assert {program.name: program for program in programs.present(node)} == first


def test_program_runs_and_sees_the_map(node: Home, source: Path) -> None:
    fd = bpf.obj_get(programs.ensure_programs(node, source)["to_pod"])
    try:
        ran = bpf.prog_test_run(fd, bytes(64), bytes(192))
    finally:
        os.close(fd)
    assert (ran.retval, ran.data, len(ran.context)) == (1, bytes(64), 192)


def test_changed_source_makes_new_programs_and_the_old_can_go(node: Home, source: Path) -> None:
    old = programs.ensure_programs(node, source)
    write(source, "return config ? 3 : 2;")
    new = programs.ensure_programs(node, source)
    assert old["from_pod"].parent != new["from_pod"].parent
    assert all(pin.exists() for pin in (*old.values(), *new.values()))
    assert programs.remove_stale(node, source) == 1
    assert [program.path for program in programs.present(node)] == sorted(new.values())


def test_new_maps_make_new_programs(node: Home, source: Path) -> None:
    old = programs.ensure_programs(node, source)
    shutil.rmtree(node.maps_dir(ABI_VERSION))
    open_tables(node, create=True).close()
    assert programs.ensure_programs(node, source) != old


def test_directory_of_a_loader_at_work_is_not_stale(node: Home, source: Path) -> None:
    directory = node.programs_dir(ABI_VERSION)
    at_work, killed = directory / f"0123-new-{os.getpid()}", directory / "0123-new-4194304"
    at_work.mkdir(parents=True)
    killed.mkdir()
    assert programs.remove_stale(node, source) == 1
    assert at_work.exists()
    assert not killed.exists()


def test_source_that_does_not_compile_is_named(node: Home, source: Path) -> None:
    write(source, "return config->nothing;", "to_pod")
    with pytest.raises(CompileFailed, match="program to_pod does not compile") as caught:
        programs.ensure_programs(node, source)
    assert "to_pod.c:10:" in caught.value.why
    assert "Traceback" not in caught.value.why
    assert not list(programs.present(node))
    assert not list(node.programs_dir(ABI_VERSION).iterdir())


def test_refusal_of_the_verifier_ends_with_its_reason(node: Home, source: Path) -> None:
    write(source, "u64 key = 0; u32 *found = lookup(MAP(kp_backends), &key); return *found;")
    with pytest.raises(VerifierRejected, match="refused to load program from_pod") as caught:
        programs.ensure_programs(node, source)
    assert "map_value_or_null" in caught.value.why
    assert "from_pod.c:10" in caught.value.why


def test_helper_that_the_kernel_does_not_know_is_named(node: Home, source: Path) -> None:
    write(source, "return (long)unheard_of();")
    with pytest.raises(MissingKernelFeature, match=r"BPF helper \w+#9999"):
        programs.ensure_programs(node, source)


def test_missing_bcc_is_a_missing_package(
    node: Home, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImportError, match="no bcc in"):
        build.import_bcc(tmp_path / "bcc")
    # A loader that finds no Python worth the name says nothing at all.
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(KpbpfError, match="loader of programs failed"):
        programs.ensure_programs(node, source)
    # One that stops while importing bcc.
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho \'{"stage": "bcc", "program": ""}\'\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(MissingPackage, match="python3-bpfcc is not installed") as caught:
        programs.ensure_programs(node, source)
    assert "apt-get install" in caught.value.do


def test_without_maps_there_are_no_programs(home: Home) -> None:
    with pytest.raises(NotFound, match="not set up"):
        programs.ensure_programs(home)


def test_shipped_programs_load_and_their_size_is_reported(node: Home) -> None:
    with open_tables(node) as tables:
        wanted = programs.source_hash(tables)
    loaded = programs.load(node, wanted, SOURCE)
    assert set(loaded) == set(build.PROGRAMS)
    for name, program in loaded.items():
        print(name, json.dumps(program._asdict()))
        assert 0 < program.verified_insns < 1_000_000
    assert {program.hash for program in programs.present(node)} == {wanted}


def test_parent_needs_no_compiler() -> None:
    program = (
        "import sys, kpbpf.datapath.programs, kpbpf.datapath.attach;"
        "sys.exit('bcc' in sys.modules or 'pyroute2' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_pins_of_another_layout_can_go_and_ours_stay(node: Home, source: Path) -> None:
    pins = programs.ensure_programs(node, source)
    old = node.version_dir(ABI_VERSION - 1) / "progs" / "from_pod"
    old.parent.mkdir(parents=True)
    fd = bpf.obj_get(pins["from_pod"])
    try:
        bpf.obj_pin(fd, old)
    finally:
        os.close(fd)
    assert programs.remove_other_layouts(node) == 1
    assert not old.parent.parent.exists()
    assert all(pin.exists() for pin in pins.values())
    assert programs.remove_other_layouts(node) == 0
