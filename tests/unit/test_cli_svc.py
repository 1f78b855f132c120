"""`kpbpf svc ls` on tables in memory, with and without a daemon that answers."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpbpf.cli import asking
from kpbpf.home import Home
from maps.fake import FakeTables
from tests.unit import serving
from tests.unit.answering import answering, telling
from tests.unit.command import Run
from tests.unit.serving import serve, wanted, write

WEB = {
    "type": "LoadBalancer",
    "labels": {"app": "web", "tier": "front"},
    "load_balancer_ips": ["192.0.2.10"],
    "external_ips": ["192.0.2.20"],
}
TOLD = {"services": {"default/web": WEB, "kube-system/dns": {"type": "ClusterIP"}}}


@pytest.fixture(autouse=True)
def nothing_was_said_yet() -> None:
    asking._said.clear()


@pytest.fixture
def served(node_tables: FakeTables) -> FakeTables:
    """A load balancer with all kinds of frontends, and a DNS."""
    external = serving.EXTERNAL | serving.EXTERNAL_LOCAL
    web = wanted(
        "default/web:http/IPv4",
        "10.96.0.2:80",
        ("10.96.0.2:1", serving.WHOLE_ADDRESS),
        ("0.0.0.0:30080", external),
        ("192.0.2.10:80", external | serving.SOURCE_RANGES),
        ("192.0.2.20:80", external),
        backends=("10.1.1.1:8080", "10.1.1.2:8080"),
        here=("10.1.0.1:8080",),
    )
    dns = wanted("kube-system/dns/IPv6", "[fd96::1]:53", proto=17, affinity_sec=600)
    write(node_tables, web, dns)
    return node_tables


@pytest.fixture
def daemon(served: FakeTables, tmp_path: Path) -> Iterator[None]:
    """A daemon that tells of them."""
    with answering(Home(run=tmp_path), telling(TOLD)):
        yield


def listed(run: Run, *flags: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("svc", "ls", "-o", "json", *flags).out)
    return found


def names(run: Run, *flags: str) -> set[str]:
    return {row["name"] for row in listed(run, *flags)}


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.mark.usefixtures("daemon")
def test_every_frontend_is_listed_with_one_fact_a_column(run: Run) -> None:
    assert run("svc", "ls").out == (
        "NAME                    TYPE           FRONTEND       ADDRESS      PORT    PROTOCOL   "
        "HERE   ELSEWHERE   POLICY    AFFINITY\n"
        "default/web:http/IPv4   LoadBalancer   ClusterIP      10.96.0.2    80      TCP        "
        "1      2           Cluster   -\n"
        "default/web:http/IPv4   LoadBalancer   LoadBalancer   192.0.2.10   80      TCP        "
        "1      2           Local     -\n"
        "default/web:http/IPv4   LoadBalancer   ExternalIP     192.0.2.20   80      TCP        "
        "1      2           Local     -\n"
        "default/web:http/IPv4   LoadBalancer   NodePort       0.0.0.0      30080   TCP        "
        "1      2           Local     -\n"
        "kube-system/dns/IPv6    ClusterIP      ClusterIP      fd96::1      53      UDP        "
        "0      0           Cluster   10m\n"
    )


@pytest.mark.usefixtures("served")
def test_without_a_daemon_types_are_missing_and_nothing_else(run: Run) -> None:
    shown = run("svc", "ls")
    assert shown.err == ""
    assert [line[1:4] for line in cells(shown.out)[1:]] == [
        ["-", "ClusterIP", "10.96.0.2"],
        ["-", "External", "192.0.2.10"],
        ["-", "External", "192.0.2.20"],
        ["-", "NodePort", "0.0.0.0"],
        ["-", "ClusterIP", "fd96::1"],
    ]


@pytest.mark.usefixtures("daemon")
def test_wide_shows_labels_and_source_ranges(run: Run) -> None:
    header, *lines = run("svc", "ls", "-o", "wide").out.splitlines()
    assert header.split("   ")[-1].strip() == "ID"
    assert "app=web,tier=front" in lines[1]
    assert [" yes " in line for line in lines] == [False, True, False, False, False]


@pytest.mark.usefixtures("daemon")
def test_json_and_yaml_say_the_same(run: Run) -> None:
    in_json = listed(run)
    assert in_json == yaml.safe_load(run("svc", "ls", "-o", "yaml").out)
    assert in_json[1]["address"] == "192.0.2.10"
    assert in_json[1]["labels"] == {"app": "web", "tier": "front"}
    assert in_json[4]["labels"] == {}


def test_no_services_are_headers_alone_or_an_empty_list(node_tables: FakeTables, run: Run) -> None:
    assert run("svc", "ls").out.split()[0] == "NAME"
    assert listed(run) == []


@pytest.mark.usefixtures("served")
def test_a_namespace_limits_the_list_and_all_is_the_default(run: Run) -> None:
    assert names(run, "-n", "kube-system") == {"kube-system/dns/IPv6"}
    assert names(run, "--namespace", "kube") == set()
    assert names(run, "-A") == names(run) == {"default/web:http/IPv4", "kube-system/dns/IPv6"}
    assert run("svc", "ls", "-A", "-n", "default").code == 2


@pytest.mark.usefixtures("served")
def test_names_alone_are_one_for_each_service(run: Run) -> None:
    assert run("svc", "ls", "-o", "name").out == "default/web\nkube-system/dns\n"


WEB_ROWS, DNS_ROWS = {"default/web:http/IPv4"}, {"kube-system/dns/IPv6"}


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("app=web", WEB_ROWS),
        ("app==web,tier=front", WEB_ROWS),
        ("app=web,tier!=front", set()),
        ("app in (web, api),tier notin (back)", WEB_ROWS),
        ("app", WEB_ROWS),
        ("!app", DNS_ROWS),
        ("app!=web", DNS_ROWS),
        ("tier in (back)", set()),
    ],
)
@pytest.mark.usefixtures("daemon")
def test_labels_choose(run: Run, selector: str, found: set[str]) -> None:
    assert names(run, "-l", selector) == found


@pytest.mark.parametrize("selector", ["", "=web", "app=a b", "app in web", "app in (a", "a,,b"])
@pytest.mark.usefixtures("daemon")
def test_a_selector_that_is_none_is_wrong_usage(run: Run, selector: str) -> None:
    refused = run("svc", "ls", "-l", selector)
    assert refused.code == 2
    assert "does not select labels" in refused.err


@pytest.mark.usefixtures("served")
def test_labels_need_a_daemon_and_that_is_said(run: Run) -> None:
    refused = run("svc", "ls", "-l", "app=web")
    assert (refused.code, refused.out) == (1, "")
    assert "start `kpbpf run`, or leave -l out" in refused.err


# ---- -w -----------------------------------------------------------------------------------


class Story:
    """What happens between two looks; at its end somebody presses Ctrl-C."""

    def __init__(self, *happenings: Any) -> None:
        self._left = list(happenings)

    def __call__(self, seconds: float) -> None:
        assert seconds >= 1.0
        if not self._left:
            raise KeyboardInterrupt
        self._left.pop(0)()


@pytest.fixture
def changes(served: FakeTables, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend comes, nothing happens, a Service comes."""
    more = wanted("kube-system/dns/IPv6", "[fd96::1]:53", here=("[fd42::1]:53",), proto=17)
    story = Story(
        lambda: write(served, more),
        lambda: None,
        lambda: serve(served, "a/new/IPv4", "10.96.0.9:80"),
    )
    monkeypatch.setattr("kpbpf.cli.watching.sleep", story)


