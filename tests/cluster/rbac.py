"""Who may do what: RBAC from its objects, and what the Node authorizer lets a kubelet read.

Who somebody is, is found out in identity.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.cluster.failures import Failure
from tests.cluster.resources import Raw

SERVICE_ACCOUNT = "system:serviceaccount:"


class User(NamedTuple):
    """An authenticated user."""

    name: str
    groups: tuple[str, ...] = ()


ADMIN = User("kubernetes-admin", ("system:masters", "system:authenticated"))
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


def service_account(namespace: str, name: str) -> User:
    """The user that a ServiceAccount's tokens stand for."""
    return User(
        f"{SERVICE_ACCOUNT}{namespace}:{name}",
        ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"),
    )


class Attributes(NamedTuple):
    """What a request wants to do; `path` is set where it is not about a resource."""

    verb: str
    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    """Of an object, or the one that the field selector metadata.name leaves."""
    node: str = ""
    """The one node that the field selector spec.nodeName leaves."""
    path: str = ""


class Rbac:
    """ClusterRoles, Roles and their bindings, as raw objects; other kinds are passed over."""

    def __init__(self, objects: Iterable[Raw]) -> None:
        listed = [raw for raw in objects if raw]
        self._roles = {
            (raw["kind"], _namespace(raw), raw["metadata"]["name"]): raw.get("rules") or []
            for raw in listed
            if raw.get("kind") in ("ClusterRole", "Role")
        }
        self._bindings = [
            raw for raw in listed if raw.get("kind") in ("ClusterRoleBinding", "RoleBinding")
        ]

    def allows(self, user: User, wanted: Attributes) -> bool:
        """Is there a rule that lets the user do that?"""
        if "system:masters" in user.groups:
            return True
        for binding in self._bindings:
            where = _namespace(binding) if binding["kind"] == "RoleBinding" else ""
            if where and where != wanted.namespace:
                continue
            subjects = binding.get("subjects") or []
            if not any(_is_subject(subject, user, where) for subject in subjects):
                continue
            ref = binding["roleRef"]
            role = (ref["kind"], where if ref["kind"] == "Role" else "", ref["name"])
            if any(_covers(rule, wanted) for rule in self._roles.get(role, [])):
                return True
        return False


def node_allows(user: User, wanted: Attributes) -> bool:
    """What the Node authorizer (with selectors, 1.32) and its role let a kubelet read and say."""
    if "system:nodes" not in user.groups or not user.name.startswith("system:node:"):
        return False
    own = user.name.removeprefix("system:node:")
    reads = wanted.verb in ("get", "list", "watch")
    match wanted.group, wanted.resource:
        case "", "services":
            return reads
        case "", "nodes":
            return reads and wanted.name == own
        case "", "pods":
            return reads and (wanted.verb == "get" or wanted.node == own)
        case (("" | "events.k8s.io"), "events"):
            return wanted.verb in ("create", "patch", "update")
    return False


def forbidden(user: User, wanted: Attributes) -> Failure:
    """The refusal, in the API server's form."""
    if wanted.path:
        text = f'forbidden: User "{user.name}" cannot {wanted.verb} path "{wanted.path}"'
        return Failure(403, "Forbidden", text)
    where = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
    of = f"{wanted.resource}.{wanted.group}" if wanted.group else wanted.resource
    named = f'{of} "{wanted.name}"' if wanted.name else of
    text = (
        f'{named} is forbidden: User "{user.name}" cannot {wanted.verb} resource '
        f'"{wanted.resource}" in API group "{wanted.group}" {where}'
    )
    details = {"name": wanted.name, "group": wanted.group, "kind": wanted.resource}
    return Failure(403, "Forbidden", text, details={k: v for k, v in details.items() if v})


def _covers(rule: dict[str, Any], wanted: Attributes) -> bool:
    if not _has(rule.get("verbs"), wanted.verb):
        return False
    if wanted.path:
        return any(_is_path(url, wanted.path) for url in rule.get("nonResourceURLs") or [])
    names = rule.get("resourceNames") or []
    return (
        _has(rule.get("apiGroups"), wanted.group)
        and _has(rule.get("resources"), wanted.resource)
        and (not names or wanted.name in names)
    )


def _has(listed: list[str] | None, wanted: str) -> bool:
    return "*" in (listed or []) or wanted in (listed or [])


def _is_path(url: str, path: str) -> bool:
    return path.startswith(url[:-1]) if url.endswith("*") else path == url


def _is_subject(subject: dict[str, str], user: User, where: str) -> bool:
    match subject["kind"]:
        case "User":
            return subject["name"] == user.name
        case "Group":
            return subject["name"] in user.groups
        case "ServiceAccount":
            namespace = subject.get("namespace", where)
            return user.name == f"{SERVICE_ACCOUNT}{namespace}:{subject['name']}"
    return False


def _namespace(raw: Raw) -> str:
    return (
        str(raw["metadata"].get("namespace", "")) if not raw["kind"].startswith("Cluster") else ""
    )
