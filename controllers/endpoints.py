"""Pods of this node: their entries in the maps, and the programs on their interfaces.

Everything stands in maps and pins, nothing only in memory, so that the command line and the
daemon, or a daemon after a crash, carry on from each other's work. An endpoint is complete when
its name is written: entries first, then the name, then the programs; taking one away goes the
other way round. What lacks its name is a half-done job, and `reconcile` undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import IntEnum
from typing import Protocol

from controllers import flows, origin
from controllers.endpoint import Pod, Reader
from kpbpf import log
from kpbpf.address import Address
from kpbpf.errors import Fix, LinkGone, NotFound, Retry
from kpbpf.home import Home
from maps import config
from maps.abi import Endpoint, EndpointKey, Mode, Name, NameKey, NameKind
from maps.table import Tables

_LOG = log.get(__name__)


class Link(Protocol):
    """What must be known of a pod's interface; `datapath.netns.PodLink` is one."""

    @property
    def ifindex(self) -> int:
        """Of the host-side interface."""

    @property
    def pod_mac(self) -> bytes:
        """Of the interface inside the pod."""

    @property
    def node_mac(self) -> bytes:
        """Of the host-side interface."""

    @property
    def addresses(self) -> list[Address]:
        """The pod's own, of global scope."""


class Force(IntEnum):
    """What is in force on an interface that has, or should have, programs of ours."""

    REMOVED = 0
    """Not all of them: somebody took one off."""
    OTHER = 1
    """All, but of another version."""
    TODAY = 2


class Hooks(Protocol):
    """The programs on interfaces; `controllers.hooks` puts them there for real."""

    def attach(self, ifindex: int) -> None:
        """Have today's programs on an interface; what runs there already is swapped in place."""

    def detach(self, ifindex: int) -> None:
        """Have no program of ours there; an interface that is gone is no error."""

    def attached(self) -> Mapping[int, Force]:
        """Interfaces that have, or should have, programs of ours: which are in force."""


