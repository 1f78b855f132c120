"""What a request's path and method are about."""

from __future__ import annotations

from typing import NamedTuple

from tests.cluster.resources import Resource, by_path
from tests.cluster.wire import Request

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Route(NamedTuple):
    """`resource` is None where the path is about no resource that we know."""

    verb: str
    resource: Resource | None = None
    namespace: str = ""
    name: str = ""
    group: str = ""
    plural: str = ""
    """The resource as the path names it, known or not; "" for other paths."""


def read_route(request: Request) -> Route:
    """The route of a request; anything that is not of the API has a plural of ""."""
    parts = [part for part in request.path.split("/") if part]
    match parts:
        case ["api", "v1", *rest] if rest:
            group = ""
        case ["apis", group, "v1", *rest] if rest:
            pass
        case _:
            return Route(request.method.lower())
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name = rest[0], rest[1] if len(rest) > 1 else ""
    if len(rest) > 2:
        plural += f"/{rest[2]}"
    resource = by_path(group, plural)
    return Route(_verb(request, name), resource, namespace, name, group, plural)


def _verb(request: Request, name: str) -> str:
    if request.method in ("GET", "HEAD"):
        watches = request.query.get("watch", "").lower() in ("1", "true")
        return "get" if name else "watch" if watches else "list"
    verb = _VERBS.get(request.method, request.method.lower())
    return "deletecollection" if verb == "delete" and not name else verb
