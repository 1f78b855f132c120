"""Who reaches the API server double: TLS, certificates, tokens, RBAC, kubeconfigs."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.authority import Authority
from tests.cluster.plain import PODS, SERVICES, SLICES, Plain
from tests.cluster.rbac import User, service_account

KPBPF = service_account("kube-system", "kpbpf")
ROLES = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kpbpf}
rules:
- {apiGroups: [""], resources: [services, pods], verbs: [list, watch]}
- {apiGroups: [""], resources: [nodes], verbs: [get, list, watch], resourceNames: [node-a]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: ["*"]}
- {nonResourceURLs: ["/metrics", "/debug/*"], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kpbpf}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kpbpf}
subjects:
- {kind: ServiceAccount, name: kpbpf, namespace: kube-system}
- {kind: Group, name: testers, apiGroup: rbac.authorization.k8s.io}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: slices, namespace: shop}
rules:
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: slices, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: slices}
subjects:
- {kind: User, name: eve, apiGroup: rbac.authorization.k8s.io}
"""


@pytest.fixture(scope="module")
def secure() -> Iterator[ApiServer]:
    """A server with TLS, tokens and rights."""
    with ApiServer(rbac=yaml.safe_load_all(ROLES)) as made:
        made.store.bulk([make.service("web"), make.node("node-a"), make.node("node-b")])
        made.tokens.set(
            {
                "kpbpf": KPBPF,
                "eve": User("eve", ("system:authenticated",)),
                "tester": User("someone", ("testers",)),
                "kubelet": User("system:node:node-a", ("system:nodes",)),
            }
        )
        yield made


def test_a_client_that_does_not_trust_the_authority_does_not_talk(secure: ApiServer) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        Plain(secure, "kpbpf", ssl.create_default_context()).get(SERVICES)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_certificate_is_for_the_address_of_either_family(host: str) -> None:
    with ApiServer(host=host) as own:
        assert own.url.startswith(f"https://{'[::1]' if ':' in host else host}:")
        assert Plain(own).get(SERVICES).code == 200


def test_a_token_that_is_not_known_is_unauthorized(secure: ApiServer) -> None:
    for token in ("", "wrong"):
        answer = Plain(secure, token).get(SERVICES)
        assert (answer.code, answer.raw["reason"]) == (401, "Unauthorized")
        assert answer.raw["message"] == "Unauthorized"
    assert Plain(secure, "kpbpf").get(SERVICES).names == ["web"]


def test_tokens_may_change_while_the_server_runs() -> None:
    with ApiServer(tls=False) as own:
        assert Plain(own).get(SERVICES).code == 200, "nobody is asked before the first token"
        own.tokens.add("one", KPBPF)
        assert (Plain(own).get(SERVICES).code, Plain(own, "one").get(SERVICES).code) == (401, 200)
        own.tokens.add("two", KPBPF)
        own.tokens.remove("one")
        assert Plain(own, "one").get(SERVICES).code == 401
        assert Plain(own, "two").get(SERVICES).code == 200
        assert own.requests[-1].user == "system:serviceaccount:kube-system:kpbpf"


def test_a_request_without_credentials_may_be_anonymous(secure: ApiServer) -> None:
    secure.behaviour.anonymous = True
    try:
        answer = Plain(secure).get(SERVICES)
        assert (answer.code, Plain(secure).get("/version").code) == (403, 200)
        assert 'User "system:anonymous"' in answer.raw["message"]
        assert Plain(secure, "wrong").get(SERVICES).code == 401
    finally:
        secure.behaviour.anonymous = False


def test_a_client_certificate_names_its_user(secure: ApiServer) -> None:
    assert secure.authority
    pair = secure.authority.client("someone-else", "testers")
    tls = ssl.create_default_context(cafile=secure.ca)
    tls.load_cert_chain(pair.certificate, pair.key)
    assert Plain(secure, tls=tls).get(SERVICES).code == 200
    assert secure.requests[-1].user == "someone-else"


