"""Label selectors, and whether a set of labels matches one (SEMANTICS C3).

Pure. Which objects are asked is the business of whoever holds the selector.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

#: The labels of an object, as pairs of name and value, sorted; no name stands twice.
Labels = tuple[tuple[str, str], ...]


class Operator(Enum):
    """What a requirement asks of the label that it names; as the API spells it."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(NamedTuple):
    """A condition on one label. `values`, sorted, is empty unless the operator is IN or NOT_IN."""

    label: str
    operator: Operator
    values: tuple[str, ...] = ()

    def holds(self, labels: dict[str, str]) -> bool:
        """Whether the labels are so; an absent label is in no set of values."""
        value = labels.get(self.label)
        if self.operator is Operator.IN:
            return value in self.values
        if self.operator is Operator.NOT_IN:
            return value not in self.values
        return (value is not None) is (self.operator is Operator.EXISTS)


class Selector(NamedTuple):
    """All requirements must hold; without any, everything matches.

    Each entry of an object's matchLabels is one of operator IN with a single value.
    """

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether an object with these labels is selected."""
        if not self.requirements:
            return True
        found = dict(labels)
        return all(requirement.holds(found) for requirement in self.requirements)


#: Selects everything.
EVERYTHING = Selector()
