"""What is offered to Prometheus, and in which words it wants it.

The only module that knows prometheus-client. Numbers that live elsewhere (maps, the daemon's
notes) are read when somebody scrapes, by a function that the daemon hands in; only durations are
kept here. Which metrics there are is not known here, nor how they get to whoever asks.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from kpbpf.web import Answer, Request

if TYPE_CHECKING:
    from prometheus_client import Histogram, Metric


class Family(NamedTuple):
    """Samples of one name: (label values, number) pairs. Counters get "_total" by themselves."""

    name: str
    about: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    samples: Iterable[tuple[tuple[str, ...], float]]


Read = Callable[[], Iterable[Family]]


class Durations:
    """A histogram of seconds, written from any thread; each is counted under every label value."""

    def __init__(self, series: Sequence[Histogram]) -> None:
        self._series = series

    def observe(self, seconds: float) -> None:
        """Count one."""
        for one in self._series:
            one.observe(seconds)


class Metrics:
    """A registry of this daemon's own, so that several can live in one test process."""

    def __init__(self, read: Read) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

        # A series more for each histogram, which nobody asks for. It has no annotations.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Live(read))
        ProcessCollector(registry=self.registry)

    def durations(
        self,
        name: str,
        about: str,
        buckets: Sequence[float],
        label: str = "",
        values: Sequence[str] = (),
    ) -> Durations:
        """Make a histogram; with a label, one for each of its values, from the start."""
        from prometheus_client import Histogram

        labels = (label,) if label else ()
        made = Histogram(name, about, labels, buckets=buckets, registry=self.registry)
        return Durations([made.labels(value) for value in values] if label else [made])

    def answer(self, request: Request) -> Answer:
        """Answer a scrape in the format that was asked for, packed if the client unpacks."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
        from prometheus_client.exposition import choose_encoder, gzip_accepted

        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except (ValueError, TypeError):  # a version that is no number
            encode, content_type = generate_latest, CONTENT_TYPE_LATEST
        body = encode(self.registry)
        if not gzip_accepted(request.headers.get("accept-encoding", "")):
            return Answer(200, body, content_type)
        packed = gzip.compress(body, compresslevel=1)
        return Answer(200, packed, content_type, (("Content-Encoding", "gzip"),))


class _Live:
    """Turns families, read at the moment of a scrape, into what prometheus-client wants."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for family in self._read():
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(family.name, family.about, labels=family.labels)
            for labels, number in family.samples:
                metric.add_metric(labels, number)
            yield metric
