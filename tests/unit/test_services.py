"""The Services controller: what a change touches, who wins an address, restarts and faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.pending import AGAIN_SEC, FEW
from controllers.services import ServicesController, Status
from kpbpf.errors import Retry
from kpbpf.model.objects import Key
from maps.abi import Name, NameKey, NameKind
from maps.fake import FakeTables, fake_tables
from tests import make
from tests.unit.faulty import Flaky
from tests.unit.reading import node_port_lines, range_lines, service_lines, whole_lines
from tests.unit.test_pending import Clock


class Node:
    """A controller for node-a and its tables."""

    def __init__(self, tables: FakeTables | None = None) -> None:
        self.tables = tables or fake_tables()
        self.controller = ServicesController(self.tables, "node-a")

    def tell(self, *raws: make.Raw) -> None:
        for raw in raws:
            model = make.model(raw)
            self.controller.changed(model.key, model)

    def forget(self, raw: make.Raw) -> None:
        self.controller.changed(make.model(raw).key, None)

    def sync(self, *raws: make.Raw) -> list[str]:
        """The map in words after these changes."""
        self.tell(*raws)
        self.controller.work()
        return self.lines()

    def lines(self) -> list[str]:
        return service_lines(self.tables)

    def problems(self) -> list[str]:
        return [str(problem) for problem in self.controller.problems()]


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_service_before_its_slices_and_after(node: Node) -> None:
    assert node.sync(make.service()) == ["10.96.0.10:80/TCP default/web/IPv4: nothing"]
    assert node.sync(make.slice_()) == ["10.96.0.10:80/TCP default/web/IPv4: 10.1.0.1:8080"]
    node.forget(make.slice_())
    assert node.sync() == ["10.96.0.10:80/TCP default/web/IPv4: nothing"]
    node.forget(make.service())
    assert node.sync() == []


def test_slices_before_their_service(node: Node) -> None:
    assert node.sync(make.slice_()) == []
    assert node.sync(make.service()) == ["10.96.0.10:80/TCP default/web/IPv4: 10.1.0.1:8080"]


def test_several_slices_of_one_service(node: Node) -> None:
    second = make.slice_(["10.1.0.2"], name="second")
    assert node.sync(make.service(), make.slice_(), second) == [
        "10.96.0.10:80/TCP default/web/IPv4: 10.1.0.1:8080 10.1.0.2:8080"
    ]
    node.forget(make.slice_())
    assert node.sync() == ["10.96.0.10:80/TCP default/web/IPv4: 10.1.0.2:8080"]


def test_a_slice_that_changes_hands(node: Node) -> None:
    services = make.service("a", "10.96.0.1"), make.service("b", "10.96.0.2")
    node.sync(*services, make.slice_(of="a", name="s"))
    assert node.sync(make.slice_(of="b", name="s")) == [
        "10.96.0.1:80/TCP default/a/IPv4: nothing",
        "10.96.0.2:80/TCP default/b/IPv4: 10.1.0.1:8080",
    ]
    assert (
        node.sync(make.slice_(of="b", name="s", labels={"service.kubernetes.io/headless": ""}))[1]
        == "10.96.0.2:80/TCP default/b/IPv4: nothing"
    )


@pytest.mark.parametrize(
    "changed",
    [
        make.service(ip="None"),
        make.service(type="ExternalName"),
        make.service(labels={"service.kubernetes.io/service-proxy-name": "other"}),
    ],
)
def test_a_live_service_that_is_no_longer_ours_goes_and_comes_back(
    node: Node, changed: make.Raw
) -> None:
    before = node.sync(make.service(), make.slice_())
    assert node.sync(changed) == []
    assert node.sync(make.service()) == before


def test_a_live_service_may_change_in_every_way(node: Node) -> None:
    node.sync(make.service(), make.slice_())
    assert node.sync(make.service(ports=[81])) == [
        "10.96.0.10:81/TCP default/web/IPv4: 10.1.0.1:8080"
    ]
    assert node.sync(make.service(ip="10.96.0.11", internalTrafficPolicy="Local")) == [
        "10.96.0.11:80/TCP default/web/IPv4: 10.1.0.1:8080 [local_only]"
    ]
    udp = make.port(80, protocol="UDP")
    assert node.sync(
        make.service(ports=[udp], sessionAffinity="ClientIP"), make.slice_(ports=[udp])
    ) == ["10.96.0.10:80/UDP default/web/IPv4: 10.1.0.1:80 [affinity 10800]"]


def test_only_what_a_change_touches_is_written(node: Node) -> None:
    for n in range(20):
        node.tell(make.service(f"s{n}", f"10.96.0.{n}"), make.slice_([f"10.1.0.{n}"], of=f"s{n}"))
    node.controller.work()
    node.tell(make.slice_(["10.1.0.100"], of="s7"))
    assert node.controller.reconcile().writes == 3
    assert node.controller.reconcile().writes == 0


def test_the_zone_of_the_own_node_touches_every_service(node: Node) -> None:
    endpoints = [make.endpoint(f"10.1.0.{n}", zones=[f"zone-{n}"]) for n in (1, 2)]
    everything = "10.96.0.10:80/TCP default/web/IPv4: 10.1.0.1:8080 10.1.0.2:8080"
    assert node.sync(make.service(), make.slice_(endpoints)) == [everything]
    assert node.sync(make.node("node-b", "zone-1")) == [everything]
    assert node.sync(make.node("node-a", "zone-2")) == [
        "10.96.0.10:80/TCP default/web/IPv4: 10.1.0.2:8080"
    ]
    node.forget(make.node("node-a"))
    assert node.sync() == [everything]


def test_other_kinds_are_no_concern(node: Node) -> None:
    assert node.sync(make.pod(), make.namespace()) == []


# ---- two Services, one address ------------------------------------------------------------


def test_the_smaller_name_wins_and_the_loser_takes_over(node: Node) -> None:
    b = [make.service("b"), make.slice_(["10.1.0.2"], of="b")]
    a = [make.service("a"), make.slice_(["10.1.0.1"], of="a")]
    c = [make.service("c"), make.slice_(["10.1.0.3"], of="c")]
    assert node.sync(*b, *c) == ["10.96.0.10:80/TCP default/b/IPv4: 10.1.0.2:8080"]
    assert node.sync(*a) == ["10.96.0.10:80/TCP default/a/IPv4: 10.1.0.1:8080"]
    expected = "expected an address and port that Service default/a does not have"
    assert node.problems() == [
        f"Service default/{name}: Service default/{name}: spec.clusterIP: {expected}, "
        "got 10.96.0.10 port 80/TCP"
        for name in "bc"
    ]
    node.forget(a[0])
    assert node.sync() == ["10.96.0.10:80/TCP default/b/IPv4: 10.1.0.2:8080"]
    assert node.sync(make.service("b", "10.96.0.11")) == [
        "10.96.0.10:80/TCP default/c/IPv4: 10.1.0.3:8080",
        "10.96.0.11:80/TCP default/b/IPv4: 10.1.0.2:8080",
    ]
    assert node.problems() == []


def test_a_loser_keeps_the_ports_that_nobody_else_has(node: Node) -> None:
    node.tell(make.service("a"))
    assert node.sync(make.service("b", ports=[make.port(80, "x"), make.port(81, "y")])) == [
        "10.96.0.10:80/TCP default/a/IPv4: nothing",
        "10.96.0.10:81/TCP default/b:y/IPv4: nothing",
    ]


def test_a_problem_says_where_the_object_stands() -> None:
    where: Callable[[Key], str] = lambda key: f"file of {key.name}"  # noqa: E731
    controller = ServicesController(fake_tables(), "node-a", where=where)
    model = make.model(make.service(externalIPs=["2001:db8::7"]))
    controller.changed(model.key, model)
    controller.work()
    (problem,) = controller.problems()
    assert str(problem) == (
        "file of web: Service default/web: spec.externalIPs: expected addresses of IPv4, "
        "the only family of the Service, got 1 of the other one"
    )


# ---- restart, faults ------------------------------------------------------------------------


def test_a_restart_without_change_writes_nothing(node: Node) -> None:
    objects = [make.service(), make.slice_(), make.service("b", "10.96.0.11")]
    node.sync(*objects)
    again = Node(node.tables)
    again.tell(*objects)
    assert again.controller.reconcile().writes == 0


def test_a_restart_takes_away_what_went_meanwhile(node: Node) -> None:
    node.sync(make.service(), make.slice_(), make.service("b", "10.96.0.11"))
    node.tables.names.put(NameKey(NameKind.ENDPOINT, 1), Name("a pod"))
    assert Node(node.tables).sync(make.service()) == ["10.96.0.10:80/TCP default/web/IPv4: nothing"]
    assert NameKey(NameKind.ENDPOINT, 1) in dict(node.tables.names.items())


def test_what_does_not_fit_is_pending_and_written_when_there_is_room() -> None:
    node = Node(fake_tables(entries={"frontends": 2}))
    node.sync(make.service("a", "10.96.0.1"))
    with pytest.raises(Retry, match=r"1 Service ports not written; default/b/IPv4: map frontends"):
        node.sync(make.service("b", "10.96.0.2"))
    assert node.controller.status().pending == 1
    node.forget(make.service("a"))
    # The place is free only after the first attempt has cleared it.
    with pytest.raises(Retry):
        node.controller.work()
    assert node.sync() == ["10.96.0.2:80/TCP default/b/IPv4: nothing"]
    assert node.controller.status().pending == 0


@pytest.mark.parametrize("seed", range(10))
def test_a_removal_that_fails_is_tried_again(node: Node, seed: int) -> None:
    node.sync(make.service(), make.slice_())
    flaky = Flaky(node.tables, 2, seed)
    node.forget(make.service())
    while node.controller.reconcile().failed:
        pass
    flaky.out_of = 0
    assert node.lines() == []
    assert not dict(node.tables.names.items())


def test_counts_for_people(node: Node) -> None:
    node.tell(make.service(ports=[make.port(1, "a"), make.port(2, "b")]), make.slice_())
    assert node.controller.status().pending == 1
    node.controller.work()
    assert node.controller.status() == Status(
        services=1,
        slices=1,
        ports=2,
        pending=0,
        service_changes=1,
        endpoint_changes=1,
        writes=5,
    )


def test_slices_that_contradict_each_other_are_settled_alike_in_any_order(node: Node) -> None:
    here = make.slice_([make.endpoint("10.1.0.1", "node-a")], name="web-1")
    there = make.slice_([make.endpoint("10.1.0.1", "node-b")], name="web-2")
    before = node.sync(make.service(), here, there)
    assert node.sync(make.slice_(name="web-1", endpoints=[])) != before
    assert node.sync(here) == before
    assert Node().sync(make.service(), there, here) == before


def test_many_services_that_do_not_fit_do_not_hold_up_the_others() -> None:
    clock = Clock()
    tables = fake_tables({"frontends": 4})
    controller = ServicesController(tables, "node-a", clock=clock)
    for n in range(2 * FEW):
        model = make.model(make.service(f"s{n}", f"10.96.{n >> 8}.{n & 255}"))
        controller.changed(model.key, model)
    with pytest.raises(Retry, match=f"{2 * FEW - 2} Service ports not written"):
        controller.work()
    slice_ = make.model(make.slice_(of="s0"))
    controller.changed(slice_.key, slice_)
    report = controller.reconcile()
    assert (report.writes > 0, report.failed) == (True, {})
    # What failed is not forgotten meanwhile, and does not count as late: no time cures it.
    assert controller.status().pending == 2 * FEW - 2
    assert controller.status().oldest_pending == 0.0
    with pytest.raises(Retry):
        controller.work()
    clock.now += AGAIN_SEC
    assert len(controller.reconcile().failed) == 2 * FEW - 2


OBJECTS = st.one_of(
    st.builds(
        make.service,
        name=st.sampled_from("abc"),
        ip=st.sampled_from(["10.96.0.1", "10.96.0.2", "None", ["10.96.0.1", "fd96::1"]]),
        ports=st.sampled_from(
            [
                [80],
                [81],
                [make.port(80, nodePort=30080)],
                [make.port(80, "h", nodePort=30080), make.port(82, "m", nodePort=30082)],
                [make.port(53, "u", "UDP"), make.port(53, "t")],
                [make.port(9, "s", "SCTP")],
            ]
        ),
        type=st.sampled_from(["NodePort", "LoadBalancer", "LoadBalancer"]),
        ingress=st.sampled_from([[], ["203.0.113.1"], ["203.0.113.1", "2001:db8::1"]]),
        externalIPs=st.sampled_from([[], ["203.0.113.1"], ["10.96.0.1"]]),
        loadBalancerSourceRanges=st.sampled_from(
            [[], ["192.0.2.0/24"], ["10.0.0.0/8", "192.0.2.128/25"], ["0.0.0.0/0"]]
        ),
        externalTrafficPolicy=st.sampled_from(["Cluster", "Local"]),
        created=st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        sessionAffinity=st.sampled_from(["None", "ClientIP"]),
        internalTrafficPolicy=st.sampled_from(["Cluster", "Local"]),
    ),
    st.builds(
        make.slice_,
        endpoints=st.lists(
            st.builds(
                make.endpoint,
                address=st.sampled_from([f"10.1.0.{n}" for n in range(1, 5)]),
                node=st.sampled_from(["node-a", "node-b"]),
                ready=st.booleans(),
                serving=st.booleans(),
                terminating=st.booleans(),
                zones=st.sampled_from([[], ["zone-a"], ["zone-b"]]),
            ),
            max_size=4,
        ),
        of=st.sampled_from("abc"),
        name=st.sampled_from(["s1", "s2", "s3"]),
        ports=st.sampled_from(
            [[8080], [make.port(53, "u", "UDP"), make.port(5353, "t")], [make.port(9, "s", "SCTP")]]
        ),
    ),
    st.builds(
        make.node,
        zone=st.sampled_from(["", "zone-a", "zone-b"]),
        addresses=st.sampled_from([["192.168.0.1"], ["192.0.2.1"]]),
    ),
)


@given(
    steps=st.lists(
        st.tuples(OBJECTS, st.sampled_from(["tell", "tell", "tell", "forget", "sync"])),
        max_size=14,
    ),
    out_of=st.sampled_from((0, 10)),
    seed=st.integers(0, 1000),
)
def test_any_history_ends_as_a_first_run_on_its_last_state(
    steps: list[tuple[make.Raw, str]], out_of: int, seed: int
) -> None:
    node = Node()
    state: dict[Key, make.Raw] = {}
    flaky = Flaky(node.tables, out_of, seed)
    for raw, what in steps:
        key = make.model(raw).key
        if what == "forget":
            state.pop(key, None)
            node.forget(raw)
        else:
            state[key] = raw
            node.tell(raw)
        if what == "sync":
            node.controller.reconcile()
    for _ in range(100):
        if not node.controller.reconcile().failed:
            break
    flaky.out_of = 0
    fresh = Node()
    assert node.lines() == fresh.sync(*state.values())
    assert range_lines(node.tables) == range_lines(fresh.tables)
    assert node_port_lines(node.tables) == node_port_lines(fresh.tables)
    assert whole_lines(node.tables) == whole_lines(fresh.tables)
    assert node.problems() == fresh.problems()
    again = Node(node.tables)
    again.tell(*state.values())
    assert again.controller.reconcile().writes == 0
