"""Label selectors as people type them: "app=web,tier!=cache,env in (a,b),!beta" (SEMANTICS C3).

Reads words; what a selector means is kpbpf.model.labels' business.
"""

import re

from kpbpf.errors import Usage
from kpbpf.model.labels import Operator, Requirement, Selector

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_SET = re.compile(rf"({_NAME})\s+(in|notin)\s*\(([^()]*)\)")
_EQUAL = re.compile(rf"({_NAME})\s*(==|=|!=)\s*({_VALUE})")
_THERE = re.compile(rf"(!?)\s*({_NAME})")
_COMMAS = re.compile(r",(?![^()]*\))")
"""Those that are not inside of brackets."""


def read(text: str) -> Selector:
    """Read a selector as kubectl's -l; Usage says what one looks like."""
    return Selector(tuple(_requirement(part.strip()) for part in _COMMAS.split(text)))


def _requirement(text: str) -> Requirement:
    if found := _SET.fullmatch(text):
        values = [value.strip() for value in found[3].split(",")]
        if all(re.fullmatch(_VALUE, value) for value in values):
            operator = Operator.IN if found[2] == "in" else Operator.NOT_IN
            return Requirement(found[1], operator, tuple(sorted(set(values))))
    elif found := _EQUAL.fullmatch(text):
        operator = Operator.NOT_IN if found[2] == "!=" else Operator.IN
        return Requirement(found[1], operator, (found[3],))
    elif found := _THERE.fullmatch(text):
        return Requirement(found[2], Operator.DOES_NOT_EXIST if found[1] else Operator.EXISTS)
    raise Usage(
        f"{text!r} does not select labels; it takes app=web, app!=web, 'app in (web,api)', "
        "'app notin (web)', app, or !app, with commas between"
    )
