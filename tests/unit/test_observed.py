"""What Prometheus scrapes: names, labels and numbers."""

from __future__ import annotations

import time
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controllers import kubeproxy, observed
from controllers.flows import Swept
from controllers.health import FAMILIES, Health
from controllers.kubeproxy import PROGRAMMING_BUCKETS, Timings
from controllers.observed import Observed
from controllers.services import Status
from kpbpf.errors import Problem
from kpbpf.metrics import Metrics
from kpbpf.web import Request
from maps import show
from maps.abi import VERDICTS, Counter, Hook, State, Verdict
from maps.fake import FakeTables, fake_tables
from maps.layout import U32


class Reflector(NamedTuple):
    resource: str
    synced: bool
    objects: int
    lists: int
    watches: int
    failures: int
    last_heard: float


class Pod(NamedTuple):
    found: str
    why_not: str


class Scrape:
    """The series that a scrape would find."""

    def __init__(self) -> None:
        self.tables: FakeTables = fake_tables()
        self.seen = Observed(started=1000.0, version="1.2.3")
        self.health = Health(30.0, needs_node=True)
        self.metrics = Metrics(
            lambda: [
                *kubeproxy.families(self.seen, self.health, time.time()),
                *observed.families(self.tables, self.seen),
            ]
        )
        self.timings = Timings(self.metrics)

    def __getitem__(self, series: str) -> float:
        """By name and labels, the labels as in `name{a=1,b=2}`, sorted by name."""
        found = self.all()
        assert series in found, f"{series} is not among {sorted(found)}"
        return found[series]

    def __contains__(self, series: str) -> bool:
        return series in self.all()

    def all(self) -> dict[str, float]:
        answer = self.metrics.answer(Request("GET", "/metrics", {}, {}))
        found = {}
        for family in text_string_to_metric_families(answer.body.decode()):
            for sample in family.samples:
                labels = ",".join(f"{key}={sample.labels[key]}" for key in sorted(sample.labels))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found


@pytest.fixture
def scrape() -> Scrape:
    return Scrape()


# ---- kpbpf_* ----------------------------------------------------------------------------------


def test_the_version_is_a_label(scrape: Scrape) -> None:
    assert scrape["kpbpf_build_info{version=1.2.3}"] == 1


def test_packets_are_counted_by_hook_and_verdict(scrape: Scrape) -> None:
    slot = U32(Hook.FROM_POD * VERDICTS + Verdict.DROP_NO_BACKEND)
    cpus = len(scrape.tables.counters.get(slot) or [])
    scrape.tables.counters.put(slot, [Counter(3, 180)] * cpus)
    refused = "{hook=from_pod,verdict=no_backend}"
    assert scrape[f"kpbpf_packets_total{refused}"] == 3 * cpus
    assert scrape[f"kpbpf_bytes_total{refused}"] == 180 * cpus
    assert scrape["kpbpf_packets_total{hook=to_pod,verdict=short}"] == 0


def test_problems_are_counted_by_kind(scrape: Scrape) -> None:
    scrape.seen.problems = [
        Problem("a.yaml", "Service default/web", "spec", "x", "y"),
        Problem("a.yaml", "the whole file", "", "x", "y"),
    ]
    assert scrape["kpbpf_object_problems{kind=Service}"] == 1
    assert scrape["kpbpf_object_problems{kind=file}"] == 1
    assert scrape["kpbpf_object_problems{kind=Node}"] == 0


def test_maps_tell_how_full_they_are(scrape: Scrape) -> None:
    scrape.tables.affinities.put_raw(bytes(24), bytes(32))
    scrape.seen.maps = show.map_usage(scrape.tables)
    entries = scrape.tables.affinities.spec.entries
    assert scrape["kpbpf_map_entries{map=affinities}"] == 1
    assert scrape["kpbpf_map_capacity{map=affinities}"] == entries
    assert scrape["kpbpf_map_pressure_ratio{map=affinities}"] == pytest.approx(1 / entries)
    assert "kpbpf_map_entries{map=counters}" not in scrape, "all slots of an array are there"


