"""How the daemon gets at the API: with the rights it is given and no others, and as they change."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests import make
from tests.cluster.authority import Authority
from tests.cluster.daemon import SOON_SEC, TOKEN, USER, Cluster
from tests.cluster.rbac import Rbac
from tests.cluster.resources import Raw
from tests.lab.agent import until
from tests.lab.sockets import ask_tcp
from tests.lab.world import IPV4

AGAIN_SEC = 60.0
"""Who was refused often asks again after half a minute."""


def refused(cluster: Cluster) -> list[str]:
    """Requests that were not allowed."""
    found = [one for one in cluster.server.requests if one.code in (401, 403)]
    return [f"{one.verb} {one.path}" for one in found]


def without(rules: list[Raw], *resources: str) -> list[Raw]:
    """The same roles, that say nothing of these resources."""
    less = copy.deepcopy(rules)
    for role in less:
        for rule in role.get("rules") or []:
            rule["resources"] = [one for one in rule["resources"] if one not in resources]
    return less


# ---- rights ------------------------------------------------------------------------------------


def test_the_role_that_is_shipped_is_enough_for_everything(resting: Cluster) -> None:
    selects_all: list[Raw] = [{"from": [{"podSelector": {}, "namespaceSelector": {}}]}]
    resting.server.store.bulk(
        [make.policy("needs-all", ingress=selects_all), make.namespace("default")]
    )
    resting.start()
    with resting.service("web", 40, resting.a) as web:
        assert ask_tcp(resting.client, web.addresses[IPV4], 80).server == "pod-a"
        resting.event("Starting")
        until(lambda: _reads(resting) >= {"pods", "namespaces"}, "all pods are read", SOON_SEC)
    assert resting.runs
    assert not refused(resting)


def _reads(cluster: Cluster) -> set[str]:
    return {
        one.resource
        for one in cluster.server.requests
        if one.verb == "watch" and "fieldSelector" not in one.query
    }


@pytest.mark.parametrize("resource", ["pods", "networkpolicies", "servicecidrs", "events"])
def test_without_a_right_the_rest_goes_on_until_it_is_given(
    resting: Cluster, resource: str
) -> None:
    resting.server.rbac = Rbac(without(resting.rules, resource))
    log = resting.kpbpf.log_text()
    resting.start()
    with resting.service("web", 41, resting.a) as web:
        assert web.backends() == {resting.a.addresses[IPV4]}
        said = resting.log_grows("does not let us", log)
        assert "ClusterRole" in said
        assert f"/{resource}" in said
        resting.server.rbac = Rbac(resting.rules)
        resting.server.requests.clear()
        if resource == "events":
            assert "Events cannot be posted" in said
            return
        resting.log_grows(f"{resource}: {resting.server.url} answers again", log, AGAIN_SEC)
    new = resting.kpbpf.log_text()[len(log) :]
    assert new.count(f"{resource}: {resting.server.url} does not let us") == 1, "said once"


@pytest.mark.parametrize("resource", ["services", "endpointslices", "nodes"])
def test_without_a_vital_right_nothing_is_written_until_it_is_given(
    resting: Cluster, resource: str
) -> None:
    resting.start()
    with resting.service("web", 42, resting.a) as web:
        resting.stop()
        before, log = resting.entries(), resting.kpbpf.log_text()
        resting.server.rbac = Rbac(without(resting.rules, resource))
        web.put(resting.b)
        resting.kpbpf.launch()
        resting.log_grows(f"{resource}: {resting.server.url} does not let us", log)
        page = resting.page("/readyz")
        assert page.code == 503
        assert "sources: awaited" in page.text
        assert resting.entries() == before
        assert ask_tcp(resting.client, web.addresses[IPV4], 80).server == "pod-a"
        resting.server.rbac = Rbac(resting.rules)
        resting.converges(AGAIN_SEC)
        assert ask_tcp(resting.client, web.addresses[IPV4], 80).server == "pod-b"


# ---- credentials -------------------------------------------------------------------------------


def test_a_token_that_is_rotated_is_read_again(resting: Cluster) -> None:
    server, file = resting.server, resting.directory / "token"
    file.write_text(TOKEN)
    config = server.kubeconfig(resting.directory / "with-file", token_file=file)
    resting.kpbpf.access = ("--kubeconfig", str(config))
    resting.start()
    with resting.service("web", 43, resting.a) as web:
        file.write_text("second-token")
        server.tokens.set({"second-token": USER})
        server.drop_open()
        web.put(resting.b)
        resting.converges(AGAIN_SEC)


def test_a_renewed_certificate_of_the_server_is_accepted(cluster: Cluster) -> None:
    with cluster.service("web", 44, cluster.a) as web:
        cluster.server.renew_certificate()
        cluster.server.drop_open()
        web.put(cluster.b)
        cluster.converges(AGAIN_SEC)


def test_a_strangers_certificate_is_named_and_not_believed(
    resting: Cluster, tmp_path: Path
) -> None:
    server = resting.server
    own, log = server.authority, resting.kpbpf.log_text()
    resting.start()
    with resting.service("web", 45, resting.a) as web:
        try:
            server.renew_certificate(Authority(tmp_path / "stranger"))
            server.drop_open()
            before = resting.entries()
            web.put(resting.b)
            resting.log_grows("its certificate is not valid for us", log)
            assert resting.entries() == before
        finally:
            server.renew_certificate(own)
        resting.converges(AGAIN_SEC)


def test_of_several_masters_one_that_answers_is_used(resting: Cluster) -> None:
    dead = "https://127.0.0.1:9"
    resting.kpbpf.access = (
        *resting.kpbpf.access,
        *("--master", dead, "--master", resting.server.url),
    )
    resting.start()
    with resting.service("web", 46, resting.a):
        assert resting.status()["api"] == resting.server.url
