"""The pods of this node that the API names: found, attached, and followed as they change.

Told of Pods by `changed` and of the node's network by `heard`; `work` does what is due. What is
attached stands in the maps (controllers.endpoints), so a daemon after a restart goes on where
this one was. One pod that cannot be attached never holds up another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from controllers import origin
from controllers.endpoint import Pod as Endpoint
from controllers.endpoints import Endpoints, Link, serves
from controllers.holders import Holders
from controllers.restored import Restored
from kpbpf import log
from kpbpf.address import Address, to_text
from kpbpf.datapath.monitor import News
from kpbpf.errors import Fix, KpbpfError
from kpbpf.model.event import Event
from kpbpf.model.objects import Key, Pod

_LOG = log.get(__name__)

TURN_SEC = 0.05
"""`work` gives way to others after so long, and is due again at once."""

FIRST_RETRY_SEC = 0.1
LAST_RETRY_SEC = 30.0
QUICK_RETRIES = 5
"""So often after FIRST_RETRY_SEC; from then on each pause is twice as long."""

THOROUGH_AFTER = 3
"""Attempts, after which a search does not wait for neighbours any more."""

LOOK_AGAIN_SEC, TOGETHER_SEC = 30.0, 5.0
"""A pod that is attached is looked for again so often, since its MAC address may have changed;
those that are due in the same TOGETHER_SEC in one go."""

REASONS = 8
"""Of one pod, those that are told, at most."""

NEWS_GAP_SEC = 1.0
"""News that may or may not be about a pod that failed often lead to one attempt in this time."""

TELL_AFTER_SEC = 5.0
"""A failure that lasts so long is told; shorter ones are the way pods start."""

SHOWN = 5
"""Of many pods at a time, those that have a line in the log."""


class Located(Link, Protocol):
    """A pod's interface, and how it was found; `datapath.locate.Located` is one."""

    @property
    def how(self) -> str:
        """As in "found=route"."""

    @property
    def host_ifname(self) -> str:
        """Name of the host-side interface."""


Tell = Callable[[Event], None]

Locate = Callable[[tuple[Address, ...], bool], Located]
"""Finds the interface behind addresses; the flag asks for a thorough search. A KpbpfError says
why there is none."""


class PodStatus(NamedTuple):
    """A pod of this node for `kpbpf ep ls`; addresses are text, `pod` is namespace/name."""

    pod: str
    addresses: tuple[str, ...]
    host: str
    """Interface on the node, "" while it is not attached, or was only by an earlier daemon."""
    found: str
    """As in origin.Origin, "" while it is not attached."""
    why_not: str
    """Why it is not attached; "" when it is."""


@dataclass(slots=True)
class _Followed:
    """One pod, and how far we are with it. Times are the controller's clock's."""

    pod: Pod
    due: float | None = None
    endpoint: Endpoint | None = None
    host: str = ""
    attempts: int = 0
    tried: float = float("-inf")
    failing_since: float = 0.0
    why_not: str = ""
    told: set[str] = field(default_factory=set)


