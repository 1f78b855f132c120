"""`kpbpf ep ls` on tables in memory: how each pod was found, and which could not be attached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from controllers.pods import PodStatus
from kpbpf import status
from kpbpf.address import from_text
from kpbpf.home import Home
from maps.abi import Endpoint, EndpointKey, Mode, Name, NameKey, NameKind
from maps.fake import FakeTables
from tests.unit.command import Run
from tests.unit.test_status import WELL

NO_ROUTE = "no route leads to 10.1.0.9"


def attached(tables: FakeTables, id_: int, name: str, *ips: str) -> None:
    for ip in ips:
        entry = Endpoint(id_, 100 + id_, bytes([2] * 6), bytes([4] * 6), Mode.VETH)
        tables.endpoints.put(EndpointKey(from_text(ip)), entry)
    tables.names.put(NameKey(NameKind.ENDPOINT, id_), Name(name))


@pytest.fixture
def pods(node_tables: FakeTables) -> FakeTables:
    attached(node_tables, 1, "netns=/run/netns/a ifname=eth0 pod=default/a", "10.1.0.1")
    attached(node_tables, 2, "netns=/run/netns/b ifname=eth0", "10.1.0.2")
    attached(node_tables, 3, "found=neighbour pod=default/web-0", "10.1.0.3", "fd42::3")
    return node_tables


@pytest.fixture
def daemon_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a daemon that ended since knew of its pods."""
    home = Home(run=tmp_path)
    monkeypatch.setenv("KPBPF_RUN", str(tmp_path))
    known = (
        PodStatus("default/web-0", ("10.1.0.3", "fd42::3"), "veth3", "neighbour", ""),
        PodStatus("default/lost", ("10.1.0.9",), "", "", NO_ROUTE),
        PodStatus("default/new", (), "", "", "it has no address yet"),
        PodStatus("default/by-now", ("10.1.0.2",), "", "", "no route leads to 10.1.0.2"),
    )
    status.write(home, WELL._replace(pods=[one._asdict() for one in known]))


def listed(run: Run, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("ep", "ls", "-o", "json", *options).out)
    return found


def test_it_is_shown_how_each_was_found(pods: FakeTables, run: Run) -> None:
    assert [(row["id"], row["pod"], row["found"]) for row in listed(run)] == [
        (1, "default/a", "by hand"),
        (2, None, "by hand"),
        (3, "default/web-0", "neighbour"),
    ]
    lines = run("ep", "ls").out.splitlines()
    assert "NOT ATTACHED" not in lines[0]
    assert "by hand" in lines[1]


def test_a_half_done_endpoint_was_found_by_nobody(node_tables: FakeTables, run: Run) -> None:
    attached(node_tables, 1, "", "10.1.0.1")
    assert [(row["pod"], row["found"]) for row in listed(run)] == [(None, None)]


@pytest.mark.usefixtures("pods", "daemon_said")
def test_pods_that_could_not_be_attached_are_named_with_the_reason(run: Run) -> None:
    missing = [(row["pod"], row["ips"], row["why_not"]) for row in listed(run) if not row["id"]]
    assert missing == [
        ("default/lost", ["10.1.0.9"], NO_ROUTE),
        ("default/new", [], "it has no address yet"),
    ]
    header, *lines = run("ep", "ls").out.splitlines()
    assert header.endswith("NOT ATTACHED")
    assert lines[-2].startswith("-    default/lost")
    assert lines[-2].endswith(NO_ROUTE)
    assert all(line.endswith("-") for line in lines[:3])


@pytest.mark.usefixtures("pods", "daemon_said")
def test_every_format_has_the_same_rows(run: Run) -> None:
    assert yaml.safe_load(run("ep", "ls", "-o", "yaml").out) == listed(run)
    keys = {frozenset(row) for row in listed(run)}
    assert len(keys) == 1
    assert "found=neighbour pod=default/web-0" in run("ep", "ls", "-o", "wide").out
