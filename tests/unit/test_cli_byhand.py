"""Services made by hand are ordinary manifests, and read as what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kpbpf.address import from_text
from kpbpf.cli import byhand
from kpbpf.cli.byhand import ByHand
from kpbpf.cli.options import ip_and_port
from kpbpf.compile.services import compile_service
from kpbpf.kube.parse import parse
from kpbpf.model.endpoint import EndpointSlice
from kpbpf.model.objects import Node
from kpbpf.model.service import Service
from maps.abi import FrontendKey
from tests.unit.backends import packed

V4 = ByHand(
    "default",
    "web",
    from_text("10.96.0.1"),
    80,
    6,
    (ip_and_port("10.1.0.1:8080"), ip_and_port("10.1.0.2:8081")),
)
V6 = ByHand("default", "dns", from_text("fd96::1"), 53, 17, (ip_and_port("[fd42::1]:53"),), 600)
EMPTY = ByHand("by-hand", "nothing", from_text("10.96.0.2"), 80, 132)


@pytest.mark.parametrize("service", [V4, V6, EMPTY], ids=lambda service: service.name)
def test_it_reads_back_as_it_was_written(service: ByHand, tmp_path: Path) -> None:
    path = byhand.write(tmp_path / "by-hand", service)
    assert list(byhand.read_all(path.parent)) == [(path, service)]
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("service", [V4, V6, EMPTY], ids=lambda service: service.name)
def test_it_means_what_was_asked_for(service: ByHand) -> None:
    parsed = [parse(raw) for raw in byhand.manifest(service)["items"]]
    assert not any(found.remarks for found in parsed)
    models = [found.model for found in parsed]
    (model,) = (found for found in models if isinstance(found, Service))
    slices = [found for found in models if isinstance(found, EndpointSlice)]
    (wanted,) = compile_service(model, slices, Node("here")).wanted
    assert wanted.name.rpartition("/")[0] == service.path
    key = FrontendKey(service.addr, service.port, service.proto).pack()
    assert wanted.keys[0] == key
    assert wanted.count == len(service.backends)
    assert wanted.local_count == 0
    assert wanted.affinity_sec == service.affinity_sec
    if service is V4:
        assert wanted.backends == packed("10.1.0.1:8080", "10.1.0.2:8081")


def test_files_of_another_shape_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(json.dumps({"items": [{"kind": "Pod"}]}))
    (tmp_path / "c.json").write_text("[]")
    assert list(byhand.read_all(tmp_path)) == []


@pytest.mark.parametrize(
    "frontend", ["10.96.0.1:80", "[fd96::1]:80", "[::1]:80", "[1:2:3:4:5:6:7:8]:65535"]
)
def test_a_name_made_of_an_address_is_a_label(frontend: str) -> None:
    addr, port = ip_and_port(frontend)
    assert byhand.is_label(byhand.default_name(addr, port, 132))