class PodsController:
    """Has every pod of this node that has an address of its own be an endpoint.

    Nothing is taken away for want of a Pod before `synced` was called: until then the Pods that
    are missing may only be unread. All calls come from one thread.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        locate: Locate,
        tell: Tell,
        node_name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints = endpoints
        self._locate = locate
        self._tell = tell
        self._node = node_name
        self._clock = clock
        self._followed: dict[Key, _Followed] = {}
        self._holders = Holders()
        self._names: dict[str, Key] = {}
        """Pods by what they are called in the maps."""
        self._gone: set[str] = set()
        self._synced = False
        self.unsettled = False
        """Whether endpoints may have to go: `work` is due."""
        self._restored = Restored(tell, node_name, self._regarding, clock)
        self.restored = 0
        """How often programs that somebody had removed were put back."""
        self._attached: list[str] = []
        self._failures: list[str] = []

    # ---- what changed -----------------------------------------------------------------------

    def changed(self, key: Key, model: object | None) -> None:
        """Take note of a Pod's new state (None: it is gone). Other kinds are no concern."""
        if key.kind != "Pod":
            return
        pod = model if isinstance(model, Pod) and self._is_ours(model) else None
        before = self._followed.get(key)
        name = origin.shortened(key.path)
        touched = self._holders.change(key, pod.addresses if pod else ())
        if pod is None:
            if before is not None:
                del self._followed[key], self._names[name]
                self._gone.add(name)
                self.unsettled = True
        elif before is not None and before.pod.uid == pod.uid:
            before.pod = pod
        else:
            self._followed[key] = _Followed(pod)
            self._names[name] = key
            self._gone.discard(name)
            touched.add(key)
        for other in touched:
            self._start_over(other)

    def _is_ours(self, pod: Pod) -> bool:
        return pod.node == self._node and not pod.host_network and not pod.finished

    def _start_over(self, key: Key) -> None:
        """A pod has other addresses than before: look for it at once."""
        item = self._followed.get(key)
        if item is not None:
            item.due, item.attempts, item.why_not = self._clock(), 0, ""
            item.told.clear()

    @property
    def swapped(self) -> int:
        """Interfaces whose programs of another version were replaced, since the start."""
        return self._endpoints.swapped

    def synced(self) -> None:
        """All Pods of this node were told of once: what nobody named can be taken away."""
        self.unsettled = self.unsettled or not self._synced
        self._synced = True

    def heard(self, news: News) -> None:
        """Look again for the pods that the network's news may be about."""
        now = self._clock()
        about = {self._holders.holder(address) for address in news.addresses}
        wide = bool(news.links or news.routes)
        for key, item in self._followed.items():
            if news.everything or key in about:
                item.due = now
            elif wide and item.why_not:
                patient = NEWS_GAP_SEC if item.attempts > QUICK_RETRIES else 0.0
                item.due = min(item.due or now, max(now, item.tried + patient))

    def reconcile(self, mac_of: Callable[[int], bytes | None]) -> None:
        """Put right what changed under us, as Endpoints.reconcile does, and tell of it."""
        restored = self._endpoints.reconcile(mac_of)
        self.restored += len(restored)
        self._restored.tell(restored)

    # ---- work -------------------------------------------------------------------------------

    def work(self) -> float | None:
        """Do what is due, for TURN_SEC at most; return the seconds until more is, None: never."""
        began = self._clock()
        present = self._endpoints.present()
        self._notice_loss(present, began)
        late = self._let_go(present, began)
        found = _found(present)
        for key in () if late else self._due(began):
            self._attempt(self._followed[key], found.get(origin.shortened(key.path), []))
            if self._is_late(began):
                break
        now = self._clock()
        waiting = [item.due for item in self._followed.values() if item.due is not None]
        delay = max(0.0, min(waiting) - now) if waiting else None
        if late:
            delay = 0.0
        if delay != 0.0:
            self._tell_round()
        return delay

    def _is_late(self, began: float) -> bool:
        return self._clock() - began > TURN_SEC

    def _notice_loss(self, present: Mapping[int, Endpoint], now: float) -> None:
        """An endpoint that is not there any more, or another pod's now, has to be made again."""
        for key, item in self._followed.items():
            if item.endpoint is None:
                continue
            is_now = present.get(item.endpoint.id)
            if is_now is None or not self._is_still(is_now, item.endpoint, key):
                item.endpoint, item.host = None, ""
                item.due, item.attempts = now, 0

    def _is_still(self, now: Endpoint, before: Endpoint, key: Key) -> bool:
        named = now.name == before.name or origin.of(now.name).pod == origin.shortened(key.path)
        return named and now.ifindex == before.ifindex

    def _let_go(self, present: Mapping[int, Endpoint], began: float) -> bool:
        """Take away what was found for pods that are gone; what people made stays.

        What has an address that another pod claims waits for that one: it may be its interface,
        which then has the wrong name only. True: it took long, and there may be more to do.
        """
        if not self.unsettled:
            return False
        waiting = set()
        for id_, endpoint in present.items():
            how, pod = origin.of(endpoint.name)
            ours = how not in ("", origin.BY_HAND) and pod not in self._names
            if not ours or not (self._synced or pod in self._gone):
                continue
            if any(map(self._holders.holder, endpoint.addresses)):
                waiting.add(pod)
                continue
            for gone in self._endpoints.discard([id_]):
                _LOG.info("%s is taken away: its pod is gone", gone)
            if self._is_late(began):
                return True
        self._gone = waiting
        self.unsettled = bool(waiting)
        return False

    def _due(self, now: float) -> list[Key]:
        due = [
            (item.due, key)
            for key, item in self._followed.items()
            if item.due is not None and item.due <= now
        ]
        return [key for _, key in sorted(due)]

    def _attempt(self, item: _Followed, before: Sequence[Endpoint]) -> None:
        """Find one pod and attach to it, or note why not and when to try again.

        `before` are the pod's endpoints, by whatever daemon; more than one is a job half done.
        """
        key = item.pod.key
        addresses = self._holders.held(key)
        item.attempts += 1
        item.tried = self._clock()
        if not addresses:
            item.due, item.why_not = None, self._holders.why_none(key)
            if item.pod.addresses:
                item.endpoint = None  # it is the other pod's, or will be
            return
        try:
            link = self._locate(addresses, item.attempts > THOROUGH_AFTER)
            name = origin.found(link.how, key.path)
            if len(before) == 1 and serves(before[0], link, name):
                done = before[0]
            else:
                done = self._endpoints.follow(link, name)
        except (KpbpfError, OSError) as error:
            self._failed(item, error, before)
            return
        item.endpoint, item.host = done, link.host_ifname
        item.why_not, item.attempts = "", 0
        item.told.clear()
        item.due = (self._clock() + LOOK_AGAIN_SEC) // TOGETHER_SEC * TOGETHER_SEC
        if done not in before:
            self._attached.append(f"{done}: attached to {link.host_ifname}")

    def _failed(self, item: _Followed, error: Exception, before: Sequence[Endpoint]) -> None:
        now = self._clock()
        doubled = max(0, item.attempts - QUICK_RETRIES)
        item.due = now + min(FIRST_RETRY_SEC * 2.0 ** min(doubled, 20), LAST_RETRY_SEC)
        item.endpoint = item.endpoint or next(iter(before), None)
        if item.endpoint and item.attempts > THOROUGH_AFTER:
            self._drop_outdated(item, item.endpoint)
        if item.endpoint:
            return  # it is served; only the last look at it failed
        why = f"{error.what}: {error.why}" if isinstance(error, Fix) else str(error)
        if not item.why_not:
            item.failing_since = now
        item.why_not = why
        told = why in item.told or len(item.told) == REASONS
        if not told and now - item.failing_since >= TELL_AFTER_SEC:
            item.told.add(why)
            self._failures.append(f"pod {item.pod.key.path} cannot be attached: {why}")
            event = Event(item.pod.key, "FailedToAttach", "AttachPod", why, True, item.pod.uid)
            self._tell(event)

    def _drop_outdated(self, item: _Followed, endpoint: Endpoint) -> None:
        """Take away an endpoint with none of its pod's addresses, which changed since."""
        by_hand = origin.of(endpoint.name).how == origin.BY_HAND
        if not by_hand and set(endpoint.addresses).isdisjoint(item.pod.addresses):
            for gone in self._endpoints.discard([endpoint.id]):
                _LOG.info("%s is taken away: its pod has other addresses now", gone)
            item.endpoint, item.host = None, ""

    # ---- telling ----------------------------------------------------------------------------

    def _tell_round(self) -> None:
        for say, lines in ((_LOG.info, self._attached), (_LOG.warning, self._failures)):
            for line in lines[:SHOWN]:
                say("%s", line)
            if len(lines) > SHOWN:
                say("and %d pods more: see `kpbpf ep ls`", len(lines) - SHOWN)
            lines.clear()

    def _regarding(self, name: str) -> tuple[Key, str] | None:
        key = self._names.get(name)
        return (key, self._followed[key].pod.uid) if key else None

    def status(self) -> tuple[PodStatus, ...]:
        """The pods of this node that have, or should have, an endpoint, by name."""
        return tuple(
            PodStatus(
                pod=key.path,
                addresses=tuple(map(to_text, item.pod.addresses)),
                host=item.host,
                found=origin.of(item.endpoint.name).how if item.endpoint else "",
                why_not="" if item.endpoint else item.why_not or "it is being looked for",
            )
            for key, item in sorted(self._followed.items())
        )


def _found(present: Mapping[int, Endpoint]) -> dict[str, list[Endpoint]]:
    """The endpoints that were found, not made by hand, by what their pods are called."""
    found: dict[str, list[Endpoint]] = {}
    for endpoint in present.values():
        how, pod = origin.of(endpoint.name)
        if how not in ("", origin.BY_HAND):
            found.setdefault(pod, []).append(endpoint)
    return found
