"""What the commands have in common: flags, the home they choose, addresses as people write them.

Parses words only; looks at no map.
"""

import argparse
import re
from collections.abc import Callable, Collection
from typing import Any

from kpbpf import address
from kpbpf.address import Address
from kpbpf.errors import Usage
from kpbpf.home import PINS, RUN, Home

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

AFFINITY_SEC = 10800
"""Kubernetes' own default of sessionAffinityConfig."""


def verb(
    verbs: "argparse._SubParsersAction[Any]",
    name: str,
    purpose: str,
    call: Callable[[argparse.Namespace], int],
    examples: str,
) -> argparse.ArgumentParser:
    """Add a verb to an object's parser: its call, and help that ends with examples."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=purpose)
    command(parser, f"{purpose[:1].upper()}{purpose[1:]}.", call, examples)
    return parser


def command(
    parser: argparse.ArgumentParser,
    description: str,
    call: Callable[[argparse.Namespace], int],
    examples: str,
) -> None:
    """Make a parser a command: description, examples, function, and the flags that all have."""
    parser.description = description
    indented = "".join(f"\n  {line.strip()}" for line in examples.strip().splitlines())
    parser.epilog = f"examples:{indented}\n"
    parser.set_defaults(call=call)
    places = parser.add_argument_group("places")
    places.add_argument("--pins", metavar="DIR", help=f"pins in a BPF file system ({PINS})")
    places.add_argument("--run-dir", metavar="DIR", help=f"locks, status, manifests ({RUN})")


def home(arguments: argparse.Namespace) -> Home:
    """Choose the home by flags, environment, defaults."""
    return Home.choose(arguments.pins, arguments.run_dir)


def ip(text: str) -> Address:
    """Read an address; Usage says what an address looks like."""
    try:
        return address.from_text(text.strip("[]"))
    except ValueError:
        raise Usage(f"{text!r} is not an IP address such as 10.96.0.100 or fd00::1") from None


def ip_or_none(text: str) -> Address | None:
    """Read what may be an address or a name."""
    try:
        return address.from_text(text.strip("[]"))
    except ValueError:
        return None


def port(text: str) -> int:
    """Read a port number from 1 to 65535."""
    if text.isascii() and text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise Usage(f"{text!r} is not a port from 1 to 65535")


def ip_and_port(text: str) -> tuple[Address, int]:
    """Read 10.96.0.100:80 or [fd00::1]:80."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]+)", text)
    if not found:
        raise Usage(
            f"{text!r} is not an address with a port, such as 10.96.0.100:80 or [fd00::1]:80"
        )
    return ip(found[1] or found[2]), port(found[3])


def ip_and_port_or_none(text: str) -> tuple[Address, int] | None:
    """Read what may be an address with a port, or a name."""
    try:
        return ip_and_port(text)
    except Usage:
        return None


def affinity(text: str) -> int:
    """Read seconds from 1 to 86400, what Kubernetes allows."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 86400):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 86400")
    return int(text)


def ip_text(text: str) -> str:
    """Read an address and write it as all rows do."""
    return address.to_text(ip(text))


def one_of(text: str, choices: Collection[str], flag: str) -> str:
    """Accept one of some words; Usage lists them."""
    if text not in choices:
        raise Usage(f"{flag} {text}: not one of {', '.join(choices)}")
    return text


def names(asked: str, service: str | None) -> bool:
    """Whether somebody who wrote `asked` means this Service port.

    A port is called "default/web:http/IPv4"; people leave off what is clear to them, from
    either end: "default/web:http", "default/web", "web".
    """
    if service is None:
        return False
    whole = service.rpartition("/")[0]
    accepted = {service, whole, whole.partition(":")[0]}
    return asked in accepted | {name.partition("/")[2] for name in accepted}


def path_of(service: str) -> str:
    """Take namespace/name from a Service port's name, namespace/name:port/family."""
    namespace, _, rest = service.partition("/")
    return f"{namespace}/{rest.partition('/')[0].partition(':')[0]}"


def host_of(place: str) -> str:
    """Take the address from "10.0.0.1:80" or "[fd00::1]:80"."""
    return place.rpartition(":")[0].strip("[]")


def closest(asked: str, known: Collection[str]) -> str:
    """Name what somebody who typed `asked` may have meant: "; did you mean default/web?", or ""."""
    import difflib

    whole = difflib.get_close_matches(asked, known, n=3, cutoff=0.6)
    # People leave the namespace off; then the name alone must be like it.
    names = {path.partition("/")[2]: path for path in known}
    bare = difflib.get_close_matches(asked.rpartition("/")[2], names, n=3, cutoff=0.6)
    found = list(dict.fromkeys([*whole, *(names[name] for name in bare)]))[:3]
    return f"; did you mean {' or '.join(found)}?" if found else ""