class Endpoints:
    """The endpoints of one node. Every method takes the writer's lock for its whole length."""

    def __init__(self, home: Home, tables: Tables, hooks: Hooks) -> None:
        self._home = home
        self._tables = tables
        self._hooks = hooks
        self._reader = Reader(tables)
        self.swapped = 0
        """Interfaces whose programs of another version were replaced, since the start."""
        self._told: dict[int, str] = {}
        """Why an interface could not be restored, as last logged."""

    def add(self, link: Link, name: str) -> Pod:
        """Make a pod an endpoint of this node, or bring what is known of it up to date.

        Addresses that another endpoint had are taken over: it is the newer pod that counts.
        NotFound when it has no address, LinkGone when its interface vanishes meanwhile.
        """
        if not link.addresses:
            raise NotFound(
                f"the pod behind interface {link.ifindex} has no address to be served at"
            )
        with self._home.writer_lock():
            return self._add(self._reader.read(), link, name)

    def _add(self, before: dict[int, Pod], link: Link, name: str) -> Pod:
        known = next((pod for pod in before.values() if pod.ifindex == link.ifindex), None)
        if known and known.node_mac != link.node_mac:
            # The index was given again, before anybody saw the first interface go.
            self._take_away(before.pop(known.id))
            known = None
        done = _pod(known.id if known else _smallest_free(before), name, link)
        try:
            changed = self._write(done, known)
            self._hooks.attach(link.ifindex)
        except (Retry, Fix, OSError):
            if known is None:
                self._take_away(done)
            raise
        for pod in before.values():
            if pod.id != done.id and pod.addresses and set(pod.addresses) <= set(link.addresses):
                self._take_away(pod._replace(addresses=()))
        if changed:
            self._judge_flows_again()
        return done

    def follow(self, link: Link, name: str) -> Pod:
        """`add` for an endpoint that was found, not made by hand: "found=..." (see origin).

        One made by hand is never changed: it serves as it is where it is this interface and
        these addresses; else Retry tells who has the address or the interface. One of the same
        pod on another interface goes. Where it is right already nothing is written, and how it
        was found first stays in its name, but for the last resort.

        A CNI plugin's ADD will come in beside this, under the same lock, with a name "cni=...":
        entries and programs are there when it returns, so the pod starts with both. `follow`
        then has to leave those alone too, as it does those made by hand.
        """
        with self._home.writer_lock():
            before = self._reader.read()
            for pod in before.values():
                same = (pod.ifindex, pod.node_mac) == (link.ifindex, link.node_mac)
                shared = set(pod.addresses) & set(link.addresses)
                if origin.of(pod.name).how != origin.BY_HAND or not (same or shared):
                    continue
                if same and shared == set(link.addresses):
                    return pod
                raise Retry(
                    f"{pod} was made by hand and is in the way: `kpbpf ep rm {pod.id}` takes it off"
                )
            known = next((pod for pod in before.values() if serves(pod, link, name)), None)
            done = known or self._add(dict(before), link, name)
            which = origin.of(name).pod
            for pod in before.values():
                of = origin.of(pod.name)
                others = of.how != origin.BY_HAND and of.pod == which and pod.id != done.id
                if others:
                    self.discard([pod.id])
            return done

    def discard(self, ids: Iterable[int]) -> list[Pod]:
        """Take away those of these endpoints that are still there; return them as they were."""
        with self._home.writer_lock():
            pods = self._reader.read()
            gone = [pods[id_] for id_ in ids if id_ in pods]
            for pod in gone:
                self._take_away(pod)
            if gone:
                self._judge_flows_again()
            return gone

    def present(self) -> dict[int, Pod]:
        """Read the endpoints from the maps, by id, half-done ones included."""
        return self._reader.read()

    def remove(self, id_: int) -> Pod:
        """Take an endpoint away: programs, entries, and the flows of its interface."""
        for pod in self.discard([id_]):
            return pod
        raise NotFound(f"there is no endpoint {id_}")

    def reconcile(self, mac_of: Callable[[int], bytes | None]) -> list[Pod]:
        """Put right what changed under us: interfaces that vanished, programs that were removed.

        `mac_of` tells the MAC address of an interface of this node by index, None when it is
        gone. Also finishes half-done jobs of a process that was killed. Returns the endpoints
        whose programs somebody had removed and that have them again; an upgrade's are not
        among them.
        """
        with self._home.writer_lock():
            pods = self._reader.read()
            attached = self._hooks.attached()
            kept = swapped = 0
            restored: list[Pod] = []
            for pod in pods.values():
                force = attached.get(pod.ifindex, Force.REMOVED)
                # Where ours are in force is the interface. Else it may be gone, and its index
                # given again to a new one.
                gone = force is Force.REMOVED and mac_of(pod.ifindex) != pod.node_mac
                if gone or not pod.name:
                    self._take_away(pod)
                    why = "its interface is gone" if pod.name else "it was left half-done"
                    _LOG.info("%s is taken away: %s", pod, why)
                    continue
                kept += 1
                if force is Force.REMOVED and self._restore(pod):
                    restored.append(pod)
                elif force is Force.OTHER:
                    swapped += self._restore(pod)
            self.swapped += swapped
            if swapped:
                _LOG.info("programs of another version replaced on %d interfaces", swapped)
            self._take_off(attached.keys() - {pod.ifindex for pod in pods.values()})
            if kept < len(pods):
                self._judge_flows_again()
            return restored

    # ---- inside: the caller holds the lock ---------------------------------------------

    def _write(self, pod: Pod, known: Pod | None) -> bool:
        """Write entries, then the name; then drop addresses it no longer has. True: changed."""
        tables = self._tables
        entry = Endpoint(pod.id, pod.ifindex, pod.pod_mac, pod.node_mac, Mode.VETH)
        changed = False
        for addr in pod.addresses:
            if tables.endpoints.get(EndpointKey(addr)) != entry:
                tables.endpoints.put(EndpointKey(addr), entry)
                changed = True
        key = NameKey(NameKind.ENDPOINT, pod.id)
        if tables.names.get(key) != Name(pod.name):
            tables.names.put(key, Name(pod.name))
        for addr in known.addresses if known else ():
            if addr not in pod.addresses:
                tables.endpoints.delete(EndpointKey(addr))
                changed = True
        return changed

    def _take_away(self, pod: Pod) -> None:
        self._hooks.detach(pod.ifindex)
        self._tables.names.delete(NameKey(NameKind.ENDPOINT, pod.id))
        for addr in pod.addresses:
            self._tables.endpoints.delete(EndpointKey(addr))
        flows.forget_interfaces(self._tables, {pod.ifindex})

    def _take_off(self, ifindexes: Collection[int]) -> None:
        for ifindex in ifindexes:
            self._hooks.detach(ifindex)
            _LOG.info("interface %d: programs taken off, no endpoint is behind it", ifindex)

    def _restore(self, pod: Pod) -> bool:
        """Attach again. What stands in the way of one pod is logged once, and harms no other."""
        try:
            self._hooks.attach(pod.ifindex)
        except LinkGone:
            return False  # the next round sees that it is gone
        except (Retry, Fix, OSError) as error:
            if self._told.get(pod.ifindex) != str(error):
                self._told[pod.ifindex] = str(error)
                _LOG.error("%s: programs cannot be attached: %s", pod, error)
            return False
        self._told.pop(pod.ifindex, None)
        return True

    def _judge_flows_again(self) -> None:
        """Known flows look up once more which pod is behind which address."""
        config.raise_epoch(self._tables)


def serves(pod: Pod, link: Link, name: str) -> bool:
    """Whether an endpoint is this pod on this link already, found in as good a way."""
    before, now = origin.of(pod.name), origin.of(name)
    surest = before.how in (now.how, *origin.SURE)
    return pod == _pod(pod.id, pod.name, link) and before.pod == now.pod and surest


def _pod(id_: int, name: str, link: Link) -> Pod:
    addresses = tuple(sorted(link.addresses))
    return Pod(id_, name, link.ifindex, link.pod_mac, link.node_mac, addresses)


def _smallest_free(taken: Mapping[int, Pod]) -> int:
    return next(number for number in range(1, len(taken) + 2) if number not in taken)
