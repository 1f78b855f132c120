"""A Kubernetes Event: something that happened to an object, told to whoever looks at it."""

from __future__ import annotations

from typing import NamedTuple

from kpbpf.model.objects import Key


class Event(NamedTuple):
    """What is to be told (events.k8s.io/v1, SEMANTICS A56).

    `reason` and `action` are words in UpperCamelCase ("Starting", "StartKubeProxy"), `note` is a
    sentence. `uid` is the object's; "" when it is not known (then `kubectl describe` misses it).
    """

    regarding: Key
    reason: str
    action: str
    note: str
    warning: bool = False
    uid: str = ""
