"""What the generated `maps.abi` is made of: words with captions, records, map specifications.

No layout stands here, and nothing here reads a map.
"""

# The C half of socket: importing the other one takes every command line 5 ms longer.
from _socket import htons, ntohs
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any, ClassVar, NamedTuple, Protocol, Self

__all__ = [
    "NO_PREALLOC",
    "U32",
    "Bits",
    "MapKind",
    "MapSpec",
    "Packed",
    "Record",
    "Word",
    "htons",
    "ntohs",
    "pack_text",
    "short",
    "short_bits",
    "unpack_text",
]

Packed = bytes | bytearray | memoryview
"""An entry as it lies in the kernel."""


class Word(IntEnum):
    """A numbered word, with the caption that stands behind it in abi.h."""

    CAPTIONS: ClassVar[dict[Any, str]]
    """Caption of every member."""

    caption: str

    def __new__(cls, value: int, caption: str = "") -> Self:
        """Make the member that `NAME = value, caption` in a class body asks for."""
        word = int.__new__(cls, value)
        word._value_ = value
        word.caption = caption
        return word

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.CAPTIONS = {word: word.caption for word in cls}

    @property
    def short(self) -> str:
        """The name in lower case without its group: DROP_NO_BACKEND is "no_backend"."""
        return self.name.removeprefix("PASS_").removeprefix("DROP_").lower()


class Bits(IntFlag):
    """Words that can hold at once, one bit each, with their captions."""

    CAPTIONS: ClassVar[dict[Any, str]]
    """Caption of every single bit."""

    caption: str

    def __new__(cls, value: int, caption: str = "") -> Self:
        """Make the member that `NAME = value, caption` in a class body asks for."""
        bit = int.__new__(cls, value)
        bit._value_ = value
        bit.caption = caption
        return bit

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.CAPTIONS = {bit: bit.caption for bit in cls}


def short(words: type[Word], number: int) -> str:
    """Name a number read from the kernel; one that this version does not know is "verdict 77"."""
    try:
        return words(number).short
    except ValueError:
        return f"{words.__name__.lower()} {number}"


def short_bits(words: type[Bits], number: int) -> list[str]:
    """Name the bits of a number, lowest first; unknown ones stay visible as "0x40"."""
    names = [bit.name.lower() for bit in words if bit & number and bit.name]
    unknown = number & ~sum(words)
    return [*names, hex(unknown)] if unknown else names


class Record(Protocol):
    """A key or value of a map, that packs to exactly SIZE bytes."""

    SIZE: ClassVar[int]

    def pack(self) -> bytes:
        """Lay it out as the programs read it."""

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read what the programs wrote; struct.error when it is not SIZE bytes."""


class U32(int):
    """A bare number as a key: the slot of an array."""

    SIZE: ClassVar[int] = 4
    STRUCT: ClassVar[Struct] = Struct("=I")

    def pack(self) -> bytes:
        """Lay it out in host order."""
        return self.STRUCT.pack(self)

    @classmethod
    def unpack(cls, data: Packed) -> Self:
        """Read it back."""
        return cls(*cls.STRUCT.unpack(data))


def pack_text(text: str, size: int) -> bytes:
    """Encode as UTF-8, which the record pads with zeros; ValueError when it does not fit."""
    data = text.encode()
    if len(data) > size:
        raise ValueError(f"name of {len(data)} bytes, at most {size} fit: {text!r}")
    return data


def unpack_text(data: bytes) -> str:
    """Decode up to the padding; what is not UTF-8 stays visible as escapes."""
    return data.rstrip(b"\0").decode(errors="backslashreplace")


class MapKind(IntEnum):
    """enum bpf_map_type of linux/bpf.h, as far as we use it."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11

    @property
    def is_array(self) -> bool:
        """Every slot exists from the start, and none can be deleted."""
        return self in (MapKind.ARRAY, MapKind.PERCPU_ARRAY)

    @property
    def is_percpu(self) -> bool:
        """One value for each possible CPU."""
        return self in (MapKind.PERCPU_HASH, MapKind.PERCPU_ARRAY, MapKind.LRU_PERCPU_HASH)

    @property
    def is_lru(self) -> bool:
        """Makes room for a new entry by forgetting an old one."""
        return self in (MapKind.LRU_HASH, MapKind.LRU_PERCPU_HASH)


NO_PREALLOC = 1
"""BPF_F_NO_PREALLOC: memory grows with use."""


class MapSpec(NamedTuple):
    """One line of maps.h."""

    name: str
    kind: MapKind
    key_size: int
    value_size: int
    entries: int
    flags: int
    key_type: type[Record]
    value_type: type[Record]

    @property
    def symbol(self) -> str:
        """Its name in C and in the kernel's own lists."""
        return f"kp_{self.name}"
