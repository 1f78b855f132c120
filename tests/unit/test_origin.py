"""Where an endpoint comes from, as its name says; and which pod holds an address."""

from __future__ import annotations

import pytest

from controllers import origin
from controllers.holders import Holders
from controllers.origin import Origin
from kpbpf.address import from_text
from kpbpf.model.objects import Key
from maps.abi import Name

ONE, TWO = from_text("10.0.0.1"), from_text("10.0.0.2")
A, B, C = (Key("Pod", "default", name) for name in "abc")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("netns=/run/netns/a ifname=eth0 pod=default/a", Origin("by hand", "default/a")),
        ("netns=/run/netns/a ifname=eth0", Origin("by hand", "")),
        ("anything at all", Origin("by hand", "")),
        ("cni=0123 pod=default/a", Origin("by hand", "default/a")),
        ("found=route pod=default/a", Origin("route", "default/a")),
        ("", Origin("", "")),
    ],
)
def test_a_name_says_where_an_endpoint_comes_from(name: str, wanted: Origin) -> None:
    assert origin.of(name) == wanted


def test_a_name_that_was_written_reads_the_same() -> None:
    assert origin.of(origin.found("neighbour", "kube-system/dns-0")) == Origin(
        "neighbour", "kube-system/dns-0"
    )


def test_the_longest_names_fit_and_stay_apart() -> None:
    pods = [f"{'n' * 63}/{'p' * 252}{i}" for i in range(2)]
    names = [origin.found("neighbour", pod) for pod in pods]
    assert len(set(names)) == 2
    for name, pod in zip(names, pods, strict=True):
        assert Name.unpack(Name(name).pack()).text == name
        assert origin.of(name).pod == origin.shortened(pod)
        assert origin.of(origin.found("route", pod)).pod == origin.shortened(pod)


# ---- holders ------------------------------------------------------------------------------


def test_the_last_claim_of_an_address_counts() -> None:
    holders = Holders()
    assert holders.change(A, (ONE, TWO)) == {A}
    assert holders.change(B, (ONE,)) == {A, B}
    assert (holders.held(A), holders.held(B)) == ((TWO,), (ONE,))
    assert holders.holder(ONE) == B


def test_who_held_an_address_before_gets_it_back() -> None:
    holders = Holders()
    for key in (A, B, C):
        holders.change(key, (ONE,))
    assert holders.change(B, ()) == {B, C}
    assert holders.change(C, ()) == {A, C}
    assert holders.holder(ONE) == A
    assert holders.change(A, ()) == {A}
    assert holders.holder(ONE) is None


def test_the_same_addresses_again_touch_nobody() -> None:
    holders = Holders()
    holders.change(A, (ONE, TWO, ONE))
    assert holders.change(A, (ONE, TWO)) == set()


def test_why_a_pod_holds_no_address_is_said() -> None:
    holders = Holders()
    assert holders.why_none(A) == "it has no address yet"
    holders.change(A, (ONE,))
    holders.change(B, (ONE,))
    assert holders.why_none(A) == "its address 10.0.0.1 was given to default/b"
