"""What the API server demands of an Event before it stores it.

The rules are those of its validation for events.k8s.io/v1; core v1 Events are taken as they are.
"""

from __future__ import annotations

import re
from typing import Any

from tests.cluster import failures
from tests.cluster.resources import Raw, Resource

_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_QUALIFIED = re.compile(
    r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_REASON_LENGTH = _ACTION_LENGTH = _INSTANCE_LENGTH = 128
_NOTE_LENGTH = 1024
#: Field of events.k8s.io/v1, and what messages call it.
_UNCHANGING = {
    "regarding": "involvedObject",
    "reason": "reason",
    "note": "message",
    "type": "type",
    "eventTime": "eventTime",
    "action": "action",
    "related": "related",
    "reportingController": "reportingController",
    "reportingInstance": "reportingInstance",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_DEPRECATED = (
    "deprecatedSource",
    "deprecatedFirstTimestamp",
    "deprecatedLastTimestamp",
    "deprecatedCount",
)

Cause = tuple[str, str, str]


def check_created(resource: Resource, raw: Raw) -> None:
    """Failure 422 with every cause when a new Event may not be so."""
    if not resource.group:
        return
    causes = [*_required(raw), *_lengths(raw), *_place(raw), *_series(raw)]
    if raw.get("eventTime") and not _is_time(raw["eventTime"]):
        raise failures.bad_request(f"parsing time {raw['eventTime']!r} failed")
    if raw.get("type") not in ("Normal", "Warning"):
        causes.append(
            ("FieldValueInvalid", "type", 'Invalid value: has to be "Normal" or "Warning"')
        )
    causes += [
        ("FieldValueInvalid", _UNCHANGING[field], "Invalid value: needs to be unset")
        for field in _DEPRECATED
        if raw.get(field)
    ]
    if causes:
        raise failures.invalid("Event", resource.group, raw["metadata"]["name"], *causes)


def check_updated(resource: Resource, old: Raw, new: Raw) -> None:
    """Failure 422 when an update changes more than an Event's series."""
    if not resource.group:
        return
    causes = [
        ("FieldValueInvalid", shown, "Invalid value: field is immutable")
        for field, shown in _UNCHANGING.items()
        if old.get(field) != new.get(field)
    ]
    if old.get("series") != new.get("series"):
        causes += _series(new)
    if causes:
        raise failures.invalid("Event", resource.group, new["metadata"]["name"], *causes)


def _required(raw: Raw) -> list[Cause]:
    fields = ("eventTime", "reportingController", "reportingInstance", "action", "reason")
    return [
        ("FieldValueRequired", field, "Required value") for field in fields if not raw.get(field)
    ]


def _lengths(raw: Raw) -> list[Cause]:
    limits = {
        "reportingInstance": _INSTANCE_LENGTH,
        "action": _ACTION_LENGTH,
        "reason": _REASON_LENGTH,
        "note": _NOTE_LENGTH,
    }
    causes = [
        (
            "FieldValueInvalid",
            _UNCHANGING[field],
            f"Invalid value: can have at most {limit} characters",
        )
        for field, limit in limits.items()
        if len(str(raw.get(field, "")).encode()) > limit
    ]
    controller = raw.get("reportingController")
    if controller and not _QUALIFIED.fullmatch(str(controller)):
        text = "Invalid value: name part must consist of alphanumeric characters, '-', '_' or '.'"
        causes.append(("FieldValueInvalid", "reportingController", text))
    return causes


def _place(raw: Raw) -> list[Cause]:
    """An Event about an object without a namespace lives in `default` (or `kube-system`)."""
    metadata, regarding = raw["metadata"], raw.get("regarding")
    causes = []
    if not _NAME.fullmatch(metadata["name"]) or len(metadata["name"]) > 253:
        text = "Invalid value: must consist of lower case alphanumeric characters, '-' or '.'"
        causes.append(("FieldValueInvalid", "metadata.name", text))
    about = regarding.get("namespace", "") if isinstance(regarding, dict) else ""
    if not about and metadata.get("namespace") not in ("default", "kube-system"):
        text = "Invalid value: does not match event.namespace"
        causes.append(("FieldValueInvalid", "involvedObject.namespace", text))
    return causes


def _series(raw: Raw) -> list[Cause]:
    series = raw.get("series")
    if series is None:
        return []
    causes = []
    if not isinstance(series, dict) or series.get("count", 0) < 2:
        causes.append(("FieldValueInvalid", "series.count", "Invalid value: should be at least 2"))
    if not isinstance(series, dict) or not _is_time(series.get("lastObservedTime")):
        causes.append(("FieldValueRequired", "series.lastObservedTime", "Required value"))
    return causes


def _is_time(text: Any) -> bool:
    return isinstance(text, str) and _MICRO_TIME.fullmatch(text) is not None