def test_a_sync_tells_when_and_what_still_fails(scrape: Scrape) -> None:
    assert scrape["kpbpf_synced"] == 0
    seen = scrape.seen
    seen.synced, seen.last_sync, seen.retried = True, 2000.0, {"manifests": 3}
    seen.services = Status(services=7, slices=0, ports=0, pending=2)
    assert scrape["kpbpf_synced"] == 1
    assert scrape["kpbpf_last_sync_timestamp_seconds"] == 2000
    assert scrape["kpbpf_failing_attempts{work=manifests}"] == 3
    assert scrape["kpbpf_services"] == 7
    assert scrape["kpbpf_services_pending"] == 2


def test_flows_are_told_by_protocol_and_state_also_those_that_there_are_none_of(
    scrape: Scrape,
) -> None:
    established = (6, int(State.TCP_ESTABLISHED))
    scrape.seen.take_sweep(Swept(3, {established: 5, (50, int(State.OTHER)): 1, (6, 77): 2}, {}))
    scrape.seen.take_sweep(Swept(4, {established: 6, (50, int(State.OTHER)): 1, (6, 77): 2}, {}))
    assert scrape["kpbpf_flows{protocol=TCP,state=tcp_established}"] == 6
    assert scrape["kpbpf_flows{protocol=TCP,state=tcp_new}"] == 0
    assert scrape["kpbpf_flows{protocol=ICMPv6,state=icmp}"] == 0
    assert scrape["kpbpf_flows{protocol=50,state=other}"] == 1
    assert scrape["kpbpf_flows{protocol=TCP,state=state 77}"] == 2
    assert "kpbpf_flows{protocol=UDP,state=tcp_new}" not in scrape
    assert scrape["kpbpf_flows_swept_total"] == 7


def test_chosen_services_tell_their_connections_and_no_others_do(scrape: Scrape) -> None:
    assert not [series for series in scrape.all() if "service_connections" in series]
    scrape.seen.own_services = {1: "default/web", 2: "default/web", 3: "default/idle"}
    scrape.seen.take_sweep(Swept(0, {}, {1: 5, 2: 6, 4: 100}))
    found = {key: value for key, value in scrape.all().items() if "service_connections" in key}
    assert found == {
        "kpbpf_service_connections{service_name=web,service_namespace=default}": 11,
        "kpbpf_service_connections{service_name=idle,service_namespace=default}": 0,
    }


def test_reflectors_are_asked_at_the_scrape(scrape: Scrape) -> None:
    now = time.time()
    scrape.seen.started = now - 50
    scrape.seen.reflectors = lambda: (
        Reflector("services", True, 12, 2, 3, 1, now - 7),
        Reflector("endpointslices", False, 0, 0, 0, 9, 0.0),
    )
    assert scrape["kpbpf_reflector_synced{resource=services}"] == 1
    assert scrape["kpbpf_reflector_objects{resource=services}"] == 12
    assert scrape["kpbpf_reflector_lists_total{resource=services}"] == 2
    assert scrape["kpbpf_reflector_watches_total{resource=services}"] == 3
    assert scrape["kpbpf_reflector_failures_total{resource=endpointslices}"] == 9
    assert 7 <= scrape["kpbpf_reflector_silence_seconds{resource=services}"] < 30
    assert 50 <= scrape["kpbpf_reflector_silence_seconds{resource=endpointslices}"] < 80


def test_pods_are_told_by_how_they_were_found_or_that_they_were_not(scrape: Scrape) -> None:
    scrape.seen.pods = [Pod("route", ""), Pod("route", ""), Pod("", "no route"), Pod("route", "x")]
    scrape.seen.reattachments = 4
    assert scrape["kpbpf_pods_attached{found=route}"] == 2
    assert scrape["kpbpf_pods_attached{found=prefix}"] == 0
    assert scrape["kpbpf_pods_not_attached"] == 2
    assert scrape["kpbpf_reattachments_total"] == 4


def test_loads_swaps_and_lost_events_are_counted(scrape: Scrape) -> None:
    scrape.seen.program_loads, scrape.seen.program_swaps = 1, 40
    scrape.seen.events_dropped = lambda: 3
    assert scrape["kpbpf_program_loads_total"] == 1
    assert scrape["kpbpf_program_swaps_total"] == 40
    assert scrape["kpbpf_events_dropped_total"] == 3


# ---- kubeproxy_* ------------------------------------------------------------------------------


