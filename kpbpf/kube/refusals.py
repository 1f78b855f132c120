"""What an API server's refusal means: its HTTP status or Status object as an error to catch.

Holds no I/O. All of these pass or are mended without a restart, so all are Retry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from kpbpf.errors import Retry

#: A server that asks to be left alone for longer is asked again all the same.
LONGEST_RETRY_AFTER_SEC = 300.0

_SHOWN = 200
_VERBS = {"GET": "list and watch", "POST": "create", "PATCH": "patch"}


class ApiError(Retry):
    """Something went wrong with the API server; asking again is worth while.

    `retry_after_sec` is how long the server wants to be left alone, 0.0 when it does not say.
    """

    retry_after_sec = 0.0


class ApiDown(ApiError):
    """The server cannot be reached, or the connection broke."""


class ApiUnreachable(ApiDown):
    """No connection came about; the session says so once for all who asked."""


class ApiSilent(ApiDown):
    """Nothing came for longer than anything should take."""


class ApiFailing(ApiError):
    """The server answered, with an error of its own (5xx, or something odd)."""


class ApiRefused(ApiError):
    """The server does not know us (401), or does not let us (403)."""


class ApiMissing(ApiError):
    """There is no such thing (404): an object, or a whole resource."""


class ApiExists(ApiError):
    """There is one of that name already (409)."""


class ApiGone(ApiError):
    """The version asked for was compacted away (410): everything has to be read again."""


class ApiBusy(ApiError):
    """The server has too much to do (429)."""


class ApiInvalid(ApiError):
    """The server does not understand the request (400, 422 and others): it is an older one."""


class Garbled(ApiError):
    """What the server sends is not what it should be."""


_CLASSES: dict[int, type[ApiError]] = {
    400: ApiInvalid,
    401: ApiRefused,
    403: ApiRefused,
    404: ApiMissing,
    405: ApiInvalid,
    406: ApiInvalid,
    409: ApiExists,
    410: ApiGone,
    422: ApiInvalid,
    429: ApiBusy,
    501: ApiInvalid,
}


def of_answer(
    server: str, method: str, path: str, status: int, retry_after: str | None, body: bytes
) -> ApiError:
    """The error that an HTTP answer with a status other than 2xx stands for."""
    said = _message(body)
    if status == 401:
        text = (
            f"{server} does not accept our credentials (401{said}): look at the kubeconfig's user, "
            "or at the pod's service account"
        )
    elif status == 403:
        text = (
            f"{server} does not let us {_VERBS.get(method, method)} {path} (403{said}): "
            "see deploy's ClusterRole"
        )
    else:
        text = f"{server} answers {method} {path} with {status}{said}"
    return _error(status, text, _seconds(retry_after))


def of_status(server: str, path: str, status: Mapping[str, Any]) -> ApiError:
    """The error that a Status object in a watch (an ERROR event) stands for."""
    code = status.get("code")
    known = code if isinstance(code, int) and not isinstance(code, bool) else 500
    if status.get("reason") in ("Expired", "Gone"):
        known = 410
    details = status.get("details")
    after = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    message = status.get("message")
    said = f": {message[:_SHOWN]}" if isinstance(message, str) and message else ""
    return _error(known, f"{server} ends the watch of {path} with {known}{said}", _seconds(after))


def _error(status: int, text: str, retry_after_sec: float) -> ApiError:
    other = ApiInvalid if 400 <= status < 500 else ApiFailing
    error = _CLASSES.get(status, other)(text)
    error.retry_after_sec = retry_after_sec
    return error


def _message(body: bytes) -> str:
    """The message of a Status object, or the text's begin, to stand behind the code."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = body.decode(errors="replace")
    if isinstance(found, dict):
        found = found.get("message")
    said = " ".join(found.split()) if isinstance(found, str) else ""
    return f": {said[:_SHOWN]}" if said else ""


def _seconds(value: object) -> float:
    """Seconds of a Retry-After; 0.0 when it is absent or something else (a date)."""
    try:
        seconds = float(value) if isinstance(value, str | int | float) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SEC) if math.isfinite(seconds) else 0.0
