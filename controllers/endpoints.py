"""Pods of this node: their entries in the maps, and the programs on their interfaces.

Everything stands in maps and pins, nothing only in memory, so that the command line and the
daemon, or a daemon after a crash, carry on from each other's work. An endpoint is complete when
its name is written: entries first, then the name, then the programs; taking one away goes the
other way round. What lacks its name is a half-done job, and `reconcile` undoes it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from controllers import flows
from kpbpf import log
from kpbpf.address import Address, to_text
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


class Hooks(Protocol):
    """The programs on interfaces; `controllers.hooks` puts them there for real."""

    def attach(self, ifindex: int) -> None:
        """Have today's programs on an interface; what runs there already is swapped in place."""

    def detach(self, ifindex: int) -> None:
        """Have no program of ours there; an interface that is gone is no error."""

    def attached(self) -> Mapping[int, bool]:
        """Interfaces that have programs of ours: whether all, today's, and in force."""


class Pod(NamedTuple):
    """An endpoint as it stands in the maps."""

    id: int
    name: str
    """Empty while it is half-done."""
    ifindex: int
    node_mac: bytes
    addresses: tuple[Address, ...]

    def __str__(self) -> str:
        addresses = ", ".join(map(to_text, self.addresses))
        return f"endpoint {self.id} ({addresses}; {self.name or 'half-done'})"


class Endpoints:
    """The endpoints of one node. Every method takes the writer's lock for its whole length."""

    def __init__(self, home: Home, tables: Tables, hooks: Hooks) -> None:
        self._home = home
        self._tables = tables
        self._hooks = hooks
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
            before = present(self._tables)
            known = next((pod for pod in before.values() if pod.ifindex == link.ifindex), None)
            if known and known.node_mac != link.node_mac:
                # The index was given again, before anybody saw the first interface go.
                self._take_away(before.pop(known.id))
                known = None
            id_ = known.id if known else _smallest_free(before)
            try:
                changed = self._write(id_, link, name)
                self._hooks.attach(link.ifindex)
            except (Retry, Fix, OSError):
                if known is None:
                    self._take_away(_pod(id_, name, link))
                raise
            for pod in before.values():
                if pod.id != id_ and pod.addresses and set(pod.addresses) <= set(link.addresses):
                    self._take_away(pod._replace(addresses=()))
            if changed:
                self._judge_flows_again()
            return present(self._tables)[id_]

    def remove(self, id_: int) -> Pod:
        """Take an endpoint away: programs, entries, and the flows of its interface."""
        with self._home.writer_lock():
            pod = present(self._tables).get(id_)
            if pod is None:
                raise NotFound(f"there is no endpoint {id_}")
            self._take_away(pod)
            self._judge_flows_again()
            return pod

    def reconcile(self, mac_of: Callable[[int], bytes | None]) -> None:
        """Put right what changed under us: interfaces that vanished, programs that were removed.

        `mac_of` tells the MAC address of an interface of this node by index, None when it is
        gone. Also finishes half-done jobs of a process that was killed.
        """
        with self._home.writer_lock():
            pods = present(self._tables)
            attached = self._hooks.attached()
            kept = 0
            for pod in pods.values():
                mac = mac_of(pod.ifindex)
                in_force = attached.get(pod.ifindex, False)
                # An index may be given again to a new interface; ours would still be attached.
                if not pod.name or mac is None or (mac != pod.node_mac and not in_force):
                    self._take_away(pod)
                    why = "its interface is gone" if pod.name else "it was left half-done"
                    _LOG.info("%s is taken away: %s", pod, why)
                    continue
                kept += 1
                if not in_force:
                    self._restore(pod)
            for ifindex in attached.keys() - {pod.ifindex for pod in pods.values()}:
                self._hooks.detach(ifindex)
                _LOG.info("interface %d: programs taken off, no endpoint is behind it", ifindex)
            if kept < len(pods):
                self._judge_flows_again()

    # ---- inside: the caller holds the lock ---------------------------------------------

    def _write(self, id_: int, link: Link, name: str) -> bool:
        """Write entries, then the name; then drop addresses it no longer has. True: changed."""
        tables = self._tables
        entry = Endpoint(id_, link.ifindex, link.pod_mac, link.node_mac, Mode.VETH)
        changed = False
        for addr in link.addresses:
            if tables.endpoints.get(EndpointKey(addr)) != entry:
                tables.endpoints.put(EndpointKey(addr), entry)
                changed = True
        key = NameKey(NameKind.ENDPOINT, id_)
        if tables.names.get(key) != Name(name):
            tables.names.put(key, Name(name))
        for place, found in list(tables.endpoints.items()):
            if found.id == id_ and place.addr not in link.addresses:
                tables.endpoints.delete(place)
                changed = True
        return changed

    def _take_away(self, pod: Pod) -> None:
        self._hooks.detach(pod.ifindex)
        self._tables.names.delete(NameKey(NameKind.ENDPOINT, pod.id))
        for addr in pod.addresses:
            self._tables.endpoints.delete(EndpointKey(addr))
        flows.forget_interfaces(self._tables, {pod.ifindex})

    def _restore(self, pod: Pod) -> None:
        """Attach again. What stands in the way of one pod is logged once, and harms no other."""
        try:
            self._hooks.attach(pod.ifindex)
        except LinkGone:
            return  # the next round sees that it is gone
        except (Retry, Fix, OSError) as error:
            if self._told.get(pod.ifindex) != str(error):
                self._told[pod.ifindex] = str(error)
                _LOG.error("%s: programs cannot be attached: %s", pod, error)
            return
        self._told.pop(pod.ifindex, None)
        _LOG.info("%s: programs attached to interface %d", pod, pod.ifindex)

    def _judge_flows_again(self) -> None:
        """Known flows look up once more which pod is behind which address."""
        config.raise_epoch(self._tables)


def present(tables: Tables) -> dict[int, Pod]:
    """Read the endpoints from the maps, by id, half-done ones included."""
    pods: dict[int, Pod] = {}
    for key, entry in tables.endpoints.items():
        pod = pods.get(entry.id)
        if pod is None:
            name = tables.names.get(NameKey(NameKind.ENDPOINT, entry.id))
            pod = Pod(entry.id, name.text if name else "", entry.ifindex, entry.node_mac, ())
        pods[entry.id] = pod._replace(addresses=(*pod.addresses, key.addr))
    return {id_: pod._replace(addresses=tuple(sorted(pod.addresses))) for id_, pod in pods.items()}


def _pod(id_: int, name: str, link: Link) -> Pod:
    return Pod(id_, name, link.ifindex, link.node_mac, tuple(link.addresses))


def _smallest_free(taken: Mapping[int, Pod]) -> int:
    return next(number for number in range(1, len(taken) + 2) if number not in taken)