@pytest.mark.usefixtures("changes")
def test_a_watch_prints_the_list_and_then_a_line_for_each_change(run: Run) -> None:
    watched = run("svc", "ls", "-w")
    assert (watched.code, watched.err) == (130, "")
    header, *lines = cells(watched.out)
    assert header[:2] == ["EVENT", "NAME"]
    assert [line[0] for line in lines] == ["ADDED"] * 5 + ["MODIFIED", "ADDED"]
    assert lines[-2][1] == "kube-system/dns/IPv6"
    assert lines[-2][7] == "1"
    assert lines[-1][1] == "a/new/IPv4"


@pytest.mark.usefixtures("changes")
def test_a_watch_for_machines_is_one_object_a_line(run: Run) -> None:
    lines = [json.loads(line) for line in run("svc", "ls", "-w", "-o", "json").out.splitlines()]
    assert [line["event"] for line in lines] == ["added"] * 5 + ["modified", "added"]
    assert lines[5]["here"] == 1


@pytest.mark.usefixtures("changes")
def test_a_watch_in_yaml_is_one_document_each(run: Run) -> None:
    documents = list(yaml.safe_load_all(run("svc", "ls", "-w", "-o", "yaml").out))
    assert [one["event"] for one in documents][-2:] == ["modified", "added"]


@pytest.mark.usefixtures("changes")
def test_a_watch_of_one_namespace_tells_of_no_other(run: Run) -> None:
    lines = cells(run("svc", "ls", "-w", "-n", "a").out)
    assert [line[:2] for line in lines[1:]] == [["ADDED", "a/new/IPv4"]]


def test_what_is_gone_is_told_as_it_was(
    served: FakeTables, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(lambda: serving.take_away(served, "kube-system/dns/IPv6"))
    monkeypatch.setattr("kpbpf.cli.watching.sleep", story)
    lines = cells(run("svc", "ls", "-w").out)
    assert lines[-1][:2] == ["DELETED", "kube-system/dns/IPv6"]
    assert [line[0] for line in lines].count("DELETED") == 1


@pytest.mark.usefixtures("served")
def test_a_daemon_that_goes_away_changes_nothing_in_a_watch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = answering(Home(run=tmp_path), telling(TOLD))
    daemon.__enter__()
    story = Story(lambda: daemon.__exit__(None, None, None), lambda: None)
    monkeypatch.setattr("kpbpf.cli.watching.sleep", story)
    lines = cells(run("svc", "ls", "-w").out)
    assert len(lines) == 6
    assert {line[2] for line in lines[1:]} == {"LoadBalancer", "ClusterIP"}


@pytest.mark.usefixtures("served")
def test_names_cannot_be_watched(run: Run) -> None:
    assert run("svc", "ls", "-w", "-o", "name").code == 2


@pytest.mark.usefixtures("served")
def test_ctrl_c_ends_a_watch_at_once_and_quietly(run: Run) -> None:
    soon = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
    soon.start()
    try:
        watched = run("svc", "ls", "-w")
    finally:
        soon.join()
    assert (watched.code, watched.err) == (130, "")
    assert len(watched.out.splitlines()) == 6
