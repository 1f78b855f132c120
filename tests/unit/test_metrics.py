"""How metrics get to Prometheus: formats, packing, histograms."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kpbpf.metrics import Family, Metrics
from kpbpf.web import Request


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(
        lambda: [
            Family("kpbpf_things", "Things.", "counter", ("kind",), [(("a",), 1), (('"\n\\',), 2)]),
            Family("kpbpf_state_total", "A gauge by its type.", "gauge", (), [((), 0.5)]),
        ]
    )
    made.durations("kpbpf_work_seconds", "Work.", (0.1, 1), "ip_family", ("IPv4", "IPv6"))
    return made


def scrape(metrics: Metrics, headers: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Content type, and text."""
    answer = metrics.answer(Request("GET", "/metrics", {}, headers or {}))
    assert answer.code == 200
    packed = ("Content-Encoding", "gzip") in answer.headers
    body = gzip.decompress(answer.body) if packed else answer.body
    return answer.content_type, body.decode()


def test_a_scrape_is_what_prometheus_reads(metrics: Metrics) -> None:
    content_type, text = scrape(metrics)
    assert content_type.startswith("text/plain; version=")
    families = {family.name: family for family in parse_text(text)}
    things = families["kpbpf_things"]
    assert [(sample.labels["kind"], sample.value) for sample in things.samples] == [
        ("a", 1),
        ('"\n\\', 2),
    ]
    assert families["kpbpf_state_total"].type == "gauge"


def test_openmetrics_is_spoken_to_whoever_asks_for_it(metrics: Metrics) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"
    content_type, text = scrape(metrics, {"accept": accept})
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert families["kpbpf_things"].type == "counter"
    assert families["kpbpf_work_seconds"].type == "histogram"


@pytest.mark.parametrize("accept", ["*/*", "", "application/openmetrics-text;version=x", ";;,,=;"])
def test_whatever_else_is_accepted_gets_plain_text(metrics: Metrics, accept: str) -> None:
    content_type, text = scrape(metrics, {"accept": accept})
    assert content_type.startswith("text/plain; version=")
    assert list(parse_text(text))


def test_it_is_packed_for_clients_that_unpack(metrics: Metrics) -> None:
    request = Request("GET", "/metrics", {}, {"accept-encoding": "gzip"})
    answer = metrics.answer(request)
    assert ("Content-Encoding", "gzip") in answer.headers
    assert "kpbpf_things_total" in gzip.decompress(answer.body).decode()


def test_a_histogram_counts_under_every_value_of_its_label() -> None:
    metrics = Metrics(list)
    work = metrics.durations("kpbpf_work_seconds", "Work.", (0.1, 1), "ip_family", ("IPv4", "IPv6"))
    work.observe(0.5)
    _, text = scrape(metrics)
    samples = {
        (sample.name, sample.labels.get("ip_family"), sample.labels.get("le")): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }
    for family in ("IPv4", "IPv6"):
        assert samples["kpbpf_work_seconds_bucket", family, "0.1"] == 0
        assert samples["kpbpf_work_seconds_bucket", family, "1.0"] == 1
        assert samples["kpbpf_work_seconds_sum", family, None] == 0.5
    assert not any(name.endswith("_created") for name, *_ in samples)
