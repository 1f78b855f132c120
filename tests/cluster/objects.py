"""Requests about one object: get, create, update, patch, delete.

What an Event must be is checked in event_rules.py; other kinds are stored as they come.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from tests.cluster import failures
from tests.cluster.event_rules import check_created, check_updated
from tests.cluster.failures import Failure, bad_request
from tests.cluster.resources import Raw, Resource
from tests.cluster.route import Route
from tests.cluster.store import Name, Store, dump
from tests.cluster.wire import Request

_PATCHES = ("application/merge-patch+json", "application/strategic-merge-patch+json")


def answer_object(store: Store, route: Route, request: Request) -> tuple[int, bytes]:
    """Code and body of the answer; Failure for what the server would refuse."""
    resource = route.resource
    assert resource is not None
    if resource.namespaced and not route.namespace:
        raise Failure(405, "MethodNotAllowed", "the server does not allow this method here")
    name = (route.namespace, route.name)
    if route.verb == "create":
        return 201, dump(store.create(resource, _created(resource, route, request)))
    with store.changed:
        if name not in store.table(resource).objects:
            raise failures.not_found(resource, route.name)
        match route.verb:
            case "get":
                return 200, store.table(resource).objects[name].object(resource) + b"\n"
            case "update":
                return 200, dump(_update(store, resource, name, _body(request)))
            case "patch":
                return 200, dump(_patch(store, resource, name, request))
            case "delete":
                store.remove(resource, name)
                details = {"name": route.name, "group": resource.group, "kind": resource.plural}
                head = {"kind": "Status", "apiVersion": "v1", "metadata": {}}
                return 200, dump(head | {"status": "Success", "details": details})
    raise Failure(405, "MethodNotAllowed", "the server does not allow this method here")


def _created(resource: Resource, route: Route, request: Request) -> Raw:
    raw = _body(request)
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict):
        raise bad_request("metadata must be an object")
    if resource.namespaced:
        stated = metadata.setdefault("namespace", route.namespace)
        if stated != route.namespace:
            raise bad_request(
                f"the object is of namespace {stated}, the path of namespace {route.namespace}"
            )
    if not metadata.get("name"):
        if not metadata.get("generateName"):
            cause = ("FieldValueRequired", "metadata.name", "Required value: name is required")
            raise failures.invalid(resource.kind, resource.group, "", cause)
        metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
    if metadata.get("resourceVersion"):
        raise bad_request("resourceVersion should not be set on objects to be created")
    _check_kind(resource, raw)
    if resource.kind == "Event":
        check_created(resource, raw)
    return raw


def _update(store: Store, resource: Resource, name: Name, raw: Raw) -> Raw:
    _check_kind(resource, raw)
    stated = raw.get("metadata", {}).get("resourceVersion")
    old = store.get(resource, name)
    if stated and stated != old["metadata"]["resourceVersion"]:
        raise failures.conflict(resource, name[1])
    if resource.kind == "Event":
        check_updated(resource, old, raw)
    return store.change(resource, name, lambda _: raw)


def _patch(store: Store, resource: Resource, name: Name, request: Request) -> Raw:
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind not in _PATCHES:
        known = ", ".join(_PATCHES)
        text = "the body of the request was in an unknown format - accepted media types include"
        raise Failure(415, "UnsupportedMediaType", f"{text}: {known}")
    old = store.get(resource, name)
    new = _merged(old, _body(request))
    if new["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
        raise failures.conflict(resource, name[1])
    if resource.kind == "Event":
        check_updated(resource, old, new)
    return store.change(resource, name, lambda _: new)


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7386, which for what we patch is what a strategic merge does too."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _body(request: Request) -> Raw:
    try:
        raw = json.loads(request.body)
    except ValueError as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from None
    if not isinstance(raw, dict):
        raise bad_request("the object provided is unrecognized: not an object")
    return raw


def _check_kind(resource: Resource, raw: Raw) -> None:
    raw.setdefault("apiVersion", resource.api_version)
    raw.setdefault("kind", resource.kind)
    if (raw["apiVersion"], raw["kind"]) != (resource.api_version, resource.kind):
        raise bad_request(
            f"{raw['apiVersion']}, Kind={raw['kind']} in the body does not match the resource "
            f"{resource.api_version}, Kind={resource.kind}"
        )
