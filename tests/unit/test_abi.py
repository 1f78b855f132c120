"""The generated mirror of abi.h: current, of the same sizes, and strict about its source."""

import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bpf_src import SOURCE
from maps import abi, gen
from maps.headers import LayoutError, read_abi, read_maps
from maps.layout import Bits, MapKind, Word, short, short_bits

RECORDS = sorted(
    {type_ for spec in abi.MAPS.values() for type_ in (spec.key_type, spec.value_type)},
    key=lambda record: record.__name__,
)
WORDS = [abi.Hook, abi.Verdict, abi.Step, abi.State, abi.Mode, abi.NameKind]
FLAGS = [abi.ConfigFlag, abi.FlowFlag, abi.FrontendFlag, abi.MemberFlag]


def test_generated_files_are_what_the_headers_say() -> None:
    assert [gen.difference(path, text) for path, text in gen.generate().items()] == [None, None]


def test_difference_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "abi.py"
    file.write_text("one\ntwo\n")
    assert gen.difference(file, "one\ntwo\n") is None
    assert "abi.py:2: is 'two\\n', the headers say '2\\n'" in (
        gen.difference(file, "one\n2\n") or ""
    )
    assert "abi.py:3: is None" in (gen.difference(file, "one\ntwo\nthree\n") or "")


def test_compiler_agrees_with_every_size_and_offset(tmp_path: Path) -> None:
    file = tmp_path / "check.c"
    file.write_text('#include <linux/types.h>\n#include "abi_assert.h"\n')
    stub = SOURCE / "stub" / "include"
    command = ["clang", "-target", "bpf", "-Wall", "-Werror", "-nostdinc", "-fsyntax-only"]
    done = subprocess.run(
        [*command, f"-I{stub}", f"-I{SOURCE}", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_record_packs_to_its_size_and_comes_back(record: Any) -> None:
    letters = record.STRUCT.format
    zero = record.unpack(bytes(record.SIZE))
    assert zero.pack() == bytes(record.SIZE)
    assert record.STRUCT.size == struct.calcsize(letters) == record.SIZE
    assert record.unpack(memoryview(zero.pack())) == zero
    with pytest.raises(struct.error):
        record.unpack(bytes(record.SIZE + 1))


def test_ports_are_in_network_order_and_the_rest_is_not() -> None:
    key = abi.FrontendKey(addr=bytes(range(16)), port=0x1234, proto=6)
    assert key.pack() == bytes(range(16)) + b"\x12\x34" + b"\x06" + bytes(5)
    assert abi.FrontendKey.unpack(key.pack()) == key
    frontend = abi.Frontend(service=1, base=2, count=3, local_count=4, affinity_sec=5, flags=0)
    assert frontend.pack() == struct.pack("=6I", 1, 2, 3, 4, 5, 0)
    assert frontend.count == 3


def test_arrays_and_text_come_back() -> None:
    config = abi.Config.unpack(bytes(range(abi.Config.SIZE)))
    assert abi.Config.unpack(config.pack()) == config
    name = abi.Name("default/wéb:http/IPv4")
    assert abi.Name.unpack(name.pack()) == name


def test_text_that_does_not_fit_is_refused_rather_than_cut() -> None:
    with pytest.raises(ValueError, match="at most"):
        abi.Name("x" * (abi.Name.SIZE + 1)).pack()


def test_longest_service_port_name_fits() -> None:
    label = "x" * 63
    name = abi.Name(f"{label}/{label}:{label}/IPv4")
    assert abi.Name.unpack(name.pack()) == name


@pytest.mark.parametrize("words", [*WORDS, *FLAGS], ids=lambda words: words.__name__)
def test_every_word_has_a_caption_and_a_name_of_its_own(words: Any) -> None:
    assert set(words.CAPTIONS) == set(words)
    assert all(words.CAPTIONS.values())
    if issubclass(words, Word):
        assert len({word.short for word in words}) == len(words)
    else:
        assert issubclass(words, Bits)


def test_unknown_numbers_stay_visible() -> None:
    assert short(abi.Verdict, abi.Verdict.DROP_NO_BACKEND) == "no_backend"
    assert short(abi.Verdict, 63) == "verdict 63"
    assert short_bits(abi.FlowFlag, 0x3) == ["alias", "translated"]
    assert short_bits(abi.FlowFlag, 0x8001) == ["alias", "0x8000"]
    assert short_bits(abi.FlowFlag, 0) == []


def test_counters_have_a_slot_for_every_hook_and_verdict() -> None:
    assert abi.MAPS["counters"].entries == len(abi.Hook) * abi.VERDICTS
    assert max(abi.Verdict) < abi.VERDICTS
    assert abi.MAPS["flows"].kind is MapKind.LRU_HASH
    assert abi.MAPS["frontends"].flags == 1
    assert abi.MAPS["frontends"].symbol == "kp_frontends"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("struct kp_x {\n\tu8 a;\n\tu32 b;\n};", "implicit padding before b, at byte 1"),
        ("struct kp_x {\n\tu32 a;\n\tu8 b;\n};", "implicit padding at its end, after byte 5"),
        ("struct kp_x {\n\tint a;\n};", "cannot read 'int a;'"),
        ("enum kp_x {\n\tKP_X_A, /* a */\n};", "KP_X_A needs a number and a comment"),
        ("enum kp_x {\n\tKP_X_A = 0,\n};", "KP_X_A needs a number and a comment"),
        (
            "enum kp_x {\n\tKP_X_A = 0, /* a */\n\tKP_X_B = 0, /* b */\n};",
            "KP_X_B and KP_X_A share number 0",
        ),
        ("enum kp_x_flag {\n\tKP_X_A = 0x3, /* a */\n};", "KP_X_A is not a single bit"),
        ("enum kp_verdict {\n\tKP_DROP_A = 5, /* a */\n};", "outside its group's range"),
        ("typedef int kp_x;", "cannot read 'typedef int kp_x;'"),
    ],
)
def test_header_that_breaks_a_rule_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(LayoutError, match=re.escape(complaint)):
        read_abi(text)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("KP_MAP(kp_a, HASH, u32, struct kp_none, 1, 0)", "struct kp_none is not in abi.h"),
        ("KP_MAP(kp_a, BLOOM, u32, u32, 1, 0)", "kind BLOOM"),
        ("KP_MAP(kp_a, HASH, u32, u32, 1, ODD)", "flags ODD"),
        ("KP_MAP(kp_a)", "cannot read 'KP_MAP(kp_a)'"),
    ],
)
def test_map_that_is_not_understood_is_refused(line: str, complaint: str) -> None:
    with pytest.raises(LayoutError, match=re.escape(complaint)):
        read_maps(line, set())
