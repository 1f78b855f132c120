"""What Prometheus scrapes: names, labels and numbers."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import generate_latest

from controllers.observed import Observed, families
from kpbpf.errors import Problem
from kpbpf.metrics import Metrics
from maps import show
from maps.abi import VERDICTS, Counter, Hook, Verdict
from maps.fake import FakeTables, fake_tables
from maps.layout import U32


@pytest.fixture
def seen() -> Observed:
    return Observed(started=1000.0)


@pytest.fixture
def scrape(seen: Observed) -> tuple[FakeTables, Scrape]:
    tables = fake_tables()
    return tables, Scrape(Metrics(lambda: families(tables, seen)))


class Scrape:
    """The series that a scrape would find."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def __getitem__(self, series: str) -> float:
        for line in generate_latest(self.metrics.registry).decode().splitlines():
            name, _, number = line.rpartition(" ")
            if name == series:
                return float(number)
        raise KeyError(series)


def test_prometheus_gets_it_by_http(scrape: tuple[FakeTables, Scrape]) -> None:
    server = scrape[1].metrics.serve("127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer:
            assert b"\nkpbpf_synced 0.0\n" in answer.read()
    finally:
        server.stop()


def test_packets_are_counted_by_hook_and_verdict(scrape: tuple[FakeTables, Scrape]) -> None:
    tables, scraped = scrape
    slot = U32(Hook.FROM_POD * VERDICTS + Verdict.DROP_NO_BACKEND)
    cpus = len(tables.counters.get(slot) or [])
    tables.counters.put(slot, [Counter(3, 180)] * cpus)
    refused = '{hook="from_pod",verdict="no_backend"}'
    assert scraped[f"kpbpf_packets_total{refused}"] == 3 * cpus
    assert scraped[f"kpbpf_bytes_total{refused}"] == 180 * cpus
    assert scraped['kpbpf_packets_total{hook="to_pod",verdict="short"}'] == 0


def test_problems_are_counted_by_kind(scrape: tuple[FakeTables, Scrape], seen: Observed) -> None:
    seen.problems = [
        Problem("a.yaml", "Service default/web", "spec", "x", "y"),
        Problem("a.yaml", "the whole file", "", "x", "y"),
    ]
    _, scraped = scrape
    assert scraped['kpbpf_object_problems{kind="Service"}'] == 1
    assert scraped['kpbpf_object_problems{kind="file"}'] == 1
    assert scraped['kpbpf_object_problems{kind="Node"}'] == 0


def test_maps_tell_how_full_they_are(scrape: tuple[FakeTables, Scrape], seen: Observed) -> None:
    tables, scraped = scrape
    seen.maps = show.map_usage(tables)
    assert scraped['kpbpf_map_entries{map="frontends"}'] == 0
    assert scraped['kpbpf_map_capacity{map="frontends"}'] == tables.frontends.spec.entries
    with pytest.raises(KeyError):
        scraped['kpbpf_map_entries{map="counters"}']


def test_a_sync_tells_when_and_what_still_fails(
    scrape: tuple[FakeTables, Scrape], seen: Observed
) -> None:
    _, scraped = scrape
    assert scraped["kpbpf_synced"] == 0
    seen.synced, seen.last_sync, seen.retried = True, 2000.0, {"manifests": 3}
    assert scraped["kpbpf_synced"] == 1
    assert scraped["kpbpf_last_sync_timestamp_seconds"] == 2000
    assert scraped['kpbpf_failing_attempts{work="manifests"}'] == 3
