"""A Service with its slices to map entries: what is wanted, and what cannot be honoured."""

from __future__ import annotations

from typing import Any

import pytest

from kpbpf.address import from_text, to_text
from kpbpf.compile.services import Compiled, compile_service, family_ports, port_name
from kpbpf.model.endpoint import EndpointSlice
from kpbpf.model.objects import Node
from kpbpf.model.service import SCTP, TCP, UDP, Service
from maps.abi import Backend, FrontendFlag, FrontendKey, MemberFlag, Name
from maps.wanted import WantedService
from tests import make

NODE = Node("node-a", "zone-a")


def compiled(service: make.Raw, *slices: make.Raw) -> Compiled:
    model = make.model(service)
    assert isinstance(model, Service)
    models = [make.model(raw) for raw in slices]
    return compile_service(model, [m for m in models if isinstance(m, EndpointSlice)], NODE)


def only(service: make.Raw, *slices: make.Raw) -> WantedService:
    (wanted,) = compiled(service, *slices).wanted
    return wanted


def backends(wanted: WantedService) -> tuple[list[str], list[str]]:
    """The cluster set and the local set, in words."""
    size = Backend.SIZE
    blocks = [wanted.backends[at : at + size] for at in range(0, len(wanted.backends), size)]
    words = [f"{to_text(b.addr)}:{b.port}" for b in map(Backend.unpack, blocks)]
    assert len(words) == wanted.count + wanted.local_count
    return words[: wanted.count], words[wanted.count :]


def members(wanted: WantedService) -> dict[str, str]:
    return {
        f"{to_text(addr)}:{port}": "+".join(
            bit.name.lower() for bit in MemberFlag if bit.name and bit & flags
        )
        for addr, port, flags in wanted.members
    }


def test_a_service_and_its_endpoints() -> None:
    local = make.endpoint("10.1.0.2", "node-a")
    wanted = only(make.service(), make.slice_(["10.1.0.9", local]))
    assert wanted.name == "default/web/IPv4"
    assert wanted.proto == TCP
    addr = from_text("10.96.0.10")
    assert wanted.frontends == (
        (FrontendKey(addr, 80, TCP).pack(), 0),
        (FrontendKey(addr, 0, 0).pack(), FrontendFlag.WHOLE_ADDRESS),
    )
    assert backends(wanted) == (["10.1.0.2:8080", "10.1.0.9:8080"], ["10.1.0.2:8080"])
    assert wanted.members == ()


def test_the_order_in_slices_makes_no_difference() -> None:
    one = only(make.service(), make.slice_(["10.1.0.1", "10.1.0.2"]))
    other = only(make.service(), make.slice_(["10.1.0.2"]), make.slice_(["10.1.0.1"], name="b"))
    assert one == other


def test_no_endpoints_is_a_frontend_that_refuses() -> None:
    wanted = only(make.service())
    assert wanted.frontends
    assert (wanted.count, wanted.local_count, wanted.backends) == (0, 0, b"")


def test_ports_are_tied_by_name_and_protocol() -> None:
    service = make.service(
        ports=[make.port(53, "dns", "UDP"), make.port(53, "dns-tcp"), make.port(9153, "metrics")]
    )
    slices = [
        make.slice_(["10.1.0.1"], ports=[make.port(5353, "dns", "UDP"), make.port(9, "dns-tcp")]),
        # Another slice may say another number for the same name.
        make.slice_(["10.1.0.2"], name="b", ports=[make.port(53, "dns", "UDP")]),
        make.slice_(["10.1.0.3"], name="c", ports=[make.port(9153, "metrics", "UDP")]),
    ]
    found = {wanted.name: backends(wanted)[0] for wanted in compiled(service, *slices).wanted}
    assert found == {
        "default/web:dns/IPv4": ["10.1.0.1:5353", "10.1.0.2:53"],
        "default/web:dns-tcp/IPv4": ["10.1.0.1:9"],
        "default/web:metrics/IPv4": [],
    }


