"""Where an endpoint comes from: what its name in the maps says, written and read.

"netns=/run/netns/a ifname=eth0 pod=default/a" was made by hand, "found=route pod=default/web" by
following the API; a CNI plugin's will start with "cni=". The name outlives every process: by it
a daemon knows after a restart which endpoints are its own to take away.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

BY_HAND = "by hand"
SURE = ("route", "neighbour", "prefix")
"""Ways to find a pod that are not the last resort; none is surer than another."""

_SIZE = 200
"""Of kp_name.text. A namespace has at most 63 characters, but a pod's name has up to 253."""


class Origin(NamedTuple):
    """How an endpoint was found, and the pod as namespace/name; "" where it is not known."""

    how: str
    """"by hand", or "route", "neighbour", "prefix", "far-end"; "" while it is half-done."""
    pod: str


def of(name: str) -> Origin:
    """Read a name; what nobody but a person can have written was made by hand."""
    words = dict(word.split("=", 1) for word in name.split() if "=" in word)
    how = words.get("found") or (BY_HAND if name else "")
    return Origin(how, words.get("pod", ""))


def found(how: str, pod: str) -> str:
    """The name of an endpoint that was found: "found=route pod=default/web"."""
    return f"found={how} pod={shortened(pod)}"


def shortened(pod: str) -> str:
    """The pod as it stands in names: cut, and told apart by a hash, where it is too long."""
    longest = _SIZE - len("found=neighbour pod=")
    if len(pod) <= longest:
        return pod
    mark = hashlib.sha256(pod.encode()).hexdigest()[:12]
    return f"{pod[: longest - len(mark) - 1]}~{mark}"