def test_a_renewed_certificate_is_shown_to_new_connections(tmp_path: Path) -> None:
    with ApiServer() as own:
        plain = Plain(own)
        with plain.watch(SERVICES) as stream:
            own.renew_certificate()
            assert plain.get(SERVICES).code == 200
            other = Authority(tmp_path / "other")
            own.renew_certificate(other)
            own.store.put(make.service("a"))
            assert stream.take(1) == [("ADDED", "a")]
        trusting = ssl.create_default_context(cafile=other.ca.certificate)
        assert Plain(own, tls=trusting).get(SERVICES).code == 200


@pytest.mark.parametrize(
    ("token", "path", "query", "code"),
    [
        ("kpbpf", SERVICES, {}, 200),
        ("kpbpf", SERVICES, {"watch": "1", "timeoutSeconds": "1"}, 200),
        ("kpbpf", "/api/v1/namespaces/shop/pods", {}, 200),
        ("kpbpf", "/api/v1/namespaces/default/services/web", {}, 403),
        ("kpbpf", SLICES, {}, 403),
        ("kpbpf", "/api/v1/nodes", {}, 403),
        ("kpbpf", "/api/v1/nodes", {"fieldSelector": "metadata.name=node-a"}, 200),
        ("kpbpf", "/api/v1/nodes", {"fieldSelector": "metadata.name=node-b"}, 403),
        ("kpbpf", "/api/v1/nodes/node-a", {}, 200),
        ("kpbpf", "/api/v1/nodes/node-b", {}, 403),
        ("kpbpf", "/metrics", {}, 404),
        ("kpbpf", "/debug/pprof", {}, 404),
        ("kpbpf", "/logs", {}, 403),
        ("tester", SERVICES, {}, 200),
        ("eve", SERVICES, {}, 403),
        ("eve", SLICES, {}, 403),
        ("eve", "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", {}, 200),
        ("eve", "/readyz", {}, 200),
        ("kubelet", "/api/v1/nodes/node-a", {}, 200),
        ("kubelet", "/api/v1/nodes/node-b", {}, 403),
        ("kubelet", PODS, {}, 403),
        ("kubelet", PODS, {"fieldSelector": "spec.nodeName=node-a"}, 200),
        ("kubelet", SLICES, {}, 403),
    ],
)
def test_rules_say_who_may_do_what(
    secure: ApiServer, token: str, path: str, query: dict[str, str], code: int
) -> None:
    assert Plain(secure, token).get(path, **query).code == code


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            SLICES,
            (
                'endpointslices.discovery.k8s.io is forbidden: User "eve" cannot list resource '
                '"endpointslices" in API group "discovery.k8s.io" at the cluster scope'
            ),
        ),
        (
            "/api/v1/namespaces/shop/pods/p",
            (
                'pods "p" is forbidden: User "eve" cannot get resource "pods" in API group "" '
                'in the namespace "shop"'
            ),
        ),
        ("/metrics", 'forbidden: User "eve" cannot get path "/metrics"'),
    ],
)
def test_a_refusal_says_what_was_refused_to_whom(
    secure: ApiServer, path: str, message: str
) -> None:
    answer = Plain(secure, "eve").get(path)
    assert (answer.code, answer.raw["reason"], answer.raw["message"]) == (403, "Forbidden", message)


def test_events_may_be_written_by_whom_the_rules_let(secure: ApiServer) -> None:
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    assert Plain(secure, "eve").send("POST", path, {}).code == 403
    assert Plain(secure, "kpbpf").send("POST", path, {}).code == 400


def test_a_kubeconfig_says_how_to_get_in(secure: ApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("kpbpf")
    path = secure.kubeconfig(tmp_path / "kubeconfig", token_file=token)
    raw: dict[str, Any] = yaml.safe_load(path.read_text())
    assert raw == json.loads(path.read_text())
    assert raw["clusters"][0]["cluster"] == {
        "server": secure.url,
        "certificate-authority": str(secure.ca),
    }
    assert raw["users"][0]["user"] == {"tokenFile": str(token)}
    assert raw["current-context"] == raw["contexts"][0]["name"]
