"""Reads bpf_src/abi*.h and maps.h for the generator, and holds them to their rules.

It reads exactly the C that those headers are written in and refuses the rest: implicit
padding, enum members without number or comment, a number used twice. It is no C parser, and
only `maps.gen` and its tests import it.
"""

import re
from typing import NamedTuple

from maps.layout import MapKind

COMMENT = r"/\*((?:(?!\*/).)*)\*/"
DECLARATION = re.compile(
    rf"(?:^{COMMENT}\n)?^(enum|struct) (kp_\w+) \{{\n(.*?)^\}};$", re.MULTILINE | re.DOTALL
)
DEFINE = re.compile(rf"^#define KP_(\w+) (\d+)(?: {COMMENT})?$", re.MULTILINE)
MEMBER = re.compile(rf"^\tKP_(\w+)(?: = (\w+))?,(?: {COMMENT})?$")
FIELD = re.compile(rf"^\t(struct kp_addr|\w+) (\w+)(?:\[(\w+)\])?;(?: {COMMENT})?$")
MAP = re.compile(
    r"^KP_MAP\(kp_(\w+), (\w+), (?:struct )?(\w+), (?:struct )?(\w+), (\d+), (\w+)\)$",
    re.MULTILINE,
)


class LayoutError(Exception):
    """The headers hold something that this generator does not accept."""


class CType(NamedTuple):
    """A C type that a field may have: size and alignment in bytes, letter for `struct`."""

    size: int
    align: int
    letter: str


TYPES = {
    "u8": CType(1, 1, "B"),
    "u16": CType(2, 2, "H"),
    "u32": CType(4, 4, "I"),
    "u64": CType(8, 8, "Q"),
    "__be16": CType(2, 2, "H"),
    "struct kp_addr": CType(16, 8, "16s"),
}


class Field(NamedTuple):
    """A field of a struct; `elements` is 0 unless it is an array."""

    ctype: str
    name: str
    elements: int
    offset: int
    comment: str

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return TYPES[self.ctype].size * (self.elements or 1)


class Struct(NamedTuple):
    """A struct, laid out."""

    name: str
    comment: str
    fields: list[Field]

    @property
    def size(self) -> int:
        """Bytes it takes; there is no padding to add."""
        return self.fields[-1].offset + self.fields[-1].size


class Enum(NamedTuple):
    """An enum; members are (name without prefix, number as written, comment)."""

    name: str
    comment: str
    members: list[tuple[str, str, str]]

    @property
    def is_flags(self) -> bool:
        """Its members are single bits."""
        return self.name.endswith("_flag")


class Define(NamedTuple):
    """A limit."""

    name: str
    value: int
    comment: str


class Map(NamedTuple):
    """One line of maps.h; key and value are C type names."""

    name: str
    kind: str
    key: str
    value: str
    entries: int
    flags: str


def read_abi(text: str) -> tuple[list[Define], list[Enum | Struct]]:
    """Read the abi headers, one behind the other; LayoutError when anything is not understood."""
    defines = [Define(n, int(v), _words(c)) for n, v, c in DEFINE.findall(text)]
    sizes = {f"KP_{define.name}": define.value for define in defines}
    declared: list[Enum | Struct] = []
    for comment, kind, name, body in DECLARATION.findall(text):
        if kind == "enum":
            declared.append(_enum(name, _words(comment), body))
        elif name != "kp_addr":
            declared.append(_struct(name, _words(comment), body, sizes))
    _refuse_leftovers("abi*.h", DEFINE.sub("", DECLARATION.sub("", text)))
    return defines, declared


def read_maps(text: str, structs: set[str]) -> list[Map]:
    """Read maps.h; keys and values must be structs of abi.h or u32."""
    maps = [Map(n, k, key, v, int(e), f) for n, k, key, v, e, f in MAP.findall(text)]
    for m in maps:
        for used in (m.key, m.value):
            if used != "u32" and used not in structs:
                raise LayoutError(f"kp_{m.name}: struct {used} is not in abi.h")
        if m.kind not in MapKind.__members__:
            raise LayoutError(f"kp_{m.name}: kind {m.kind} is not in maps/layout.py")
        if m.flags not in ("0", "NO_PREALLOC"):
            raise LayoutError(f"kp_{m.name}: flags {m.flags} are not known")
    _refuse_leftovers("maps.h", MAP.sub("", text))
    return maps


def _enum(name: str, comment: str, body: str) -> Enum:
    prefix = re.sub("_(flag|kind)$", "", name.removeprefix("kp_")).upper() + "_"
    members: list[tuple[str, str, str]] = []
    used: dict[int, str] = {}
    for line in body.splitlines():
        if not line.strip():
            continue
        match = MEMBER.match(line)
        if not match:
            raise LayoutError(f"enum {name}: cannot read {line.strip()!r}")
        member, number, caption = match.groups()
        if number is None or caption is None:
            raise LayoutError(f"enum {name}: KP_{member} needs a number and a comment")
        value = int(number, 0)
        if value in used:
            raise LayoutError(
                f"enum {name}: KP_{member} and KP_{used[value]} share number {number}"
            )
        if name.endswith("_flag") and value.bit_count() != 1:
            raise LayoutError(f"enum {name}: KP_{member} is not a single bit")
        if not _in_range(member, value):
            raise LayoutError(f"enum {name}: KP_{member} = {number} is outside its group's range")
        used[value] = member
        members.append((member.removeprefix(prefix), number, _words(caption)))
    return Enum(name, comment, members)


def _in_range(member: str, value: int) -> bool:
    """Tell whether a verdict's number fits its kind: 0 to 31 passes, 64 to 127 drops."""
    if member.startswith("PASS_"):
        return value < 32
    return 64 <= value < 128 if member.startswith("DROP_") else True


def _struct(name: str, comment: str, body: str, sizes: dict[str, int]) -> Struct:
    fields: list[Field] = []
    offset = 0
    for line in body.splitlines():
        match = FIELD.match(line)
        if not match or match[1] not in TYPES:
            raise LayoutError(f"struct {name}: cannot read {line.strip()!r}")
        ctype, field, count, caption = match.groups()
        if offset % TYPES[ctype].align:
            raise LayoutError(f"struct {name}: implicit padding before {field}, at byte {offset}")
        elements = sizes[count] if count in sizes else int(count or 0)
        fields.append(Field(ctype, field, elements, offset, _words(caption or "")))
        offset += fields[-1].size
    align = max(TYPES[field.ctype].align for field in fields)
    if offset % align:
        raise LayoutError(f"struct {name}: implicit padding at its end, after byte {offset}")
    return Struct(name, comment, fields)


def _refuse_leftovers(file: str, text: str) -> None:
    text = re.sub(COMMENT, "", text, flags=re.DOTALL)
    text = re.sub(r'^#(pragma once|include "\w+\.h")$', "", text, flags=re.MULTILINE)
    if text.strip():
        raise LayoutError(f"{file}: cannot read {text.strip().splitlines()[0]!r}")


def _words(comment: str) -> str:
    """Join a comment's lines, without the stars in front of them."""
    return " ".join(re.sub(r"^\s*\* ?", "", line).strip() for line in comment.splitlines()).strip()
