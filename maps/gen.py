"""Generator: bpf_src/abi*.h and maps.h -> maps/abi.py and bpf_src/abi_assert.h.

    python -m maps.gen            write both
    python -m maps.gen --check    compare, name the first difference, exit 1

What it writes is formatted as the project's formatter would, so that neither undoes the other.
"""

import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from maps.headers import TYPES, Define, Enum, Field, LayoutError, Map, Struct, read_abi, read_maps

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100

ABI_HEADERS = ("abi.h", "abi_node.h", "abi_service.h")
"""The headers that hold layouts, in the order in which they are written down."""

TUPLE_METHODS = ("count", "index")
"""Field names that hide a method of tuple, which the type checker must be told to accept."""


PREAMBLE = '''\
"""The layouts that programs and Python share. Generated from bpf_src/abi*.h and maps.h.

Do not edit: `python -m maps.gen` writes it. Ports are plain numbers here and network order in
the kernel; addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d; MAC addresses are 6 bytes.
"""

from struct import Struct
from typing import ClassVar, NamedTuple, Self

from maps.layout import (
    NO_PREALLOC,
    U32,
    Bits,
    MapKind,
    MapSpec,
    Packed,
    Word,
    htons,
    ntohs,
    pack_text,
    short,
    short_bits,
    unpack_text,
)
'''


def python_text(defines: list[Define], declared: list[Enum | Struct], maps: list[Map]) -> str:
    """Write maps/abi.py."""
    constants = sorted(["MAPS", *(define.name for define in defines)])
    functions = ["short", "short_bits"]
    exported = [*constants, *sorted(camel(d.name) for d in declared), *functions]
    lines = [PREAMBLE, "__all__ = [", *(f'    "{name}",' for name in exported), "]", ""]
    for define in defines:
        lines += [*_comment_lines(define.comment, ""), f"{define.name} = {define.value}"]
    for d in declared:
        lines += ["", "", *(_enum_class(d) if isinstance(d, Enum) else _struct_classes(d))]
    lines += ["", "", "MAPS = {", *(f"    {line}" for m in maps for line in _map_lines(m)), "}"]
    return "\n".join(lines) + "\n"


def _enum_class(enum: Enum) -> Iterator[str]:
    yield f"class {camel(enum.name)}({'Bits' if enum.is_flags else 'Word'}):"
    yield from _docstring(f"enum {enum.name}.", enum.comment)
    yield ""
    for name, number, caption in enum.members:
        value = number.upper().replace("0X", "0x")  # as the formatter writes it
        yield from _call(f"    {name} = ", "", [value, f'"{caption}"'], "", tuple_parentheses=True)


def _struct_classes(struct: Struct) -> Iterator[str]:
    """Write two classes: the fields, for NamedTuple takes nothing else, and the record."""
    name = camel(struct.name)
    fields = [field for field in struct.fields if not _is_padding(field)]
    yield f"class _{name}(NamedTuple):"
    for field in fields:
        yield from _field(field)
    yield from ["", "", f"class {name}(_{name}):"]
    yield from _docstring(f"struct {struct.name}.", struct.comment)
    letters = "".join(_letters(field) for field in struct.fields)
    yield from ["", "    __slots__ = ()", f"    SIZE: ClassVar[int] = {struct.size}"]
    yield f'    STRUCT: ClassVar[Struct] = Struct("={letters}")'
    yield from ["", "    def pack(self) -> bytes:", '        """Lay it out for the kernel."""']
    yield from _call("        return ", "self.STRUCT.pack(", [_packed(f) for f in fields], ")")
    yield from ["", "    @classmethod", "    def unpack(cls, data: Packed) -> Self:"]
    yield '        """Read it as it lies in the kernel."""'
    if all(_unpacked(field) == field.name for field in fields):
        yield "        return cls(*cls.STRUCT.unpack(data))"
    else:
        yield from _targets([f"*{f.name}" if _is_tuple(f) else f.name for f in fields])
        yield from _call("        return ", "cls(", [_unpacked(field) for field in fields], ")")


def _is_padding(field: Field) -> bool:
    return field.name == "zero"


def _is_bytes(field: Field) -> bool:
    return field.ctype == "struct kp_addr" or (field.ctype == "u8" and field.elements > 0)


def _is_text(field: Field) -> bool:
    return _is_bytes(field) and field.name == "text"


def _is_tuple(field: Field) -> bool:
    return field.elements > 0 and not _is_bytes(field)


def _letters(field: Field) -> str:
    """Write the field in the language of Python's struct module."""
    if _is_padding(field):
        return f"{field.size}x"
    if _is_bytes(field):
        return f"{field.size}s"
    return f"{field.elements or ''}{TYPES[field.ctype].letter}"


def _field(field: Field) -> Iterator[str]:
    """Write the field's annotation, and its comment behind or above it."""
    kind = "str" if _is_text(field) else "bytes" if _is_bytes(field) else "int"
    line = f"    {field.name}: {'tuple[int, ...]' if _is_tuple(field) else kind}"
    if field.name in TUPLE_METHODS:
        line += "  # type: ignore[assignment]"
    if field.comment and len(line) + 4 + len(field.comment) <= WIDTH:
        yield f"{line}  # {field.comment}"
    else:
        yield from _comment_lines(field.comment, "    ")
        yield line


def _packed(field: Field) -> str:
    """Write the expression that hands the field to Struct.pack."""
    if _is_text(field):
        return f"pack_text(self.{field.name}, {field.size})"
    if field.ctype == "__be16":
        return f"htons(self.{field.name})"
    return f"*self.{field.name}" if _is_tuple(field) else f"self.{field.name}"


