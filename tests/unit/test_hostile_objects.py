"""Whatever an object holds, it harms itself only: it is refused by field, or read within bounds.

Every kind, with the fields that an API server hands out, spoilt anywhere by anything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.services import ServicesController
from kpbpf.kube.fields import MAX_ITEMS, BadObject
from kpbpf.kube.parse import parse
from kpbpf.model.service import MAX_PORTS
from maps.fake import fake_tables
from tests import make
from tests.unit.reading import service_lines

MIB = 1 << 20

METADATA = {
    "annotations": {"example.com/note": "x", "kubectl.kubernetes.io/last-applied": "{}"},
    "creationTimestamp": "2026-01-01T00:00:00Z",
    "generation": 3,
    "labels": {"app": "web", "tier": "front"},
    "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:ports": {}}}}],
    "resourceVersion": "12345",
    "uid": "00000000-0000-4000-8000-000000000001",
}


def full(raw: make.Raw) -> make.Raw:
    """The object with the metadata that an API server adds."""
    labels = {**METADATA["labels"], **raw["metadata"].get("labels", {})}  # type: ignore[dict-item]
    return raw | {"metadata": {**METADATA, **raw["metadata"], "labels": labels}}


WEB = full(
    make.service(
        ports=[make.port(80, "http", targetPort="web", nodePort=30080), make.port(53, "d", "UDP")],
        type="LoadBalancer",
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 7}},
        externalIPs=["198.51.100.1"],
        loadBalancerSourceRanges=["192.0.2.0/24"],
        internalTrafficPolicy="Cluster",
        externalTrafficPolicy="Local",
        healthCheckNodePort=32000,
        ipFamilies=["IPv4"],
        selector={"app": "web"},
    )
    | {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]}}}
)
SLICE = full(
    make.slice_(
        [make.endpoint("10.1.0.1", zones=["z"], nodes=["n"]), "10.1.0.2"],
        ports=[make.port(8080, "http"), make.port(5353, "d", "UDP")],
        triggered="2026-01-01T00:00:00.5Z",
    )
)
NODE = full(make.node(zone="z", podCIDRs=["10.1.0.0/24"], taints=[{"key": "k", "effect": "e"}]))
POLICY = full(
    make.policy(
        pods={"matchLabels": {"app": "web"}},
        policyTypes=["Ingress", "Egress"],
        ingress=[
            {
                "from": [
                    {"podSelector": {}, "namespaceSelector": {"matchLabels": {"a": "b"}}},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                ],
                "ports": [{"port": 80, "endPort": 90}, {"protocol": "UDP", "port": "dns"}],
            }
        ],
        egress=[
            {"to": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}
        ],
    )
)
REAL = [WEB, SLICE, NODE, full(make.pod(uid="u")), full(make.namespace()), POLICY]

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from(
        [10**4000, -1, 65536, "\ud800", "x" * MIB, "1." * MIB, " " * MIB, "None", "Local", ""]
    )
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


def read_or_refuse(raw: Any) -> None:
    """Read it; fails if anything but BadObject is raised, or if much is said or kept."""
    said: list[BadObject] = []
    kept = ""
    try:
        parsed = parse(raw)
        hash(parsed)
        said, kept = [*parsed.remarks], repr(parsed.model)
    except BadObject as bad:
        said = [bad]
    assert all(len(str(bad).encode()) < 500 for bad in said)
    assert len(kept) < 100_000


def paths(raw: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside an object."""
    found = [path] if path else []
    if isinstance(raw, dict | list):
        for step in raw if isinstance(raw, dict) else range(len(raw)):
            found += paths(raw[step], (*path, step))
    return found


