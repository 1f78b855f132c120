"""Tests of the reflector against a truthful server: faults, credentials, interleavings."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpbpf.kube.backoff import Backoff
from kpbpf.kube.held import Held
from kpbpf.kube.parse import Model
from kpbpf.kube.reflector import Patience, Reflector
from kpbpf.kube.session import Session
from kpbpf.kube.source import Change
from kpbpf.model.objects import Key
from kpbpf.model.service import Service
from kpbpf.settings.settings import Api
from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.authority import Authority
from tests.cluster.behaviour import Behaviour
from tests.cluster.faults import Kind
from tests.cluster.rbac import service_account
from tests.cluster.resources import by_name
from tests.unit.following import PATIENT, SERVICES, Followed, following, wait_for

Raw = dict[str, Any]


def web(number: int = 0, ip: int = 1) -> Raw:
    return make.service(f"web-{number}", f"10.96.{number}.{ip}")


def session_of(server: ApiServer) -> Session:
    return Session.open(Api(None, (server.url,), qps=0.0))


def reading(server: ApiServer, patience: Patience = PATIENT) -> AbstractContextManager[Followed]:
    return following(session_of(server), patience=patience)


def agrees(followed: Followed, server: ApiServer) -> bool:
    """Whether what is held, and what the changes add up to, is what the server has."""
    followed.take()
    there = {change.key: change.model for change in followed.changes}
    told = {key: model for key, model in there.items() if model is not None}
    wanted = {
        make.model(raw).key: make.model(raw) for raw in server.store.objects(by_name("services"))
    }
    held = {model.key: model for model in followed.held.models()}
    return told == wanted == held


def _has_told(followed: Followed, changes: int) -> bool:
    return len(followed.told()) == changes


def doubled(followed: Followed) -> list[Change]:
    """Changes that told nothing new."""
    before: dict[Key, Model | None] = {}
    found = []
    for one in followed.changes:
        if before.get(one.key) == one.model:
            found.append(one)
        before[one.key] = one.model
    return found


# ---- one server, one fault -----------------------------------------------------------------------


def test_changes_come_in_order_and_once(server: ApiServer) -> None:
    server.store.put(web(0))
    with reading(server) as followed:
        followed.syncs()
        for ip in range(2, 30):
            server.store.put(web(0, ip))
            wait_for(partial(_has_told, followed, ip))
        server.store.delete(web(0))
        wait_for(lambda: followed.told() == ["+web-0"] * 29 + ["-web-0"])
        ips = [one.model.cluster_ips for one in followed.changes if isinstance(one.model, Service)]
        assert [addr[-1] for (addr,) in ips] == list(range(1, 30))


@pytest.mark.parametrize("watch_list", [True, False])
def test_many_objects_come_whole(server: ApiServer, watch_list: bool) -> None:
    server.behaviour.watch_list = watch_list
    server.store.bulk(web(number, ip) for number in range(60) for ip in range(1, 22))
    server.store.bulk(make.service(f"s-{n}", f"10.97.{n // 250}.{n % 250}") for n in range(1201))
    with reading(server) as followed:
        followed.syncs()
        assert agrees(followed, server)
        verbs = [one.verb for one in server.requests if one.resource == "services"]
        assert verbs.count("list") == (0 if watch_list else 3)


def test_what_happened_while_the_connection_was_away_comes_later_and_once(
    server: ApiServer,
) -> None:
    server.store.bulk(web(number) for number in range(5))
    with reading(server) as followed:
        followed.syncs()
        server.refuse()
        server.drop_open("services")
        wait_for(lambda: followed.reflector.stats().failures)
        server.store.put(web(0, 9))
        server.store.delete(web(1))
        server.store.put(web(7))
        server.accept()
        wait_for(lambda: agrees(followed, server))
        assert sorted(followed.told()[5:]) == ["+web-0", "+web-7", "-web-1"]
        assert followed.reflector.stats().lists == 1, "nothing was read again"


def test_after_an_outage_all_come_back_with_the_first(server: ApiServer) -> None:
    session = session_of(server)
    quick, slow = (
        Reflector(session, SERVICES, Held(lambda: None), Backoff(first_sec=sec, last_sec=sec))
        for sec in (0.1, 3600.0)
    )
    for one in (quick, slow):
        one.start()
    try:
        wait_for(lambda: quick.held.synced and slow.held.synced)
        server.refuse()
        server.drop_open("services")
        wait_for(lambda: slow.stats().failures and quick.stats().failures > 2)
        server.accept()
        wait_for(lambda: slow.stats().watches == 2)
    finally:
        for one in (quick, slow):
            one.stop()
            one.join(5.0)
        session.close()


@pytest.mark.parametrize("as_status", [True, False])
def test_after_compaction_only_differences_are_told(server: ApiServer, as_status: bool) -> None:
    server.behaviour.gone_as_status = as_status
    server.store.bulk(web(number) for number in range(5))
    with reading(server) as followed:
        followed.syncs()
        server.refuse()
        server.drop_open("services")
        wait_for(lambda: followed.reflector.stats().failures)
        server.store.put(web(0, 9))
        server.store.delete(web(1))
        server.store.put(web(7))
        server.store.compact()
        server.accept()
        wait_for(lambda: agrees(followed, server))
        assert sorted(followed.told()[5:]) == ["+web-0", "+web-7", "-web-1"]
        assert followed.reflector.stats().lists == 2


def test_pages_that_expire_on_the_way_are_begun_again(server: ApiServer) -> None:
    server.behaviour.watch_list = False
    server.store.bulk(make.service(f"s-{n}", f"10.97.{n // 250}.{n % 250}") for n in range(1201))
    server.faults.add(Kind.STATUS, "services", "list", code=410, times=1)
    with reading(server) as followed:
        followed.syncs()
        assert agrees(followed, server)


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("drop", {}),
    ("drop", {"after_bytes": 1500}),
    ("close", {"after_bytes": 1500}),
    ("stall", {"after_bytes": 1500}),
    ("stall", {}),
    ("status", {"code": 429, "retry_after_sec": 1}),
    ("status", {"code": 500}),
    ("status", {"code": 503}),
    ("status", {"code": 403}),
    ("status", {"code": 404}),
    ("garbage", {"after_bytes": 1500}),
    ("garbage", {"after_bytes": 1500, "line": b"\xff\xfe\x00"}),
    ("garbage", {"after_bytes": 1500, "line": b"[" * 200_000}),
    ("content-type", {"line": b"<html>a proxy's page</html>"}),
    ("error-event", {"after_bytes": 1500, "code": 500}),
    ("error-event", {"after_bytes": 1500, "code": 410}),
    ("slow", {"bytes_per_sec": 20_000}),
]


@pytest.mark.parametrize(("kind", "more"), FAULTS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("watch_list", [True, False], ids=["watch-list", "pages"])
def test_every_fault_passes(
    server: ApiServer, kind: str, more: dict[str, Any], watch_list: bool
) -> None:
    server.behaviour.watch_list = watch_list
    server.store.bulk(web(number) for number in range(20))
    server.faults.add(kind, "services", times=2, **more)
    with reading(server, Patience(0.5, 0.5, 0.5, 0.1)) as followed:
        followed.syncs()
        server.store.put(web(0, 9))
        server.store.delete(web(1))
        wait_for(lambda: agrees(followed, server))
        assert not followed.reflector.died


def test_a_watch_that_stalls_later_is_noticed(server: ApiServer) -> None:
    server.store.put(web(0))
    with reading(server, PATIENT._replace(watch=0.3)) as followed:
        followed.syncs()
        server.stall_open("services")
        server.store.put(web(0, 9))
        wait_for(lambda: agrees(followed, server))
        assert followed.reflector.stats().lists == 1


def test_bookmarks_carry_an_idle_watch_over_a_compaction() -> None:
    with ApiServer(tls=False, behaviour=Behaviour(bookmark_sec=0.05)) as server:
        server.store.put(web(0))
        with reading(server) as followed:
            followed.syncs()
            server.store.put(make.node("n1"))
            server.store.compact()
            compacted = time.time()
            wait_for(lambda: followed.reflector.stats().last_heard > compacted + 0.2)
            server.drop_open("services")
            server.store.put(web(0, 9))
            wait_for(lambda: agrees(followed, server))
            assert followed.reflector.stats().lists == 1


def test_a_huge_annotation_harms_nothing(server: ApiServer) -> None:
    huge = web(1)
    huge["metadata"]["annotations"] = {"note": "x" * 10_000_000}
    server.store.bulk([web(0), huge, web(2)])
    with reading(server) as followed:
        followed.syncs()
        assert agrees(followed, server)
        huge["spec"]["clusterIP"] = "10.96.1.77"
        huge["spec"]["clusterIPs"] = ["10.96.1.77"]
        server.store.put(huge)
        wait_for(lambda: agrees(followed, server))


def test_a_server_that_is_reached_by_ipv6(tmp_path: Path) -> None:
    with ApiServer(host="::1") as server:
        server.store.put(web(0))
        config = server.kubeconfig(tmp_path / "config")
        with following(Session.open(Api(config, qps=0.0))) as followed:
            followed.syncs()
            assert agrees(followed, server)


# ---- who we are ----------------------------------------------------------------------------------


def test_tls_and_a_token_that_rotates(tmp_path: Path) -> None:
    token = tmp_path / "token"
    user = service_account("kube-system", "kpbpf")
    with ApiServer() as server:
        server.tokens.set({"one": user})
        server.store.put(web(0))
        token.write_text("one")
        config = server.kubeconfig(tmp_path / "config", token_file=token)
        with following(Session.open(Api(config, qps=0.0))) as followed:
            followed.syncs()
            server.tokens.set({"two": user})
            token.write_text("two")
            server.drop_open("services")
            server.store.put(web(0, 9))
            wait_for(lambda: agrees(followed, server))
            assert server.requests[-1].user == user.name or followed.reflector.stats().watches > 1


def test_a_pods_service_account_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = service_account("kube-system", "kpbpf")
    with ApiServer() as server:
        server.tokens.set({"one": user})
        server.store.put(web(0))
        assert server.ca is not None
        (tmp_path / "token").write_text("one")
        (tmp_path / "ca.crt").write_bytes(server.ca.read_bytes())
        host, _, port = server.url.removeprefix("https://").rpartition(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        with following(Session.open(Api(None, qps=0.0), tmp_path)) as followed:
            followed.syncs()
            assert agrees(followed, server)


def test_a_server_with_a_strangers_certificate_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ApiServer() as server:
        server.store.put(web(0))
        own = server.authority
        config = server.kubeconfig(tmp_path / "config")
        server.renew_certificate(Authority(tmp_path / "stranger"))
        with following(Session.open(Api(config, qps=0.0))) as followed:
            wait_for(lambda: followed.reflector.stats().failures >= 3)
            assert not followed.held.synced
            assert "its certificate is not valid for us" in caplog.text
            server.renew_certificate(own)
            followed.syncs()


def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    with ApiServer() as server:
        assert server.authority is not None
        server.tokens.set({})
        client = server.authority.client("system:node:n1", "system:nodes")
        config = server.kubeconfig(tmp_path / "config", client=client)
        with following(Session.open(Api(config, qps=0.0))) as followed:
            followed.syncs()
        assert {one.user for one in server.requests} == {"system:node:n1"}


def test_rbac_that_is_mended_lets_us_in(caplog: pytest.LogCaptureFixture) -> None:
    with ApiServer(tls=False, rbac=[]) as server:
        server.tokens.set({"one": service_account("kube-system", "kpbpf")})
        server.store.put(web(0))
        session = session_of(server)
        server.behaviour.anonymous = True
        with following(session) as followed:
            wait_for(lambda: followed.reflector.stats().failures >= 3)
            assert "see deploy's ClusterRole" in caplog.text
            server.rbac = None
            followed.syncs()
        assert caplog.text.count("see deploy's ClusterRole") == 1, "said once"


# ---- interleavings -------------------------------------------------------------------------------

OFTEN = ["put"] * 6 + ["delete"] * 3 + ["pause"] * 3
NUMBERS = st.integers(0, 5)
ACTS: st.SearchStrategy[tuple[str, int, int]] = st.tuples(
    st.sampled_from(
        ["put"] * 6
        + ["delete"] * 3
        + ["pause"] * 3
        + ["drop", "compact", "away", "stall", "garbage"]
    ),
    NUMBERS,
    st.integers(1, 200),
)


def act(server: ApiServer, what: str, number: int, ip: int) -> None:
    """One thing that happens at the server."""
    if what == "put":
        server.store.put(web(number, ip))
    elif what == "delete" and any(
        raw["metadata"]["name"] == f"web-{number}"
        for raw in server.store.objects(by_name("services"))
    ):
        server.store.delete(web(number))
    elif what == "pause":
        time.sleep(ip / 4000)
    elif what == "drop":
        server.drop_open("services")
    elif what == "compact":
        server.store.compact()
    elif what == "away":
        server.refuse()
        server.drop_open("services")
    elif what == "stall":
        server.stall_open("services")
    elif what == "garbage":
        server.faults.add("garbage", "services", after_bytes=700)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(acts=st.lists(ACTS, max_size=30), watch_list=st.booleans())
def test_whatever_happens_in_the_end_both_agree(
    acts: list[tuple[str, int, int]], watch_list: bool
) -> None:
    patient = Behaviour(fresh_wait_sec=0.05, bookmark_sec=0.05, watch_list=watch_list)
    with ApiServer(tls=False, behaviour=patient) as server:
        server.store.bulk(web(number) for number in range(3))
        with reading(server, Patience(0.2, 0.2, 0.2, 0.1)) as followed:
            for what, number, ip in acts:
                act(server, what, number, ip)
                followed.take()
                if what == "away":
                    server.accept()
            wait_for(lambda: followed.held.synced and agrees(followed, server))
            assert not followed.reflector.died
            assert not doubled(followed)
