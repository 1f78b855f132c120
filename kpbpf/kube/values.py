"""Reading what objects of several kinds hold: addresses, labels, names.

As in `fields`, a wrong value raises BadObject, and what is kept is bounded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

from kpbpf import address
from kpbpf.address import Address
from kpbpf.kube.fields import BadObject, Raw, section, shown
from kpbpf.model.objects import Block

T = TypeVar("T")

#: A DNS label: what Services, namespaces and ports may be called (RFC 1123).
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
MAX_LABEL = 63

#: Labels that an object may have, and characters of their names: a prefix, a slash, a name.
MAX_LABELS = 1000
MAX_LABEL_NAME = 317

# Characters of an address: with leading zeros there is no natural limit.
_MAX_ADDRESS = 64
_PREFIX = re.compile(r"[0-9]{1,3}")
_MAX_SHARED = 16
_LOOPBACK6 = address.from_text("::1")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})"
)


def ip(value: object) -> Address:
    """An IP address; leading zeros are decimal (SEMANTICS A10)."""
    if isinstance(value, str) and len(value) <= _MAX_ADDRESS:
        # The strict reader knows nearly all of them, and is several times faster.
        try:
            return address.from_text(value)
        except ValueError:
            pass
        try:
            return address.from_text_sloppy(value)
        except ValueError:
            pass
    raise BadObject("", "an IP address", shown(value))


def reachable_ip(value: object) -> Address:
    """An IP address that packets may be sent to from elsewhere: no loopback, multicast, or none."""
    addr = ip(value)
    if address.is_ipv4(addr):
        fit = addr[12] not in (0, 127) and addr[12] < 224
    else:
        fit = addr[0] != 0xFF and addr not in (address.ZERO, _LOOPBACK6)
    if not fit:
        raise BadObject("", "an address that clients can send to", shown(value))
    return addr


def unix_time(told: object) -> float:
    """A time as the API writes it, in seconds of the Unix epoch; 0.0 for what cannot be read."""
    if not isinstance(told, str) or not _RFC3339.fullmatch(told):
        return 0.0
    try:
        return datetime.fromisoformat(told).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def block(value: object) -> Block:
    """A range of addresses; blanks around it are cut (SEMANTICS A10)."""
    text = value.strip() if isinstance(value, str) else ""
    base, slash, length = text.partition("/") if len(text) <= _MAX_ADDRESS else ("", "", "")
    try:
        addr = address.from_text_sloppy(base)
    except ValueError:
        addr = address.ZERO
        slash = ""
    widest = 32 if address.is_ipv4(addr) else 128
    if not slash or not _PREFIX.fullmatch(length) or int(length) > widest:
        raise BadObject("", "a range such as 192.0.2.0/24", shown(value))
    prefix = int(length) + 128 - widest
    return Block(masked(addr, prefix), prefix)


def masked(addr: Address, prefix: int) -> Address:
    """The address with all bits behind the first `prefix` cleared."""
    spare = 128 - prefix
    return (int.from_bytes(addr, "big") >> spare << spare).to_bytes(16, "big")


def labels(metadata: Raw) -> Mapping[str, str]:
    """metadata.labels: names and values are strings, no longer than the API allows."""
    return label_values(metadata, "labels")


def label_values(raw: Raw, key: str) -> Mapping[str, str]:
    """Values by the name of a label."""
    found = section(raw, key)
    if len(found) > MAX_LABELS:
        raise BadObject(key, f"at most {MAX_LABELS:,} labels", f"{len(found):,}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise BadObject(f"{key}[{shown(name)}]", "a string", shown(value))
        if len(value) > MAX_LABEL or len(name) > MAX_LABEL_NAME:
            limits = f"a name of at most {MAX_LABEL_NAME} characters and a value of {MAX_LABEL}"
            got = f"{len(name):,} and {len(value):,}"
            raise BadObject(f"{key}[{shown(name)}]", limits, got)
    return found


def label(raw: Raw, key: str) -> str:
    """A DNS label, such as the name of a port or a namespace; "" when absent."""
    value = raw.get(key)
    if value is None or value == "":
        return ""
    if isinstance(value, str) and len(value) <= MAX_LABEL and (known := _known_label(value)):
        return known
    raise BadObject(key, "a DNS label in lower case", shown(value))


@lru_cache(maxsize=4096)
def _known_label(value: str) -> str:
    """The same, one object for equal ones; "" if it is none. Few are met very often."""
    return sys.intern(value) if LABEL.fullmatch(value) else ""


def shared(value: tuple[T, ...]) -> tuple[T, ...]:
    """One object for equal tuples: thousands of endpoints share few hints and ports."""
    # Long ones are rare, and shall not be kept for longer than their objects.
    return _shared(value) if len(value) <= _MAX_SHARED else value


@lru_cache(maxsize=4096)
def _shared(value: tuple[T, ...]) -> tuple[T, ...]:
    return value
