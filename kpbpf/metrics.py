"""The metrics endpoint: what is offered to Prometheus, and the server that offers it.

The only module that knows prometheus-client. Numbers that live elsewhere (maps, status) are read
when somebody scrapes, by a function that the daemon hands in; only durations are kept here.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from prometheus_client import Metric


class Family(NamedTuple):
    """Samples of one name: (label values, number) pairs. Counters get "_total" by themselves."""

    name: str
    about: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    samples: Iterable[tuple[tuple[str, ...], float]]


Read = Callable[[], Iterable[Family]]

_SYNC_BUCKETS = tuple(0.001 * 2**power for power in range(15))


class Metrics:
    """A registry of this daemon's own, so that several can live in one test process."""

    def __init__(self, read: Read) -> None:
        from prometheus_client import CollectorRegistry, Histogram, ProcessCollector

        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Live(read))
        ProcessCollector(registry=self.registry)
        self.sync_seconds = Histogram(
            "kpbpf_sync_duration_seconds",
            "Time from taking up changed objects to having them in the kernel's maps.",
            buckets=_SYNC_BUCKETS,
            registry=self.registry,
        )

    def serve(self, host: str, port: int) -> "Server":
        """Answer scrapes in a thread until stopped; OSError when the address cannot be bound."""
        from prometheus_client import start_http_server

        server, thread = start_http_server(port, host, self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return Server(server.server_port, stop)


class Server(NamedTuple):
    """A running metrics server."""

    port: int
    stop: Callable[[], None]


class _Live:
    """Turns families, read at the moment of a scrape, into what prometheus-client wants."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for family in self._read():
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(family.name, family.about, labels=family.labels)
            for labels, number in family.samples:
                metric.add_metric(labels, number)
            yield metric
