"""An invented cluster of any size, and changes to it at a rate, for measurements.

Objects have what a real cluster's have, managedFields included, so that their sizes are true.
Each change is time-stamped with CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.cluster.resources import Raw, by_name
from tests.cluster.store import Store

TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
TARGET_PORT, SERVICE_PORT = 8080, 80
_SLICES = by_name("endpointslices")
_STARTED = "2026-01-01T00:00:00Z"


class Shape(NamedTuple):
    """The size of a cluster; endpoints are of each Service, on nodes of 100 pods."""

    services: int
    endpoints: int
    udp_percent: int = 5
    ipv6_percent: int = 10

    @property
    def nodes(self) -> int:
        """How many nodes hold the endpoints."""
        return max(1, self.services * self.endpoints // 100)

    def is_ipv6(self, number: int) -> bool:
        """Is the Service of that number one of IPv6?"""
        return (number * 37 + number // 100) % 100 < self.ipv6_percent

    def protocol(self, number: int) -> str:
        """TCP, or UDP for so many percent."""
        return "UDP" if number % 100 < self.udp_percent else "TCP"

    def name(self, number: int) -> tuple[str, str]:
        """Namespace and name of a Service."""
        return f"namespace-{number % 100}", f"service-{number}"

    def cluster_ip(self, number: int) -> str:
        """A Service's address."""
        high, low = divmod(number, 65536)
        if self.is_ipv6(number):
            return f"fd96::{high:x}:{low:x}" if high else f"fd96::{low:x}"
        return f"10.{96 + high}.{low >> 8}.{low & 255}"

    def pod_ip(self, number: int, pod: int) -> str:
        """The address of a pod, which serves the Service of that number."""
        if self.is_ipv6(number):
            return f"fd01::{pod >> 16:x}:{pod & 65535:x}" if pod >> 16 else f"fd01::{pod:x}"
        return f"10.{128 + (pod >> 16 & 127)}.{pod >> 8 & 255}.{pod & 255}"

    def objects(self) -> Iterator[Raw]:
        """Nodes, then each Service followed by its slice."""
        for number in range(self.nodes):
            yield self.node(number)
        for number in range(self.services):
            yield self.service(number)
            yield self.slice(number)

    def node(self, number: int) -> Raw:
        """A node, as far as a proxy cares."""
        labels = {"topology.kubernetes.io/zone": f"zone-{number % 3}"}
        address = f"172.16.{number >> 8}.{number & 255}"
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"node-{number}", "labels": labels},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }

    def service(self, number: int) -> Raw:
        """A Service with one port."""
        ip = self.cluster_ip(number)
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self._metadata(number, "") | {"managedFields": _managed("kubectl")},
            "spec": {
                "clusterIP": ip,
                "clusterIPs": [ip],
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv6" if self.is_ipv6(number) else "IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "ports": [self._port(number, SERVICE_PORT) | {"targetPort": TARGET_PORT}],
                "selector": {"app": self.name(number)[1]},
                "sessionAffinity": "None",
                "type": "ClusterIP",
            },
            "status": {"loadBalancer": {}},
        }

    def slice(self, number: int) -> Raw:
        """The slice of a Service."""
        first = number * self.endpoints
        metadata = self._metadata(number, "-abcde")
        metadata["labels"] |= {
            "kubernetes.io/service-name": self.name(number)[1],
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        }
        metadata["annotations"] = {TRIGGER: _STARTED}
        metadata["generateName"] = f"{self.name(number)[1]}-"
        metadata["managedFields"] = _managed("kube-controller-manager")
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": "IPv6" if self.is_ipv6(number) else "IPv4",
            "endpoints": [self._endpoint(number, first + each) for each in range(self.endpoints)],
            "ports": [self._port(number, TARGET_PORT)],
        }

    def _endpoint(self, number: int, pod: int) -> Raw:
        namespace, name = self.name(number)
        return {
            "addresses": [self.pod_ip(number, pod)],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{pod % self.nodes}",
            "targetRef": {
                "kind": "Pod",
                "name": f"{name}-{pod:08x}",
                "namespace": namespace,
                "uid": f"00000000-0000-4000-9000-{pod:012d}",
            },
            "zone": f"zone-{pod % 3}",
        }

    def _metadata(self, number: int, suffix: str) -> dict[str, Any]:
        namespace, name = self.name(number)
        kind = "a" if suffix else "8"
        return {
            "name": name + suffix,
            "namespace": namespace,
            "labels": {"app": name},
            "uid": f"00000000-0000-4000-{kind}000-{number:012d}",
            "creationTimestamp": _STARTED,
        }

    def _port(self, number: int, port: int) -> Raw:
        return {"name": "main", "port": port, "protocol": self.protocol(number)}


