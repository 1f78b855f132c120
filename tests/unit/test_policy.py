"""NetworkPolicies and label selectors as values, and which objects they make us watch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpbpf.address import from_text
from kpbpf.kube.fields import BadObject
from kpbpf.kube.parse import parse
from kpbpf.model.labels import EVERYTHING, Labels, Operator, Requirement, Selector
from kpbpf.model.objects import Block, Key
from kpbpf.model.policy import (
    BlockPeer,
    Needs,
    NetworkPolicy,
    PodPeer,
    PolicyPort,
    Rule,
    needs,
)
from kpbpf.model.service import SCTP, TCP, UDP
from tests import make


def read(**spec: Any) -> NetworkPolicy:
    model = make.model(make.policy(**spec))
    assert isinstance(model, NetworkPolicy)
    return model


def one_of(**labels: str) -> Selector:
    """What matchLabels say."""
    return Selector(
        tuple(Requirement(name, Operator.IN, (labels[name],)) for name in sorted(labels))
    )


# ---- selectors -------------------------------------------------------------------------

WEB: Labels = (("app", "web"), ("tier", "front"))

# requirement, labels, matches
SELECTIONS: list[tuple[Requirement, Labels, bool]] = [
    (Requirement("app", Operator.IN, ("db", "web")), WEB, True),
    (Requirement("app", Operator.IN, ("db",)), WEB, False),
    (Requirement("none", Operator.IN, ("",)), WEB, False),
    (Requirement("app", Operator.NOT_IN, ("db",)), WEB, True),
    (Requirement("app", Operator.NOT_IN, ("db", "web")), WEB, False),
    (Requirement("none", Operator.NOT_IN, ("x",)), WEB, True),  # C3: a pod without the label
    (Requirement("app", Operator.EXISTS), WEB, True),
    (Requirement("none", Operator.EXISTS), WEB, False),
    (Requirement("empty", Operator.EXISTS), (("empty", ""),), True),
    (Requirement("app", Operator.DOES_NOT_EXIST), WEB, False),
    (Requirement("none", Operator.DOES_NOT_EXIST), WEB, True),
]


@pytest.mark.parametrize(("requirement", "labels", "matches"), SELECTIONS)
def test_one_requirement(requirement: Requirement, labels: Labels, matches: bool) -> None:
    assert Selector((requirement,)).matches(labels) is matches


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "x", "y"]))
REQUIREMENTS = st.one_of(
    st.builds(
        Requirement,
        st.sampled_from("abc"),
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.lists(st.sampled_from(["", "x", "y"]), min_size=1, max_size=2).map(tuple),
    ),
    st.builds(
        Requirement,
        st.sampled_from("abc"),
        st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST]),
    ),
)
OPPOSITE = {
    Operator.IN: Operator.NOT_IN,
    Operator.NOT_IN: Operator.IN,
    Operator.EXISTS: Operator.DOES_NOT_EXIST,
    Operator.DOES_NOT_EXIST: Operator.EXISTS,
}


@given(labels=LABELS, requirements=st.lists(REQUIREMENTS, max_size=4))
def test_a_selector_is_all_of_its_requirements(
    labels: dict[str, str], requirements: list[Requirement]
) -> None:
    found = tuple(sorted(labels.items()))
    single = [Selector((requirement,)).matches(found) for requirement in requirements]
    assert Selector(tuple(requirements)).matches(found) is all(single)
    for requirement, matches in zip(requirements, single, strict=True):
        opposite = requirement._replace(operator=OPPOSITE[requirement.operator])
        assert Selector((opposite,)).matches(found) is not matches


# ---- policies --------------------------------------------------------------------------


def test_a_policy_without_anything_isolates_ingress_of_all_pods() -> None:
    policy = read()
    assert policy.key == Key("NetworkPolicy", "default", "guard")
    assert (policy.pods, policy.ingress, policy.egress) == (EVERYTHING, (), None)


ANY = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}


@pytest.mark.parametrize(
    ("spec", "covers"),
    [
        ({}, "I"),
        ({"egress": []}, "I"),
        ({"egress": [ANY]}, "IE"),
        ({"egress": [{}]}, "IE"),
        ({"policyTypes": ["Egress"]}, "E"),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, "E"),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, "I"),
        ({"policyTypes": ["Ingress", "Egress"]}, "IE"),
        ({"policyTypes": [], "egress": [{}]}, "IE"),
    ],
)
def test_directions_that_a_policy_covers(spec: dict[str, Any], covers: str) -> None:
    policy = read(**spec)
    found = "I" * (policy.ingress is not None) + "E" * (policy.egress is not None)
    assert found == covers


def test_an_empty_rule_allows_everything_and_no_rule_nothing() -> None:
    assert read(ingress=[{}]).ingress == (Rule(),)
    assert read(ingress=[{"from": [], "ports": None}]).ingress == (Rule(),)
    assert read(ingress=None).ingress == ()


def test_selectors_of_labels_and_expressions() -> None:
    policy = read(
        pods={
            "matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["y", "x", "y"]},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        }
    )
    assert policy.pods == Selector(
        (
            *one_of(a="1", b="2").requirements,
            Requirement("tier", Operator.IN, ("x", "y")),
            Requirement("old", Operator.DOES_NOT_EXIST),
        )
    )


def test_peers() -> None:
    web, prod = {"matchLabels": {"app": "web"}}, {"matchLabels": {"env": "prod"}}
    policy = read(
        ingress=[
            {
                "from": [
                    {"podSelector": web},
                    {"namespaceSelector": prod},
                    {"podSelector": web, "namespaceSelector": {}},
                    {"podSelector": {}},
                    {"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16"]}},
                    {"ipBlock": {"cidr": "fd00::/8"}},
                ]
            }
        ]
    )
    assert policy.ingress is not None
    assert policy.ingress[0].peers == (
        PodPeer(one_of(app="web"), None),
        PodPeer(None, one_of(env="prod")),
        PodPeer(one_of(app="web"), EVERYTHING),
        PodPeer(EVERYTHING, None),
        BlockPeer(Block(from_text("10.0.0.0"), 104), (Block(from_text("10.1.0.0"), 112),)),
        BlockPeer(Block(from_text("fd00::"), 8)),
    )


def test_ports() -> None:
    ports = [
        {"port": 80},
        {"protocol": "UDP", "port": "dns"},
        {"protocol": "SCTP"},
        {"port": 8000, "endPort": 8999},
        {},
    ]
    policy = read(egress=[{"ports": ports}])
    assert policy.egress is not None
    assert policy.egress[0].ports == (
        PolicyPort(TCP, 80),
        PolicyPort(UDP, name="dns"),
        PolicyPort(SCTP),
        PolicyPort(TCP, 8000, 8999),
        PolicyPort(TCP),
    )


def from_(peer: Any) -> dict[str, Any]:
    return {"ingress": [{"from": [peer]}]}


def block(cidr: Any, *excepted: Any) -> dict[str, Any]:
    return from_({"ipBlock": {"cidr": cidr, "except": list(excepted)}})


def port(**raw: Any) -> dict[str, Any]:
    return {"ingress": [{"ports": [raw]}]}


def expression(**raw: Any) -> dict[str, Any]:
    return {"pods": {"matchExpressions": [raw]}}


# what is wrong: spec, and field, what is expected, what is there
WRONG: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "an unknown direction": (
        {"policyTypes": ["Both"]},
        "policyTypes[0]",
        "Ingress or Egress",
        '"Both"',
    ),
    "no direction": (
        {"policyTypes": [None]},
        "policyTypes[0]",
        "Ingress or Egress",
        "nothing",
    ),
    "a peer that is nobody": (
        from_({}),
        "ingress[0].from[0]",
        "a podSelector, a namespaceSelector or an ipBlock",
        "none of them",
    ),
    "pods and a block": (
        from_({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}),
        "ingress[0].from[0].ipBlock",
        "nothing, for pods are selected",
        "a block",
    ),
    "a block that is none": (
        block("10.0.0.0"),
        "ingress[0].from[0].ipBlock.cidr",
        "a range such as 192.0.2.0/24",
        '"10.0.0.0"',
    ),
    "an exception outside": (
        block("10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/16"),
        "ingress[0].from[0].ipBlock.except[1]",
        'a range inside "10.0.0.0/8"',
        '"11.0.0.0/16"',
    ),
    "an exception that is all of it": (
        block("10.0.0.0/8", "10.0.0.0/8"),
        "ingress[0].from[0].ipBlock.except[0]",
        'a range inside "10.0.0.0/8"',
        '"10.0.0.0/8"',
    ),
    "an exception of the other family": (
        block("::/0", "10.0.0.0/8"),
        "ingress[0].from[0].ipBlock.except[0]",
        'a range inside "::/0"',
        '"10.0.0.0/8"',
    ),
    "a range that ends before it begins": (
        port(port=80, endPort=79),
        "ingress[0].ports[0].endPort",
        "a number from 80 to 65535",
        "79",
    ),
    "a range from a name": (
        port(port="http", endPort=99),
        "ingress[0].ports[0].endPort",
        "a numeric port to begin with",
        '"http"',
    ),
    "a range from nowhere": (
        port(endPort=99),
        "ingress[0].ports[0].endPort",
        "a numeric port to begin with",
        "nothing",
    ),
    "a port that is no name": (
        port(port="80"),
        "ingress[0].ports[0].port",
        "a number from 1 to 65535, or a port's name",
        '"80"',
    ),
    "a port that is neither": (
        port(port=1.5),
        "ingress[0].ports[0].port",
        "a number from 1 to 65535",
        "1.5",
    ),
    "an unknown operator": (
        expression(key="a", operator="Like"),
        "podSelector.matchExpressions[0].operator",
        "In or NotIn or Exists or DoesNotExist",
        '"Like"',
    ),
    "in nothing": (
        expression(key="a", operator="In"),
        "podSelector.matchExpressions[0].values",
        "at least one value for In",
        "nothing",
    ),
    "existence with values": (
        expression(key="a", operator="Exists", values=["x"]),
        "podSelector.matchExpressions[0].values",
        "no value for Exists",
        "1 values",
    ),
    "an expression about nothing": (
        expression(operator="Exists"),
        "podSelector.matchExpressions[0].key",
        "a label's name",
        "nothing",
    ),
    "a label that is a number": (
        {"pods": {"matchLabels": {"a": 1}}},
        'podSelector.matchLabels["a"]',
        "a string",
        "1",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_policy_that_is_wrong_anywhere_is_refused(name: str) -> None:
    spec, field, expected, got = WRONG[name]
    with pytest.raises(BadObject) as caught:
        parse(make.policy(**spec))
    assert str(caught.value) == f"spec.{field}: expected {expected}, got {got}"


# ---- needs -----------------------------------------------------------------------------

NAMED = {"ports": [{"port": "http"}]}

# what a policy says, and whether it needs all pods, and all namespaces
NEEDS: list[tuple[dict[str, Any], Needs]] = [
    ({}, Needs()),
    ({"ingress": [{}], "egress": [{}]}, Needs()),
    (block("10.0.0.0/8"), Needs()),
    (from_({"podSelector": {}}), Needs(pods=True)),
    ({"egress": [{"to": [{"podSelector": {}}]}]}, Needs(pods=True)),
    (from_({"namespaceSelector": {}}), Needs(pods=True, namespaces=True)),
    (
        {"egress": [{"to": [{"podSelector": {}, "namespaceSelector": {}}]}]},
        Needs(pods=True, namespaces=True),
    ),
    # What a port of that name is only the destination's containers say: here our own pods'.
    ({"ingress": [NAMED]}, Needs()),
    ({"egress": [NAMED]}, Needs(pods=True)),
    ({"egress": [ANY | NAMED]}, Needs()),  # C6: by a block no name is matched
    ({"policyTypes": ["Ingress"], "egress": [{"to": [{"podSelector": {}}]}]}, Needs()),
]


@pytest.mark.parametrize(("spec", "expected"), NEEDS)
def test_what_a_policy_needs(spec: dict[str, Any], expected: Needs) -> None:
    assert needs([read(), read(**spec)]) == expected


def test_no_policy_needs_nothing() -> None:
    assert needs([]) == Needs()
