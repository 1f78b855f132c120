"""The ClusterRole grants what the code asks for, and nothing more."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.deploy import overlays

PATHS = re.compile(r"/(?:api/(?P<core>v\d+)|apis/(?P<group>[^/]+)/[^/]+)/(?:.*/)?(?P<resource>\w+)")
OF_THE_METHOD = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}

Grant = tuple[str, str, str]
"""API group, resource, verb."""


def asked_for() -> set[Grant]:
    """What kpbpf.kube asks: it reads every path it names, and only events.py writes."""
    found: set[Grant] = set()
    for file in sorted((overlays.ROOT / "kpbpf" / "kube").glob("*.py")):
        texts = set(strings(file))
        writes = sorted(OF_THE_METHOD[text] for text in texts & OF_THE_METHOD.keys())
        for match in filter(None, map(PATHS.fullmatch, texts)):
            for verb in writes or ["list", "watch"]:
                found.add((match["group"] or "", match["resource"], verb))
    return found


def strings(file: Path) -> Iterator[str]:
    """Every literal text of a file; in formatted ones an x for what only a run can tell."""
    tree = ast.parse(file.read_text())
    known = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(_part(part, known)) for part in node.values)


def _part(part: ast.expr, known: Mapping[str, object]) -> object:
    if isinstance(part, ast.Constant):
        return part.value
    inner = part.value if isinstance(part, ast.FormattedValue) else part
    return known.get(inner.id, "x") if isinstance(inner, ast.Name) else "x"


def granted() -> list[Grant]:
    """What the ClusterRole grants."""
    return [
        (group, resource, verb)
        for rule in overlays.the("ClusterRole", "policy-only")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def test_the_role_grants_what_the_code_asks_for_and_nothing_more() -> None:
    assert set(granted()) == asked_for()


def test_nothing_is_granted_twice_or_by_a_wildcard() -> None:
    grants = granted()
    assert len(grants) == len(set(grants))
    assert not [grant for grant in grants if "*" in "".join(grant)]


def test_rules_have_no_fields_that_would_widen_or_narrow_them_unseen() -> None:
    for rule in overlays.the("ClusterRole", "policy-only")["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}


def test_the_binding_gives_the_role_to_the_daemons_account_only() -> None:
    binding = overlays.the("ClusterRoleBinding", "policy-only")
    account = overlays.the("ServiceAccount", "policy-only")
    role = overlays.the("ClusterRole", "policy-only")
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (
        "ClusterRole",
        role["metadata"]["name"],
    )
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["namespace"], subject["name"]) == (
        "ServiceAccount",
        account["metadata"]["namespace"],
        account["metadata"]["name"],
    )
    assert overlays.pod("policy-only")["serviceAccountName"] == account["metadata"]["name"]


def test_who_cleans_a_node_has_no_account() -> None:
    made = overlays.the("DaemonSet", "cleanup", "kpbpf-cleanup")["spec"]["template"]["spec"]
    assert made["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in made
    assert [each["kind"] for each in overlays.objects("cleanup")] == ["DaemonSet"]