class Planned(NamedTuple):
    """A change that is to be made: of which Service, of which of its endpoints, what comes."""

    number: int
    endpoint: int
    came: str


def planned(shape: Shape, seed: int) -> Iterator[Planned]:
    """The changes that a seed stands for, without end; no two seeds bring the same addresses."""
    choice = random.Random(seed)
    fresh = shape.services * shape.endpoints + seed * 1_000_000
    while True:
        number, endpoint = choice.randrange(shape.services), choice.randrange(shape.endpoints)
        fresh += 1
        yield Planned(number, endpoint, shape.pod_ip(number, fresh))


class Step(NamedTuple):
    """One change: an endpoint of a Service went, and another came in its place.

    `at` is time.monotonic() just before the store had it; `late_sec` how much behind its plan.
    """

    at: float
    version: int
    namespace: str
    service: str
    cluster_ip: str
    protocol: str
    gone: str
    came: str
    late_sec: float


class Churn:
    """Changes at a rate, in a thread of its own, until the time is over or `stop`."""

    def __init__(self, store: Store, shape: Shape, rate: float, seconds: float, seed: int) -> None:
        self.steps: list[Step] = []
        self._store, self._shape = store, shape
        self._rate, self._seconds = rate, seconds
        self._planned = planned(shape, seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="churn")
        self._thread.start()

    @property
    def running(self) -> bool:
        """Is there more to come?"""
        return self._thread.is_alive()

    def stop(self) -> None:
        """No more changes."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        begin = time.monotonic()
        for number in range(int(self._rate * self._seconds)):
            due = begin + number / self._rate
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            self._step(due)

    def _step(self, due: float) -> None:
        number, endpoint, came = next(self._planned)
        namespace, service = self._shape.name(number)
        gone: list[str] = []
        at = time.monotonic()
        edit = _replacing(endpoint, came, gone)
        raw = self._store.change(_SLICES, (namespace, f"{service}-abcde"), edit)
        version = int(raw["metadata"]["resourceVersion"])
        shape = self._shape
        self.steps.append(
            Step(
                *(at, version, namespace, service, shape.cluster_ip(number)),
                *(shape.protocol(number), gone[0], came, at - due),
            )
        )


def _replacing(index: int, came: str, gone: list[str]) -> Callable[[Raw], Raw]:
    """An edit that puts the address `came` in the place of one that it notes in `gone`."""

    def edit(raw: Raw) -> Raw:
        endpoint = raw["endpoints"][index]
        gone.append(endpoint["addresses"][0])
        endpoint["addresses"] = [came]
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        raw["metadata"]["annotations"][TRIGGER] = now
        return raw

    return edit


def _managed(manager: str) -> list[Raw]:
    """The record of who set which field: a good part of a real object's size."""
    fields = {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}, "f:kubernetes.io/service-name": {}}},
        "f:spec": {"f:internalTrafficPolicy": {}, "f:selector": {}, "f:sessionAffinity": {}},
        "f:ports": {},
    }
    head = {"manager": manager, "operation": "Update", "apiVersion": "v1", "time": _STARTED}
    return [head | {"fieldsType": "FieldsV1", "fieldsV1": fields}]
