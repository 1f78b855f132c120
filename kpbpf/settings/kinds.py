"""The kinds of values that a setting may have: how each is read from a file and from a flag.

A kind turns a raw value (what YAML or JSON gives) into one canonical, JSON-ready value, and says
in words what it expects. It knows no field and no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kpbpf import address
from kpbpf.settings import durations

OFF = "0.0.0.0:0"
"""A listening address that says: do not listen. An empty one in a file is the default instead."""


class Kind(NamedTuple):
    """One kind of value."""

    expected: str
    """In words, after "expected": "a whole number from 0 to 31"."""
    read: Callable[[Any], Any]
    """Raw to canonical value; ValueError (or TypeError) when it is not one."""
    empty: Any
    """The value that Go's JSON leaves in a field that nobody set."""
    from_text: Callable[[str], Any]
    """A flag's words to a raw value; ValueError likewise."""
    metavar: str
    item: Kind | None = None
    """Of a list, or of a map with text keys: its items, which are then read one by one."""


def _wrong() -> Any:
    """Say no in the middle of an expression."""
    raise ValueError


# ---- plain ones -------------------------------------------------------------------------


def _text(raw: Any) -> str:
    return raw if isinstance(raw, str) else _wrong()


def _bool(raw: Any) -> bool:
    return raw if isinstance(raw, bool) else _wrong()


def _bool_from_text(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    return False if text in ("0", "f", "F", "false", "FALSE", "False") else _wrong()


def whole(least: int, most: int) -> Kind:
    """Whole numbers in a range."""

    def read(raw: Any) -> Any:
        good = isinstance(raw, int) and not isinstance(raw, bool) and least <= raw <= most
        return raw if good else _wrong()

    def from_text(text: str) -> int:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text, re.ASCII) else _wrong()

    if least == -(2**31):
        expected = "a whole number"
    elif most == 2**31 - 1:
        expected = f"a whole number, {least} or more"
    else:
        expected = f"a whole number from {least} to {most}"
    return Kind(expected, read, 0, from_text, "N")


def _number(raw: Any) -> int | float:
    if not isinstance(raw, int | float) or isinstance(raw, bool) or not math.isfinite(raw):
        _wrong()
    if abs(raw) > 1e9:
        _wrong()
    return int(raw) if raw == int(raw) else float(raw)


def choice(*words: str) -> Kind:
    """One of some words."""

    def read(raw: Any) -> str:
        return raw if isinstance(raw, str) and (raw in words or raw == "") else _wrong()

    return Kind(f"one of {', '.join(words)}", read, "", str, "|".join(words))


def _duration(raw: Any) -> str:
    return durations.to_text(durations.nanoseconds(_text(raw)))


def _positive_duration(raw: Any) -> str:
    return _duration(raw) if durations.nanoseconds(_text(raw)) >= 0 else _wrong()


def _flush_frequency(raw: Any) -> str:
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < 2**63:
        return durations.to_text(raw)
    return _positive_duration(raw)


def _quantity(raw: Any) -> str:
    text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else _text(raw)
    good = re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?([kKMGTPE]i?|m)?", text, re.ASCII)
    return text if good or not text else _wrong()


TEXT = Kind("text (in quotes if it looks like something else)", _text, "", str, "TEXT")
PATH = TEXT._replace(expected="the path of a file", metavar="FILE")
BOOL = Kind("true or false", _bool, False, _bool_from_text, "true|false")
INT = whole(-(2**31), 2**31 - 1)
COUNT = whole(0, 2**31 - 1)
NUMBER = Kind("a number", _number, 0, float, "N")
DURATION = Kind("a duration such as 30s, 15m or 1h30m", _positive_duration, "0s", str, "DURATION")
FLUSH_FREQUENCY = DURATION._replace(read=_flush_frequency)
QUANTITY = Kind("a quantity such as 0 or 64Ki", _quantity, "0", str, "SIZE")

# ---- addresses ----------------------------------------------------------------------------


def _ip(raw: Any) -> str:
    text = _text(raw)
    return address.to_text(address.from_text_sloppy(text)) if text else text


def bind(default_port: int) -> Kind:
    """An address to listen on, with a port; port 0 is OFF, no port is the default one."""

    def read(raw: Any) -> str:
        text = _text(raw)
        if not text:
            return text
        host, port = _split(text, default_port)
        if port == 0:
            return OFF
        parsed = address.from_text_sloppy(host)
        return address.with_port(parsed, port)

    def from_text(text: str) -> str:
        return text or OFF

    expected = f"an address with a port, such as 0.0.0.0:{default_port} or [::]:{default_port}"
    return Kind(expected, read, "", from_text, "ADDRESS:PORT")


def _split(text: str, default_port: int) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]*)):([0-9]{1,5})", text, re.ASCII)
    if found is None:
        return text.removeprefix("[").removesuffix("]"), default_port
    port = int(found[3])
    return (found[1] or found[2] or "0.0.0.0", port) if port < 65536 else _wrong()