def spoilt(raw: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the object with another value at the end of the way."""
    raw = inner = copy.deepcopy(raw)
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return raw


@pytest.mark.parametrize("raw", REAL, ids=lambda raw: raw["kind"])
def test_the_real_object_is_read(raw: make.Raw) -> None:
    parsed = parse(raw)
    assert not parsed.remarks
    assert parsed.model.key.name == raw["metadata"]["name"]


@given(junk=JUNK)
def test_nothing_but_bad_object_comes_of_junk(junk: Any) -> None:
    read_or_refuse(junk)


@given(data=st.data())
def test_nothing_but_bad_object_comes_of_junk_anywhere_in_an_object(data: st.DataObject) -> None:
    raw = data.draw(st.sampled_from(REAL))
    for _ in range(data.draw(st.integers(1, 3))):
        raw = spoilt(raw, data.draw(st.sampled_from(paths(raw))), data.draw(JUNK))
    read_or_refuse(raw)


WRONG_EVERYWHERE: list[Any] = [
    None,
    5,
    "x",
    True,
    float("nan"),
    10**5000,
    "\ud800",
    "x" * (10 * MIB),
    b"x",
    [],
    ["x"],
    [None],
    {},
    {"a": 1},
    {1: 2},
    nested(100_000),
]


@pytest.mark.parametrize("number", range(len(WRONG_EVERYWHERE)))
@pytest.mark.parametrize("raw", REAL, ids=lambda raw: raw["kind"])
def test_one_wrong_value_in_every_place(raw: make.Raw, number: int) -> None:
    for path in paths(raw):
        shallow = raw
        # deepcopy would recurse into what is nested deeply: put it into a copy of what holds it.
        value = WRONG_EVERYWHERE[number]
        shallow = spoilt(raw, path, None)
        inner: Any = shallow
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        read_or_refuse(shallow)


# ---- very much of something that is in order -------------------------------------------


def test_ten_megabytes_of_annotations_are_not_kept() -> None:
    for raw in REAL:
        plain = parse(raw).model
        much = {f"example.com/{n}": "x" * MIB for n in range(10)}
        assert parse(spoilt(raw, ("metadata", "annotations", "big"), much)).model == plain


# what there is too much of: an object, and what is said
TOO_MUCH: dict[str, tuple[Callable[[], make.Raw], str]] = {
    "ports of a Service": (
        lambda: make.service(ports=[make.port(n, f"p{n}") for n in range(1, 10001)]),
        "spec.ports: expected a list of at most 4,096, got one of 10,000",
    ),
    "ports of a slice": (
        lambda: make.slice_(ports=[make.port(n, f"p{n}") for n in range(1, 10001)]),
        "ports: expected a list of at most 4,096, got one of 10,000",
    ),
    "endpoints": (
        lambda: make.slice_(["10.1.0.1"] * 100_000),
        "endpoints: expected a list of at most 65,536, got one of 100,000",
    ),
    "labels": (
        lambda: make.pod(labels={f"l{n}": "x" for n in range(1001)}),
        "metadata.labels: expected at most 1,000 labels, got 1,001",
    ),
    "text in a label": (
        lambda: make.pod(labels={"a": "x" * MIB}),
        (
            'metadata.labels["a"]: expected a name of at most 317 characters and a value of 63, '
            "got 1 and 1,048,576"
        ),
    ),
    "text in a node's name": (
        lambda: make.slice_([make.endpoint("10.1.0.1", node="x" * MIB)]),
        (
            "endpoints[0].nodeName: expected a string of at most 253 characters, "
            "got one of 1,048,576"
        ),
    ),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_of_something_is_refused(name: str) -> None:
    build, message = TOO_MUCH[name]
    with pytest.raises(BadObject) as caught:
        parse(build())
    assert str(caught.value) == message


def test_of_very_many_items_that_cannot_be_used_a_few_are_named() -> None:
    parsed = parse(make.service(externalIPs=["x"] * 60_000))
    assert len(parsed.remarks) == 11
    assert str(parsed.remarks[-1]) == (
        "spec.externalIPs: expected items that can be used, got 59,990 more that are not"
    )


# ---- the neighbours --------------------------------------------------------------------


def test_services_as_large_as_they_may_be_leave_room_and_time_for_others() -> None:
    tables = fake_tables()
    controller = ServicesController(tables, "node-a")
    ports = [make.port(n, f"p{n}") for n in range(1, MAX_PORTS + 1)]
    many = [f"10.{1 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in range(MAX_ITEMS)]
    unready = [make.endpoint(ip, ready=False) for ip in many]
    for raw in (
        make.service("ports", ["10.96.1.1", "fd96::1"], ports=ports),
        make.slice_(of="ports", ports=ports),
        make.service("both", "10.96.1.2", ports=ports),
        make.slice_(many, of="both", ports=ports),
        make.service("unready", "10.96.1.3", ports=ports),
        make.slice_(unready, of="unready", ports=ports),
        make.service("web"),
        make.slice_(),
    ):
        model = make.model(raw)
        controller.changed(model.key, model)
    # Without bounds it takes hours: 4,096 ports times 65,536 endpoints.
    assert not controller.reconcile().failed
    assert "10.96.0.10:80/TCP default/web/IPv4: 10.1.0.1:8080" in service_lines(tables)
    assert {problem.obj for problem in controller.problems()} == {
        "Service default/both",
        "Service default/unready",
    }


def test_of_a_service_with_thousands_of_faults_a_few_are_named() -> None:
    controller = ServicesController(fake_tables(), "node-a")
    ports = [make.port(n, f"p{n}") | {"nodePort": 30000} for n in range(1, 2002)]
    model = make.model(make.service(type="NodePort", ports=ports))
    controller.changed(model.key, model)
    controller.reconcile()
    *_, last = problems = controller.problems()
    assert len(problems) == 11
    assert str(last).endswith(
        "spec.ports: expected ports that can be served, got 1,990 more that cannot"
    )