def _unpacked(field: Field) -> str:
    """Write the expression that takes the field from what Struct.unpack gave."""
    if _is_text(field):
        return f"unpack_text({field.name})"
    if field.ctype == "__be16":
        return f"ntohs({field.name})"
    return f"tuple({field.name})" if _is_tuple(field) else field.name


def _targets(names: list[str]) -> Iterator[str]:
    """Write an unpacking assignment the way the formatter would."""
    joined = f"({names[0]},)" if len(names) == 1 else ", ".join(names)
    line = f"        {joined} = cls.STRUCT.unpack(data)"
    if len(line) <= WIDTH:
        yield line
    else:
        yield "        ("
        yield from (f"            {name}," for name in names)
        yield "        ) = cls.STRUCT.unpack(data)"


def _call(
    before: str, opening: str, arguments: list[str], closing: str, tuple_parentheses: bool = False
) -> Iterator[str]:
    """Write a call, or a bare tuple, on one line, or two, or one line per argument."""
    indent = before[: len(before) - len(before.lstrip())]
    joined = ", ".join(arguments)
    if len(before + opening + joined + closing) <= WIDTH:
        yield f"{before}{opening}{joined}{closing}"
        return
    opening, closing = ("(", ")") if tuple_parentheses else (opening, closing)
    yield f"{before}{opening}"
    if len(indent) + 4 + len(joined) <= WIDTH and not tuple_parentheses:
        yield f"{indent}    {joined}"
    else:
        yield from (f"{indent}    {argument}," for argument in arguments)
    yield f"{indent}{closing}"


def _map_lines(m: Map) -> Iterator[str]:
    key, value = (used if used == "u32" else camel(used) for used in (m.key, m.value))
    key, value = (used.replace("u32", "U32") for used in (key, value))
    yield f'"{m.name}": MapSpec('
    yield f'    "{m.name}",'
    yield f"    MapKind.{m.kind},"
    yield f"    {key}.SIZE,"
    yield f"    {value}.SIZE,"
    yield f"    {m.entries},"
    yield f"    {m.flags},"
    yield f"    {key},"
    yield f"    {value},"
    yield "),"


def _docstring(first: str, comment: str) -> Iterator[str]:
    """Write a class docstring: the C name, then the comment above it in its header."""
    text = f'"""{first}' + (f" {comment}" if comment else "")
    if len(text) + 7 <= WIDTH:
        yield f'    {text}"""'
        return
    yield f'    """{first}'
    yield ""
    yield from _wrapped(comment, "    ")
    yield '    """'


def _comment_lines(comment: str, indent: str) -> list[str]:
    return list(_wrapped(comment, f"{indent}# ")) if comment else []


def _wrapped(text: str, indent: str) -> Iterator[str]:
    line = indent
    for word in text.split():
        if len(line) + len(word) + 1 > WIDTH:
            yield line.rstrip()
            line = indent
        line += f"{word} "
    yield line.rstrip()


def camel(name: str) -> str:
    """Turn a C name into a class name: kp_flow_key is FlowKey."""
    return "".join(part.capitalize() for part in name.removeprefix("kp_").split("_"))


def assert_text(declared: list[Enum | Struct]) -> str:
    """Write bpf_src/abi_assert.h: the compiler's word on every size and offset."""
    lines = [
        "// SPDX-License-Identifier: GPL-2.0-only",
        "/* Size and offset of every field of the layouts, as maps/abi.py has them.",
        " *",
        " * Generated by `python -m maps.gen`; do not edit.",
        " */",
        "#pragma once",
        *(f'#include "{name}"' for name in ABI_HEADERS),
        "",
        "#define KP_SIZE(type, size) _Static_assert(sizeof(struct type) == size, #type)",
        "#define KP_AT(type, field, at) \\",
        '\t_Static_assert(__builtin_offsetof(struct type, field) == at, #type "." #field)',
        "",
        "KP_SIZE(kp_addr, 16);",
    ]
    for struct in declared:
        if isinstance(struct, Struct):
            lines += ["", f"KP_SIZE({struct.name}, {struct.size});"]
            lines += [f"KP_AT({struct.name}, {f.name}, {f.offset});" for f in struct.fields]
    return "\n".join([*lines, "", "#undef KP_AT", "#undef KP_SIZE"]) + "\n"


# ---- the command ----------------------------------------------------------------------------


def generate(root: Path = ROOT) -> dict[Path, str]:
    """Return what each generated file should hold; LayoutError when a header breaks a rule."""
    headers = [(root / "bpf_src" / name).read_text() for name in ABI_HEADERS]
    defines, declared = read_abi("\n".join(headers))
    structs = {d.name for d in declared if isinstance(d, Struct)}
    maps = read_maps((root / "bpf_src/maps.h").read_text(), structs)
    return {
        root / "maps/abi.py": python_text(defines, declared, maps),
        root / "bpf_src/abi_assert.h": assert_text(declared),
    }


def difference(path: Path, wanted: str) -> str | None:
    """Name the first line in which a file differs from what it should hold."""
    present = path.read_text() if path.exists() else ""
    if present == wanted:
        return None
    pairs = zip_longest(present.splitlines(keepends=True), wanted.splitlines(keepends=True))
    number, old, new = next((n, *pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return f"{path}:{number}: is {old!r}, the headers say {new!r}; run `python -m maps.gen`"


def main(arguments: list[str]) -> int:
    """Write the files, or with --check compare them."""
    try:
        files = generate()
    except LayoutError as refusal:
        print(refusal, file=sys.stderr)
        return 1
    if arguments == ["--check"]:
        differences = [d for path, text in files.items() if (d := difference(path, text))]
        print("\n".join(differences), file=sys.stderr, end="\n" if differences else "")
        return 1 if differences else 0
    for path, text in files.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
