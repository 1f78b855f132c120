"""Whatever comes and goes in whatever order: the maps end up with the pods that can be located."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from controllers.endpoints import Force
from kpbpf.address import from_text, to_text
from kpbpf.datapath.monitor import News
from kpbpf.errors import Retry
from kpbpf.model.objects import Key, Pod
from tests.unit.pods import Node, pod

IPS = [f"10.0.0.{i}" for i in range(4)]
NAMES = ["a", "b", "c"]

names = st.sampled_from(NAMES)


class Interleaved(RuleBasedStateMachine):
    """Pods and interfaces come and go; the daemon works, restarts, is told, or is not."""

    def __init__(self) -> None:
        super().__init__()
        self._run = tempfile.TemporaryDirectory()
        self.node = Node(Path(self._run.name))
        self.api: dict[str, Pod] = {}
        self.ifindex = 10

    def teardown(self) -> None:
        """In the end all news has come, and time passes."""
        try:
            self.read_all()
            self.node.settle(200)
            self.check()
        finally:
            self._run.cleanup()

    def check(self) -> None:
        """Every address that leads to an interface is served there, under its pod's name."""
        claimed: dict[bytes, str] = {}
        for name, one in self.api.items():
            claimed.update(dict.fromkeys(one.addresses, name))
        wanted: dict[int, set[bytes]] = {}
        for ifindex, veth in self.node.veths.items():
            own = {address for address in veth.addresses if address in claimed}
            if own:
                wanted[ifindex] = own
        served = self.node.served()
        assert {index: ips for index, (_, ips) in served.items()} == wanted
        for name, ips in served.values():
            assert {f"found=route pod=default/{claimed[ip]}" for ip in ips} == {name}
        assert self.node.programs == dict.fromkeys(wanted, Force.TODAY)

    @initialize()
    def pods_run(self) -> None:
        for name in NAMES:
            self.pod_starts(name, 0)
        self.node.settle(1)

    @rule(name=names, uid=st.integers(0, 9))
    def pod_starts(self, name: str, uid: int) -> None:
        """As usual: an interface, and then the API names the pod."""
        ip = next(ip for ip in IPS if ip not in self._ips_in_use(but=name))
        self.interface_comes(ip)
        self._now(pod(name, ip, uid=str(uid)))

    @rule(name=names, uid=st.integers(0, 1))
    def pod_changes(self, name: str, uid: int) -> None:
        """Pods have an address each, so that no two pods are on one interface for good."""
        free = [ip for ip in IPS if ip not in self._ips_in_use(but=name)]
        self._now(pod(name, *free[:1], uid=str(uid)))

    def _ips_in_use(self, but: str) -> set[str]:
        return {
            to_text(address)
            for name, one in self.api.items()
            if name != but
            for address in one.addresses
        }

    @rule(name=names)
    def pod_loses_its_address(self, name: str) -> None:
        if name in self.api:
            self._now(self.api[name]._replace(finished=True))

    @rule(name=names)
    def pod_goes(self, name: str) -> None:
        self.api.pop(name, None)
        self.node.pods.changed(Key("Pod", "default", name), None)

    def _now(self, one: Pod) -> None:
        self.node.tell(one)
        self.api.pop(one.name, None)
        if not one.finished:
            self.api[one.name] = one

    @rule(ip=st.sampled_from(IPS))
    def interface_comes(self, ip: str) -> None:
        """An address leads to one interface, as a route does: to the newest."""
        for index, veth in list(self.node.veths.items()):
            if from_text(ip) in veth.addresses:
                self.node.gone(index)
        self.ifindex += 1
        self.node.veth(self.ifindex, ip)

    @rule(nth=st.integers(0, 5))
    def interface_goes(self, nth: int) -> None:
        if self.node.veths:
            self.node.gone(sorted(self.node.veths)[nth % len(self.node.veths)])

    @rule(nth=st.integers(0, 5))
    def programs_are_removed(self, nth: int) -> None:
        if self.node.programs:
            index = sorted(self.node.programs)[nth % len(self.node.programs)]
            self.node.programs[index] = Force.REMOVED

    @rule(every=st.sampled_from([0, 3, 5]))
    def writes_fail(self, every: int) -> None:
        self.node.tables.fail_every(every)

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.node.now + seconds
        while self.node.now < end:
            try:
                self.node.settle(end - self.node.now)
            except (Retry, OSError):  # a write that failed: the loop would come back
                self.node.now += 0.2

    @rule()
    def news_is_lost(self) -> None:
        self.node.pods.heard(News(everything=True))

    @rule()
    def daemon_restarts(self) -> None:
        """The new one is told of all pods there are, in no order that means anything."""
        self.node.restart()
        self.node.tell(*(self.api[name] for name in sorted(self.api)))

    @rule()
    def read_all(self) -> None:
        self.node.tables.fail_every(0)
        self.node.pods.synced()

    @invariant()
    def a_known_address_leads_to_one_endpoint(self) -> None:
        addresses = [ip for _, ips in self.node.served().values() for ip in ips]
        assert len(addresses) == len(set(addresses))


TestInterleaved = Interleaved.TestCase
TestInterleaved.settings = settings(stateful_step_count=60)