def test_two_families_are_two_services_to_the_maps() -> None:
    found = compiled(
        make.service(ip=["fd96::1", "10.96.0.1"]),
        make.slice_(["10.1.0.1"]),
        make.slice_(["fd00::1"], name="six", family="IPv6"),
    ).wanted
    assert [(wanted.name, backends(wanted)[0]) for wanted in found] == [
        ("default/web/IPv6", ["fd00::1:8080"]),
        ("default/web/IPv4", ["10.1.0.1:8080"]),
    ]


@pytest.mark.parametrize(
    "spec", [{"ip": "None"}, {"type": "ExternalName"}, {"ip": "", "clusterIPs": None}]
)
def test_nothing_is_wanted_of_services_without_an_address(spec: dict[str, Any]) -> None:
    assert compiled(make.service(**spec), make.slice_()) == Compiled((), [], [])


def test_internal_traffic_policy_local_is_a_flag() -> None:
    wanted = only(make.service(internalTrafficPolicy="Local"), make.slice_(["10.1.0.1"]))
    assert wanted.frontends[0][1] == FrontendFlag.LOCAL_ONLY
    assert (wanted.count, wanted.local_count) == (1, 0)


def test_affinity_needs_members() -> None:
    wanted = only(make.service(sessionAffinity="ClientIP"), make.slice_(["10.1.0.1"]))
    assert wanted.affinity_sec == 10800
    assert members(wanted) == {"10.1.0.1:8080": "cluster+serving"}


def test_members_of_udp_are_all_that_serve() -> None:
    wanted = only(
        make.service(ports=[make.port(53, protocol="UDP")]),
        make.slice_(
            [
                make.endpoint("10.1.0.1", "node-a"),
                make.endpoint("10.1.0.2"),
                make.endpoint("10.1.0.3", ready=False, serving=True, terminating=True),
                make.endpoint("10.1.0.4", ready=False, serving=False, terminating=True),
            ],
            ports=[make.port(53, protocol="UDP")],
        ),
    )
    assert wanted.proto == UDP
    assert backends(wanted) == (["10.1.0.1:53", "10.1.0.2:53"], ["10.1.0.1:53"])
    assert members(wanted) == {
        "10.1.0.1:53": "cluster+local+serving+here",
        "10.1.0.2:53": "cluster+serving",
        "10.1.0.3:53": "serving",
    }


def test_sctp_may_have_another_target_port_as_any_other() -> None:
    port = make.port(7777, "s", "SCTP")
    found = compiled(
        make.service(ports=[port]),
        make.slice_(["10.1.0.1"], ports=[port]),
        make.slice_(["10.1.0.2"], name="b", ports=[port | {"port": 8888}]),
    )
    assert found.wanted[0].proto == SCTP
    assert backends(found.wanted[0])[0] == ["10.1.0.1:7777", "10.1.0.2:8888"]
    assert not found.faults


def test_one_service_cannot_fill_the_map() -> None:
    ports = [make.port(number, f"p{number}") for number in range(1, 101)]
    endpoints = [f"10.1.{number >> 8}.{number & 255}" for number in range(1000)]
    found = compiled(make.service(ports=ports), make.slice_(endpoints, ports=ports))
    assert len(found.wanted) == 65
    assert str(found.faults[0].field) == "spec.ports[65]"


def test_the_longest_names_fit_and_differ() -> None:
    long = "x" * 63
    names = {port_name(long, long, port, "IPv6") for port in (long, "y" * 63, "z")}
    assert len(names) == 3
    assert all(len(name) <= Name.SIZE and name.endswith("/IPv6") for name in names)


def test_family_ports_are_those_that_are_wanted() -> None:
    raw = make.service(ip=["10.96.0.1", "fd96::1"], ports=[make.port(1, "a"), make.port(2, "b")])
    service = make.model(raw)
    assert isinstance(service, Service)
    wanted = compile_service(service, [], NODE).wanted
    assert [(item.name, item.frontends) for item in family_ports(service)] == [
        (item.name, item.frontends) for item in wanted
    ]
