"""kube-proxy's own metrics, under its names, so that dashboards made for it work (SEMANTICS A.8).

Left out is what has no meaning here: rules of iptables and nftables, and the conntrack reconciler,
which deletes connections whose backend is gone: ours are judged again by the programs, and none is
deleted for it. `kpbpf_flows_swept_total` counts those that timed out, which is another thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from controllers.health import FAMILIES, Health
from controllers.observed import Observed
from kpbpf.metrics import Durations, Family, Metrics

SYNC_BUCKETS = tuple(0.001 * 2**power for power in range(15))

PROGRAMMING_BUCKETS = (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))


class Timings:
    """The histograms: how long it took. One sync of ours writes both families, counts in both."""

    def __init__(self, metrics: Metrics) -> None:
        def both(name: str, about: str, buckets: Sequence[float]) -> Durations:
            return metrics.durations(f"kubeproxy_{name}", about, buckets, "ip_family", FAMILIES)

        about = "Time to write what changed into the maps"
        self._any = both("sync_proxy_rules_duration_seconds", f"{about}.", SYNC_BUCKETS)
        self._full = both(
            "sync_full_proxy_rules_duration_seconds",
            f"{about}, when everything is compared: after a start.",
            SYNC_BUCKETS,
        )
        self._partial = both(
            "sync_partial_proxy_rules_duration_seconds",
            f"{about}, when only what changed is looked at.",
            SYNC_BUCKETS,
        )
        self._programming = both(
            "network_programming_duration_seconds",
            "Time from a change of a pod or Service, as the EndpointSlice tells it, to the maps.",
            PROGRAMMING_BUCKETS,
        )
        self._sync = metrics.durations(
            "kpbpf_sync_duration_seconds",
            "Time from taking up changed objects to having them in the kernel's maps.",
            SYNC_BUCKETS,
        )

    def synced(self, seconds: float, full: bool) -> None:
        """Count a sync that wrote all there was to write; `full`: the first one."""
        self._sync.observe(seconds)
        self._any.observe(seconds)
        (self._full if full else self._partial).observe(seconds)

    def programmed(self, triggers: Iterable[float], now: float) -> None:
        """Count changes that are in the maps now, by when they began; both are time.time().

        ServicesController.programmed() tells them. The clocks of two machines differ: what seems
        to lie ahead took no time.
        """
        for triggered in triggers:
            self._programming.observe(max(0.0, now - triggered))


def families(seen: Observed, health: Health, now: float) -> Iterator[Family]:
    """Everything but durations. `now` is time.time()."""
    changes = seen.services
    sync = "kubeproxy_sync_proxy_rules"
    # kube-proxy writes every 30 s even if nothing changed, and alerts made for it count on that.
    about = "When the maps last held all that was known: now, while nothing waits to be written."
    last_whole = now if seen.synced and not health.waiting() else seen.last_sync
    yield _both(f"{sync}_last_timestamp_seconds", about, last_whole)
    about = "When something to write was last heard of."
    yield _both(f"{sync}_last_queued_timestamp_seconds", about, seen.last_queued)
    for objects, total, pending in (
        ("endpoint", changes.endpoint_changes, changes.endpoint_changes_pending),
        ("service", changes.service_changes, changes.service_changes_pending),
    ):
        about = f"Changes of {objects}s that are not in the maps yet."
        yield _one(f"{sync}_{objects}_changes_pending", about, "gauge", pending)
        about = f"Changes of {objects}s that were heard of."
        yield _one(f"{sync}_{objects}_changes", about, "counter", total)
    without = {"internal": changes.no_local_internal, "external": changes.no_local_external}
    yield Family(
        f"{sync}_no_local_endpoints_total",
        "Services that have endpoints, but none on this node where their traffic policy is Local.",
        "gauge",
        ("traffic_policy",),
        [((policy,), number) for policy, number in without.items()],
    )
    for name, codes in (("healthz", health.healthz_codes), ("livez", health.livez_codes)):
        answered = [((str(code),), number) for code, number in sorted(codes.items())]
        about = f"Answers to /{name}, by their HTTP status."
        yield Family(f"kubeproxy_proxy_{name}", about, "counter", ("code",), answered)


def _both(name: str, about: str, number: float) -> Family:
    """Make a gauge of which both families have the same."""
    return Family(name, about, "gauge", ("ip_family",), [((one,), number) for one in FAMILIES])


def _one(name: str, about: str, kind: Literal["counter", "gauge"], number: float) -> Family:
    return Family(name, about, kind, (), [((), number)])
