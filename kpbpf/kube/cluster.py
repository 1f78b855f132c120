"""The objects of a cluster that a node needs, from its API server: one kind of `source.Source`.

Says which resources are read, which of them the first sync waits for, and which are read only
while a NetworkPolicy needs them. How a resource is read is the reflector's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from kpbpf import log
from kpbpf.errors import Problem
from kpbpf.kube.backoff import Backoff
from kpbpf.kube.held import Held
from kpbpf.kube.intake import Resource
from kpbpf.kube.parse import Model
from kpbpf.kube.read_service import OTHER_PROXY_LABEL
from kpbpf.kube.read_slice import HEADLESS_LABEL
from kpbpf.kube.reflector import Patience, Reflector, ReflectorStats
from kpbpf.kube.session import Session
from kpbpf.kube.source import Change, Unread
from kpbpf.model.objects import Key
from kpbpf.model.policy import Needs, NetworkPolicy, needs

CLOSE_SEC = 1.0
"""How long `close` waits for threads, all together."""

_SERVICES = Resource(
    "/api/v1/services", "v1", "Service", f"!{OTHER_PROXY_LABEL}", "spec.clusterIP!=None"
)
_SLICES = Resource(
    "/apis/discovery.k8s.io/v1/endpointslices",
    "discovery.k8s.io/v1",
    "EndpointSlice",
    f"!{HEADLESS_LABEL}",
)
_POLICIES = Resource(
    "/apis/networking.k8s.io/v1/networkpolicies", "networking.k8s.io/v1", "NetworkPolicy"
)
_RANGES = Resource(
    "/apis/networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1", "ServiceCIDR", optional=True
)
_ALL_PODS = Resource("/api/v1/pods", "v1", "Pod")
_NAMESPACES = Resource("/api/v1/namespaces", "v1", "Namespace")

#: Without these the maps are not written (SEMANTICS A46; the node's zone decides among endpoints).
#: The others are not waited for: if RBAC keeps us from them, Services work all the same.
_AWAITED = {"Service": "Services", "EndpointSlice": "EndpointSlices", "Node": "the node's own Node"}

_LOG = log.get(__name__)


def _node(name: str) -> Resource:
    return Resource("/api/v1/nodes", "v1", "Node", field_selector=f"metadata.name={name}")


def _own_pods(node: str) -> Resource:
    return Resource("/api/v1/pods", "v1", "Pod", field_selector=f"spec.nodeName={node}")


@dataclass(slots=True)
class _Kind:
    """The objects of one kind, and who reads them; None: nobody."""

    held: Held
    reflector: Reflector | None = None


class ClusterSource:
    """Services, EndpointSlices, ServiceCIDRs, own Node, Pods, NetworkPolicies, Namespaces.

    Pods are this node's (SEMANTICS A3), or everybody's while a NetworkPolicy needs that. A node
    without a Node object is complete without one, as with kube-proxy; health tells of it.
    `backoff` and `patience` are those of each of its reflectors.
    """

    def __init__(
        self,
        session: Session,
        node_name: str,
        backoff: Callable[[], Backoff] = Backoff,
        patience: Patience = Patience(),  # noqa: B008 (a constant)
    ) -> None:
        self._session = session
        self._node_name = node_name
        self._backoff = backoff
        self._patience = patience
        self._wake: Callable[[], None] = _sleep_on
        self._needs = Needs(pods=False, namespaces=False)
        self._told = log.Told(_LOG)
        self._kinds: dict[str, _Kind] = {}

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to read; `wake` is called from other threads."""
        self._wake = wake
        for resource in (_SERVICES, _SLICES, _RANGES, _node(self._node_name), _POLICIES):
            self._read(resource)
        self._read(_own_pods(self._node_name))

    def refresh(self) -> list[Change]:
        """Objects that are different now."""
        changes = [change for kind in self._kinds.values() for change in kind.held.take()]
        if any(change.key.kind == "NetworkPolicy" for change in changes):
            self._follow_needs()
        self._revive()
        if any(kind.held.problems_changed() for kind in self._kinds.values()):
            self._told.tell(self.problems())
        return changes

    def get(self, key: Key) -> Model | None:
        """An object's last good state."""
        kind = self._kinds.get(key.kind)
        return kind.held.get(key) if kind else None

    def awaited(self) -> list[str]:
        """What has to be read in whole once before anything is written."""
        return [
            f"{name} of the API server"
            for kind, name in _AWAITED.items()
            if kind not in self._kinds or not self._kinds[kind].held.synced
        ]

    def has_read(self, kind: str) -> bool:
        """Whether all objects of a kind were read once, and nothing of them can be missing."""
        return kind in self._kinds and self._kinds[kind].held.synced

    def problems(self) -> list[Problem]:
        """Everything that is wrong now."""
        return [problem for kind in self._kinds.values() for problem in kind.held.problems()]

    def unread(self) -> Unread:
        """Objects that could not be read, and of which no earlier state is known."""
        found = [kind.held.unread() for kind in self._kinds.values()]
        return Unread(
            tuple(place for one in found for place in one.places),
            tuple(key for one in found for key in one.keys),
        )

    def where(self, key: Key) -> str:
        """Path of an object at the API server."""
        kind = self._kinds.get(key.kind)
        reflector = kind.reflector if kind else None
        return reflector.resource.place(key) if reflector else str(key)

    def stats(self) -> tuple[ReflectorStats, ...]:
        """How reading goes, by resource. Any thread."""
        found = [kind.reflector for kind in list(self._kinds.values())]
        return tuple(one.stats() for one in found if one and not one.stopped)

    def close(self) -> None:
        """Stop reading; a thread that waits for a name server or to connect ends by itself."""
        running = [kind.reflector for kind in self._kinds.values() if kind.reflector]
        for reflector in running:
            reflector.stop()
        deadline = time.monotonic() + CLOSE_SEC
        for reflector in running:
            reflector.join(deadline - time.monotonic())

    # ---- inside -------------------------------------------------------------------------

    def _read(self, resource: Resource) -> None:
        """Read these objects from now on, instead of others of the same kind.

        The new reflector keeps what the earlier one held: its first reading yields the
        difference, so no pod is gone for a moment because others are read too.
        """
        kind = self._kinds.setdefault(resource.kind, _Kind(Held(self._wake)))
        before = kind.reflector
        if before is not None:
            before.stop()
        backoff, patience = self._backoff(), self._patience
        kind.reflector = Reflector(self._session, resource, kind.held, backoff, patience)
        kind.reflector.start(before)

    def _stop_reading(self, name: str) -> None:
        """Read no objects of this kind any more; those that were held will be gone."""
        reflector = self._kinds[name].reflector
        if reflector is not None:
            reflector.stop(forget=True)

    def _follow_needs(self) -> None:
        """Read what the NetworkPolicies that there are need, and no more."""
        held = self._kinds["NetworkPolicy"].held.models()
        now = needs(one for one in held if isinstance(one, NetworkPolicy))
        before, self._needs = self._needs, now
        if now.pods != before.pods:
            self._read(_ALL_PODS if now.pods else _own_pods(self._node_name))
        if now.namespaces and not before.namespaces:
            self._read(_NAMESPACES)
        if before.namespaces and not now.namespaces:
            self._stop_reading("Namespace")

    def _revive(self) -> None:
        """Begin anew where a reflector ended by itself: a bug must not make us deaf."""
        for kind in self._kinds.values():
            if kind.reflector is not None and kind.reflector.died:
                _LOG.error("reading %s ended; it begins again", kind.reflector.resource.name)
                self._read(kind.reflector.resource)


def _sleep_on() -> None:
    """Nobody is to be woken before `start`."""