def test_changes_are_counted_as_by_kube_proxy(scrape: Scrape) -> None:
    scrape.seen.services = Status(
        services=1,
        slices=1,
        ports=1,
        pending=3,
        service_changes=10,
        endpoint_changes=20,
        service_changes_pending=1,
        endpoint_changes_pending=2,
        no_local_internal=4,
        no_local_external=5,
    )
    prefix = "kubeproxy_sync_proxy_rules"
    assert scrape[f"{prefix}_service_changes_total"] == 10
    assert scrape[f"{prefix}_endpoint_changes_total"] == 20
    assert scrape[f"{prefix}_service_changes_pending"] == 1
    assert scrape[f"{prefix}_endpoint_changes_pending"] == 2
    assert scrape[f"{prefix}_no_local_endpoints_total{{traffic_policy=internal}}"] == 4
    assert scrape[f"{prefix}_no_local_endpoints_total{{traffic_policy=external}}"] == 5


def test_times_of_syncs_are_those_of_both_families(scrape: Scrape) -> None:
    scrape.seen.last_sync, scrape.seen.last_queued = 2000.0, 2001.0
    scrape.seen.synced = True
    scrape.health.queued()
    for family in FAMILIES:
        label = f"{{ip_family={family}}}"
        prefix = "kubeproxy_sync_proxy_rules_last"
        assert scrape[f"{prefix}_timestamp_seconds{label}"] == 2000
        assert scrape[f"{prefix}_queued_timestamp_seconds{label}"] == 2001


def test_the_last_sync_is_now_while_nothing_waits(scrape: Scrape) -> None:
    last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=IPv4}"
    scrape.seen.last_sync = 2000.0
    assert scrape[last] == 2000, "nothing was ever in sync"
    scrape.seen.synced = True
    assert abs(scrape[last] - time.time()) < 60
    assert scrape["kpbpf_last_sync_timestamp_seconds"] == 2000


def test_probes_are_counted_by_code(scrape: Scrape) -> None:
    scrape.health.healthz()
    scrape.health.livez()
    scrape.health.livez()
    assert scrape["kubeproxy_proxy_healthz_total{code=200}"] == 1
    assert scrape["kubeproxy_proxy_healthz_total{code=503}"] == 0
    assert scrape["kubeproxy_proxy_livez_total{code=200}"] == 2


def test_a_sync_is_full_or_partial_and_counts_among_all(scrape: Scrape) -> None:
    scrape.timings.synced(0.003, full=True)
    scrape.timings.synced(0.0005, full=False)
    scrape.timings.synced(0.0005, full=False)
    for family in FAMILIES:
        label = f"{{ip_family={family}}}"
        assert scrape[f"kubeproxy_sync_proxy_rules_duration_seconds_count{label}"] == 3
        assert scrape[f"kubeproxy_sync_full_proxy_rules_duration_seconds_count{label}"] == 1
        assert scrape[f"kubeproxy_sync_partial_proxy_rules_duration_seconds_count{label}"] == 2
        bucket = f"kubeproxy_sync_proxy_rules_duration_seconds_bucket{{ip_family={family},le="
        assert (scrape[bucket + "0.001}"], scrape[bucket + "0.004}"]) == (2, 3)
    assert scrape["kpbpf_sync_duration_seconds_count"] == 3


def test_buckets_are_kube_proxys(scrape: Scrape) -> None:
    name = "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=IPv4,le="
    bounds = [key.removeprefix(name)[:-1] for key in scrape.all() if key.startswith(name)]
    assert len(bounds) == 16
    assert (bounds[0], bounds[-2], bounds[-1]) == ("0.001", "16.384", "+Inf")
    assert len(PROGRAMMING_BUCKETS) == 2 + 59 + 12 + 7
    assert list(PROGRAMMING_BUCKETS) == sorted(set(PROGRAMMING_BUCKETS))
    assert (PROGRAMMING_BUCKETS[0], PROGRAMMING_BUCKETS[-1]) == (0.25, 300)


def test_programming_is_timed_from_what_triggered_it(scrape: Scrape) -> None:
    scrape.timings.programmed([1000.0, 1001.7, 1003.0], now=1002.0)
    prefix = "kubeproxy_network_programming_duration_seconds"
    assert scrape[f"{prefix}_count{{ip_family=IPv6}}"] == 3
    assert scrape[f"{prefix}_bucket{{ip_family=IPv6,le=0.25}}"] == 1, "the clocks differ"
    assert scrape[f"{prefix}_sum{{ip_family=IPv6}}"] == pytest.approx(2.3)
