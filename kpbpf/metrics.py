"""The metrics endpoint: what is offered to Prometheus, and the server that offers it.

The only module that knows prometheus-client. Numbers that live elsewhere (maps, status) are read
when somebody scrapes, by a function that the daemon hands in; only durations are kept here.
"""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import CollectorRegistry, Metric


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
        server = _server(host, port, self.registry)
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return Server(server.server_port, stop)


class Server(NamedTuple):
    """A running metrics server."""

    port: int
    stop: Callable[[], None]


def _server(host: str, port: int, registry: "CollectorRegistry") -> "WSGIServer":
    """Bind an HTTP server that never asks DNS, not even for this machine's own name.

    What the standard library and prometheus-client offer does, and would keep the daemon waiting
    on a node whose DNS is a Service that it has not served yet.
    """
    from socketserver import TCPServer, ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    from prometheus_client import make_wsgi_app

    class Http(ThreadingMixIn, WSGIServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

        def server_bind(self) -> None:
            TCPServer.server_bind(self)
            self.server_name, self.server_port = host, self.server_address[1]
            self.setup_environ()

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    server = Http((host, port), Quiet)
    server.set_app(make_wsgi_app(registry))
    return server


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
