"""Tests of finding the API server, and of our credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpbpf.errors import Fix
from kpbpf.kube.access import Access
from kpbpf.kube.refusals import (
    ApiRefused,
)
from kpbpf.kube.session import Session
from kpbpf.settings.settings import Api
from tests.unit.asking import KUBECONFIG, ask, fine
from tests.unit.scripted import Exchange, Scripted

# ---- finding the server -------------------------------------------------------------------------


def test_without_any_configuration_it_says_what_to_give() -> None:
    with pytest.raises(Fix) as raised:
        Session.open(Api(None), Path("/nowhere"))
    assert raised.value.what == "no API server is known"
    assert "KUBERNETES_SERVICE_HOST is not set" in raised.value.why
    assert "--kubeconfig" in raised.value.do
    assert "--master" in raised.value.do


def test_a_pod_without_a_service_account_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(Fix) as raised:
        Session.open(Api(None), Path("/nowhere"))
    assert "service account in /nowhere" in raised.value.what
    assert "automountServiceAccountToken" in raised.value.do


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "5",
        "[]",
        "clusters: 5",
        "clusters: []\ncontexts: []\nusers: []\ncurrent-context: x",
        "\0",
        KUBECONFIG.replace("server: %s", "") % "token: secret",
        KUBECONFIG % ("https://127.0.0.1:1", "client-certificate-data: a"),
        KUBECONFIG % ("https://127.0.0.1:1", "client-certificate: /nowhere/at.all"),
        KUBECONFIG % ("5", ""),
        KUBECONFIG % ("http://127.0.0.1:1", "tokenFile: /nowhere/at.all"),
    ],
)
def test_a_broken_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(Fix) as raised:
        Session.open(Api(path))
    assert str(path) in raised.value.what
    assert raised.value.why


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fix, match=r"absent cannot be used\n  why: .*absent: No such file"):
        Session.open(Api(tmp_path / "absent"))


@pytest.mark.parametrize("master", ["10.0.0.1:6443", "https://", "ftp://10.0.0.1", "http://a:b"])
def test_a_master_that_is_no_url_is_named(master: str) -> None:
    with pytest.raises(Fix, match="it is not the URL of a server"):
        Session.open(Api(None, (master,)))


def test_a_kubeconfigs_server_and_token_are_used(tmp_path: Path) -> None:
    with Scripted(fine) as server:
        path = tmp_path / "config"
        path.write_text(KUBECONFIG % (server.url + "/", "token: secret"))
        session = Session.open(Api(path))
        assert ask(session) == b'{"fine": true}'
        assert session.server == server.url
        session.close()
    (seen,) = server.seen
    assert seen.headers["authorization"] == "Bearer secret"
    assert seen.headers["User-Agent"].startswith("kpbpf/")
    assert seen.headers["Accept"] == "application/json"


def test_an_exec_plugin_gives_the_token(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        'echo \'{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", '
        '"status": {"token": "by-plugin"}}\'\n'
    )
    plugin.chmod(0o755)
    user = f"exec: {{apiVersion: client.authentication.k8s.io/v1, command: {plugin}}}"
    with Scripted(fine) as server:
        path = tmp_path / "config"
        path.write_text(KUBECONFIG % (server.url, user))
        session = Session.open(Api(path))
        ask(session)
        session.close()
    assert server.seen[0].headers["authorization"] == "Bearer by-plugin"


def test_a_master_is_asked_with_the_pods_service_account(account: Path) -> None:
    with Scripted(fine) as server:
        session = Session.open(Api(None, (server.url,)), account)
        ask(session)
        session.close()
    assert server.seen[0].headers["authorization"].lower() == "bearer one"


def test_a_master_alone_is_asked_without_credentials() -> None:
    with Scripted(fine) as server:
        session = Session.open(Api(None, (server.url,)), Path("/nowhere"))
        ask(session)
        session.close()
    assert "authorization" not in server.seen[0].headers


# ---- credentials --------------------------------------------------------------------------------


def test_a_token_that_is_refused_is_read_again_at_once(account: Path) -> None:
    def only_two(exchange: Exchange) -> None:
        if exchange.headers["authorization"].endswith("two"):
            fine(exchange)
        else:
            exchange.refuse(401, "Unauthorized")

    with Scripted(only_two) as server:
        session = Session.open(Api(None, (server.url,)), account)
        with pytest.raises(ApiRefused, match="does not accept our credentials"):
            ask(session)
        assert len(server.seen) == 2, "once more, and no further"
        (account / "token").write_text("two\n")
        ask(session)
        assert len(server.seen) == 4
        ask(session)
        assert len(server.seen) == 5
        session.close()


def test_a_kubeconfigs_token_file_that_rotates_is_read_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    path = tmp_path / "config"

    def answer(exchange: Exchange) -> None:
        if exchange.headers["authorization"] == f"Bearer {token.read_text()}":
            fine(exchange)
        else:
            exchange.refuse(401)

    with Scripted(answer) as server:
        path.write_text(KUBECONFIG % (server.url, f"tokenFile: {token}"))
        session = Session.open(Api(path))
        ask(session)
        token.write_text("two")
        ask(session)
        session.close()


def test_a_token_file_is_read_again_before_the_server_complains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpbpf.kube.access.REREAD_SEC", 0.0)
    token = tmp_path / "token"
    token.write_text("one")
    path = tmp_path / "config"
    path.write_text(KUBECONFIG % ("http://127.0.0.1:1", f"tokenFile: {token}"))
    access = Access(Api(path))
    assert access.client()[1] == {"authorization": "Bearer one"}
    token.write_text("two")
    assert access.client()[1] == {"authorization": "Bearer two"}


def test_credentials_that_vanish_are_named_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "config"
    with Scripted(lambda exchange: exchange.refuse(401)) as server:
        path.write_text(KUBECONFIG % (server.url, "token: secret"))
        session = Session.open(Api(path))
        path.unlink()
        with pytest.raises(ApiRefused, match=f"the credentials in {path} cannot be read again"):
            ask(session)
        session.close()