def _block(raw: Any) -> str:
    host, slash, length = _text(raw).partition("/")
    parsed = address.from_text_sloppy(host)
    bits = 32 if address.is_ipv4(parsed) and ":" not in host else 128
    good = slash and re.fullmatch(r"[0-9]{1,3}", length, re.ASCII) and int(length) <= bits
    return f"{host}/{int(length)}" if good else _wrong()


def _blocks_in_text(raw: Any) -> str:
    text = _text(raw)
    return ",".join(_block(part.strip()) for part in text.split(",")) if text else text


def _ports(raw: Any) -> str:
    found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", _text(raw), re.ASCII)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not raw:
        return ""
    return f"{first}-{last}" if 0 < first <= last < 65536 else _wrong()


def _node_port_address(raw: Any) -> str:
    return raw if raw in ("primary", "localhost", "all") else _block(raw)


IP = Kind("an IP address such as 0.0.0.0 or fd00::1", _ip, "", str, "ADDRESS")
PORTS = Kind("two ports with a dash, such as 10240-29999", _ports, "", str, "FIRST-LAST")
BLOCK = Kind("a block of addresses such as 10.244.0.0/16 or fd00::/64", _block, "", str, "CIDR")
BLOCKS_IN_TEXT = Kind(
    "one block of addresses or two with a comma, such as 10.244.0.0/16,fd00::/64",
    _blocks_in_text,
    "",
    str,
    "CIDR[,CIDR]",
)
_NODE_PORT_ADDRESS = BLOCK._replace(
    expected="a block of addresses such as 10.0.0.0/8, or primary, localhost or all",
    read=_node_port_address,
)

# ---- several ------------------------------------------------------------------------------


def listed(item: Kind, what: str, metavar: str) -> Kind:
    """Lists; a flag is repeated, or holds several with commas."""

    def read(raw: Any) -> list[Any]:
        return [item.read(each) for each in raw] if isinstance(raw, list) else _wrong()

    def from_text(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    return Kind(f"a list of {what}", read, [], from_text, metavar, item)


def _gates(raw: Any) -> dict[str, bool]:
    if not isinstance(raw, dict):
        _wrong()
    return {_text(name): _bool(value) for name, value in raw.items()}


def _gates_from_text(text: str) -> dict[str, bool]:
    pairs = (pair.partition("=") for pair in text.split(",") if pair)
    return {name.strip(): _bool_from_text(value.strip()) for name, _, value in pairs}


def _absolute_path(raw: Any) -> str:
    text = _text(raw)
    return text if text.startswith("/") and "\0" not in text else _wrong()


def _from_here(text: str) -> list[str]:
    """A flag's path may be relative, and may hold a comma."""
    return [str(Path(text).absolute())]


_INTERFACE_BYTES = 15
"""IFNAMSIZ of the kernel, without the end."""


def _interface_prefix(raw: Any) -> str:
    text = _text(raw)
    good = text and len(text.encode(errors="replace")) <= _INTERFACE_BYTES
    return text if good and not re.search(r"[\s/]", text) else _wrong()


def _uplink(raw: Any) -> str:
    text = _text(raw)
    return text if "*" not in text[:-1] and _interface_prefix(text.removesuffix("*")) else _wrong()


def _vmodule_item(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict) or not set(raw) <= {"filePattern", "verbosity"}:
        _wrong()
    pattern = _text(raw.get("filePattern"))
    if not pattern or "=" in pattern or "," in pattern:
        _wrong()
    return {"filePattern": pattern, "verbosity": COUNT.read(raw.get("verbosity", 0))}


def _vmodule_from_text(text: str) -> list[dict[str, Any]]:
    pairs = (part.rpartition("=") for part in text.split(",") if part)
    return [{"filePattern": name, "verbosity": COUNT.from_text(n)} for name, _, n in pairs]


BLOCKS = listed(BLOCK, "blocks of addresses", "CIDR,...")
NODE_PORT_ADDRESSES = listed(_NODE_PORT_ADDRESS, "blocks of addresses", "CIDR,...")
DIRECTORIES = listed(
    Kind("an absolute path of a directory", _absolute_path, "", str, "DIR"), "directories", "DIR"
)._replace(from_text=_from_here)
INTERFACE_PREFIXES = listed(
    Kind("the start of an interface's name, at most 15 bytes", _interface_prefix, "", str, ""),
    "starts of interface names",
    "PREFIX",
)
UPLINKS = listed(
    Kind("the name of an interface, or the start of one and a *", _uplink, "", str, ""),
    "names of interfaces",
    "NAME",
)
GATES = Kind("names with true or false", _gates, {}, _gates_from_text, "NAME=true,...", BOOL)
VMODULE = Kind(
    "a list of filePattern and verbosity",
    listed(TEXT._replace(read=_vmodule_item), "", "").read,
    [],
    _vmodule_from_text,
    "PATTERN=N,...",
    TEXT._replace(expected="a filePattern and a verbosity", read=_vmodule_item),
)
