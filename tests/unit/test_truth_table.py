"""What the programs need for kube-proxy's truth table (SEMANTICS A.4, A13 to A31): flags and sets.

Which of them counts for which client is decided in C, and tested with packets: here it is only
seen to that every frontend carries what that decision needs, in every configuration.
"""

from __future__ import annotations

from typing import Any

import pytest

from kpbpf.address import is_ipv4, to_text
from kpbpf.compile.services import compile_service
from kpbpf.model.endpoint import EndpointSlice
from kpbpf.model.objects import Node
from kpbpf.model.service import Service
from maps.abi import Backend, BackendFlag, FrontendFlag, FrontendKey
from maps.layout import short_bits
from maps.wanted import WantedService
from tests import make

PLACES = {
    "10.96.0.1": "ClusterIP",
    "fd96::1": "ClusterIP",
    "0.0.0.0": "NodePort",
    "::": "NodePort",
    "203.0.113.1": "LB",
    "2001:db8::1": "LB",
    "198.51.100.1": "external IP",
    "2001:db8::2": "external IP",
}
OUTSIDE = ("NodePort", "LB", "external IP")
RANGES = {"loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8:1::/48"]}
HERE, THERE = ("10.1.0.1", "fd00::1"), ("10.1.0.2", "fd00::2")
NODE = Node("node-a")


def compiled(*endpoints: dict[str, Any], **spec: Any) -> list[WantedService]:
    """The Service with every kind of frontend in both families; endpoints as `make.endpoint`."""
    service = make.model(
        make.service(
            ip=["10.96.0.1", "fd96::1"],
            type="LoadBalancer",
            ports=[make.port(80, nodePort=30080)],
            externalIPs=["198.51.100.1", "2001:db8::2"],
            ingress=["203.0.113.1", "2001:db8::1"],
            **spec,
        )
    )
    assert isinstance(service, Service)
    slices = []
    for family in (0, 1):
        raws = [make.endpoint(one["addr"][family], **one["is"]) for one in endpoints]
        name = ("IPv4", "IPv6")[family]
        slice_ = make.model(make.slice_(raws, family=name, name=name.lower()))
        assert isinstance(slice_, EndpointSlice)
        slices.append(slice_)
    wanted = compile_service(service, slices, NODE).wanted
    assert [one.name for one in wanted] == ["default/web/IPv4", "default/web/IPv6"]
    return wanted


def one(addr: tuple[str, str], node: str, **conditions: Any) -> dict[str, Any]:
    return {"addr": addr, "is": {"node": node, **conditions}}


def flags(wanted: WantedService) -> dict[str, list[str]]:
    """What holds at each kind of frontend."""
    found: dict[str, list[str]] = {}
    for packed, bits in wanted.frontends:
        key = FrontendKey.unpack(packed)
        if bits != FrontendFlag.WHOLE_ADDRESS:
            assert is_ipv4(key.addr) is wanted.name.endswith("IPv4")
            kind = PLACES[to_text(key.addr)]
            assert key.port == (30080 if kind == "NodePort" else 80)
            found[kind] = short_bits(FrontendFlag, bits)
    return found


@pytest.mark.parametrize(
    ("spec", "cluster_ip", "outside"),
    [
        ({}, [], ["external"]),
        ({"externalTrafficPolicy": "Local"}, [], ["external", "external_local"]),
        ({"internalTrafficPolicy": "Local"}, ["local_only"], ["external"]),
        (
            {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"},
            ["local_only"],
            ["external", "external_local"],
        ),
    ],
    ids=["default", "eTP=Local", "iTP=Local", "both"],
)
@pytest.mark.parametrize("ranges", [{}, RANGES], ids=["anybody", "ranges"])
def test_every_column_of_the_table_is_told_by_flags(
    spec: dict[str, Any], ranges: dict[str, Any], cluster_ip: list[str], outside: list[str]
) -> None:
    """A25 to A28, A30: ranges hold at the load balancer's addresses and nowhere else."""
    for wanted in compiled(one(HERE, "node-a"), **spec, **ranges):
        expected = {"ClusterIP": cluster_ip, **dict.fromkeys(OUTSIDE, outside)}
        if ranges:
            expected["LB"] = [*outside, "source_ranges"]
        assert flags(wanted) == expected
        assert len(wanted.ranges) == (1 if ranges else 0)


ENDING = {"ready": False, "serving": True, "terminating": True}


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        ([], [], []),
        ([one(HERE, "node-a", ready=False)], [], []),
        ([one(HERE, "node-a"), one(THERE, "node-b")], [HERE, THERE], [HERE]),
        ([one(THERE, "node-b")], [THERE], []),
        ([one(THERE, "")], [THERE], []),
        ([one(HERE, "node-a", **ENDING), one(THERE, "node-b")], [THERE], [HERE]),
        ([one(HERE, "node-a"), one(THERE, "node-b", **ENDING)], [HERE], [HERE]),
        ([one(HERE, "node-a", **ENDING), one(THERE, "node-b", **ENDING)], [HERE, THERE], [HERE]),
    ],
    ids=[
        "none: refused (A19)",
        "none ready: refused (A19)",
        "here and there",
        "none here: dropped where only these count (A20, A21)",
        "nobody knows where: not here (A8)",
        "the last resort is found in each set by itself (A14)",
        "one that ends elsewhere is not needed (A13)",
        "all end: they are the last resort (A13)",
    ],
)
@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_both_sets_are_there_whatever_the_policies_say(
    endpoints: list[dict[str, Any]],
    cluster: list[tuple[str, str]],
    local: list[tuple[str, str]],
    policy: str,
) -> None:
    """The in-cluster short cut (A28) needs the cluster set under eTP=Local; refusing does, too."""
    spec = {"internalTrafficPolicy": policy, "externalTrafficPolicy": policy}
    for family, wanted in enumerate(compiled(*endpoints, **spec)):
        backends = _backends(wanted)
        assert [addr for addr, _ in backends[: wanted.count]] == [some[family] for some in cluster]
        assert [addr for addr, _ in backends[wanted.count :]] == [some[family] for some in local]
        # What is here is never masqueraded; whatever is anywhere else may be.
        assert all(here == (addr in HERE) for addr, here in backends)


def _backends(wanted: WantedService) -> list[tuple[str, bool]]:
    size = Backend.SIZE
    blocks = [wanted.backends[at : at + size] for at in range(0, len(wanted.backends), size)]
    assert len(blocks) == wanted.count + wanted.local_count
    return [
        (to_text(each.addr), bool(each.flags & BackendFlag.HERE))
        for each in map(Backend.unpack, blocks)
    ]


def test_all_frontends_of_a_port_share_one_affinity() -> None:
    """A34: it is one WantedService, so one id, one set of members and one time-out."""
    for wanted in compiled(one(HERE, "node-a"), sessionAffinity="ClientIP"):
        assert len(flags(wanted)) == 4
        assert wanted.affinity_sec == 10800
        assert len(wanted.members) == 1
