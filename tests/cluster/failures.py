"""Refusals as the API server words them: Status objects with code, reason and details."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.resources import Raw, Resource

EXPIRED_PAGE = (
    "The list that this continue token is of is no longer remembered. Begin anew, or go on with "
    "the token in this answer, which shows the objects as they are by then."
)


class Failure(Exception):
    """A request that is answered with a Status object."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Raw | None = None,
        retry_after_sec: int | None = None,
        token: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        self.retry_after_sec = retry_after_sec
        if retry_after_sec is not None:
            self.details["retryAfterSeconds"] = retry_after_sec
        self.metadata = {"continue": token} if token else {}

    @property
    def status(self) -> Raw:
        """The Status object."""
        raw: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            raw["details"] = self.details
        return raw | {"code": self.code}

    @property
    def body(self) -> bytes:
        """The Status as the body of an answer."""
        return json.dumps(self.status, separators=(",", ":")).encode() + b"\n"


def unauthorized() -> Failure:
    """No credentials, or wrong ones."""
    return Failure(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> Failure:
    """A request that cannot be read."""
    return Failure(400, "BadRequest", message)


def not_found(resource: Resource, name: str) -> Failure:
    """No object of that name."""
    details = {"name": name, "group": resource.group, "kind": resource.plural}
    message = f'{resource.qualified} "{name}" not found'
    return Failure(404, "NotFound", message, details={k: v for k, v in details.items() if v})


def exists(resource: Resource, name: str) -> Failure:
    """An object of that name is there already."""
    details = {"name": name, "kind": resource.plural}
    message = f'{resource.qualified} "{name}" already exists'
    return Failure(409, "AlreadyExists", message, details=details)


def conflict(resource: Resource, name: str) -> Failure:
    """The object is not what the writer had read."""
    message = f'{resource.qualified} "{name}" is not any more what the writer has read'
    return Failure(409, "Conflict", message, details={"name": name, "kind": resource.plural})


def invalid(kind: str, group: str, name: str, *causes: tuple[str, str, str]) -> Failure:
    """Fields that may not be so; each cause is (reason, field, message)."""
    listed = [{"reason": r, "message": message, "field": field} for r, field, message in causes]
    texts = [f"{field}: {message}" for _, field, message in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    of = f"{kind}.{group}" if group else kind
    details = {"name": name, "group": group, "kind": kind, "causes": listed}
    return Failure(422, "Invalid", f'{of} "{name}" is invalid: {text}', details=details)


def invalid_options(*causes: tuple[str, str]) -> Failure:
    """List options that may not be so together; each cause is (field, message)."""
    worded = [("FieldValueForbidden", field, f"Forbidden: {text}") for field, text in causes]
    return invalid("ListOptions", "meta.k8s.io", "", *worded)


def expired(asked: int, oldest: int) -> Failure:
    """The history before `oldest` is forgotten."""
    return Failure(410, "Expired", f"too old resource version: {asked} ({oldest})")


def expired_page(token: str) -> Failure:
    """A page of a list whose version is forgotten; `token` goes on without consistency."""
    return Failure(410, "Expired", EXPIRED_PAGE, token=token)


def too_large(asked: int, current: int) -> Failure:
    """A version that the server has not seen yet."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    return Failure(504, "Timeout", message, details={"causes": causes}, retry_after_sec=1)
