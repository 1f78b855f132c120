"""Rules of the house that a machine can hold: about the C source, file sizes and the documents."""

import re
from pathlib import Path

import pytest

from maps import abi

ROOT = Path(__file__).resolve().parents[2]
C_FILES = sorted((ROOT / "bpf_src").glob("*.[ch]"))
WRITERS = {"nat.h", "icmp.h", "forward.h", "reject.h"}
LIMIT = 400
GENERATED = {"maps/abi.py"}


def text(name: str) -> str:
    return (ROOT / "bpf_src" / name).read_text()


def code(name: str) -> str:
    return re.sub(r"(?s:/\*.*?\*/)|//.*", "", text(name))


def sources() -> list[Path]:
    rooms = ("kpbpf", "maps", "controllers", "bpf_src", "tests", "bench", "deploy")
    found = [path for room in rooms for path in (ROOT / room).rglob("*.*")]
    return [path for path in found if path.suffix in {".py", ".c", ".h"}]


def test_only_verdict_h_answers_the_kernel() -> None:
    guilty = [
        file.name
        for file in C_FILES
        if file.name != "verdict.h"
        and re.search(r"\breturn (TC_ACT_|KP_ACT_PASS)", code(file.name))
    ]
    assert not guilty


def test_only_four_headers_write_to_packets() -> None:
    writes = re.compile(
        r"\bkp_(store|l4_csum|change_tail|change_head|adjust_room)\(|\b(ip|eth|tcp)->\w+ = "
    )
    guilty = {f.name for f in C_FILES if writes.search(code(f.name))} - WRITERS - {"kernel.h"}
    assert not guilty


@pytest.mark.parametrize("verdict", list(abi.Verdict), ids=lambda verdict: verdict.short)
def test_every_verdict_is_given_somewhere(verdict: abi.Verdict) -> None:
    symbol = f"KP_{verdict.name}"
    assert any(symbol in code(file.name) for file in C_FILES if file.name != "abi.h")


@pytest.mark.parametrize("step", list(abi.Step), ids=lambda step: step.short)
def test_every_step_is_taken_somewhere(step: abi.Step) -> None:
    assert any(f"kp_step(ctx, KP_STEP_{step.name})" in code(file.name) for file in C_FILES)


@pytest.mark.parametrize("name", list(abi.MAPS))
def test_every_map_is_used(name: str) -> None:
    in_programs = any(f"MAP(kp_{name})" in code(file.name) for file in C_FILES)
    in_python = any(f".{name}." in path.read_text() for path in sources() if path.suffix == ".py")
    assert in_programs or in_python


def test_a_switch_is_a_bit_and_not_a_macro() -> None:
    """But for the compiler, the machine, and what kind of device a program is built for."""
    allowed = {"KP_BCC", "KP_NO_ETHERNET", "__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__"}
    found = {
        match[1].strip()
        for file in C_FILES
        for match in re.finditer(r"^#\s*(?:ifdef|ifndef|if)\s+(.*)$", code(file.name), re.MULTILINE)
    }
    assert found <= allowed


def test_files_fit_on_a_few_screens() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in sources()}
    long = {str(path): n for path, n in lengths.items() if n > LIMIT and str(path) not in GENERATED}
    assert not long


@pytest.mark.parametrize("document", ["README.md", "docs/ARCHITECTURE.md", "docs/decisions.md"])
def test_every_path_a_document_names_exists(document: str) -> None:
    named = set(
        re.findall(
            r"(?<![\w/])(?:kpbpf|maps|controllers|bpf_src|deploy|bench|tests|docs)/[\w./-]*\w",
            (ROOT / document).read_text(),
        )
    )
    missing = {path for path in named if not (ROOT / path).exists()}
    assert not missing
