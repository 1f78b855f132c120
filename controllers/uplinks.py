"""The uplinks of this node: found, attached, and kept right as its network changes.

Told of the Node and of cluster-IP ranges, and of the network's news; `work` and `reconcile` do
what is due. What programs must know is written before they are attached, and deleted after they
are taken off; both stay when the daemon ends, and a restart without changes writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

from controllers.endpoints import Force
from controllers.outside import Writer, detection, follows
from kpbpf import log
from kpbpf.address import to_text
from kpbpf.datapath import uplinks
from kpbpf.datapath.monitor import News
from kpbpf.datapath.snapshot import Network, Snapshot
from kpbpf.datapath.uplinks import Choice, Uplink
from kpbpf.errors import Fix, KpbpfError, LinkGone, MapFull, Retry
from kpbpf.home import Home
from kpbpf.model.event import Event
from kpbpf.model.objects import Block, Key, Node
from kpbpf.settings import Settings
from maps.table import Tables

_LOG = log.get(__name__)

GAP_SEC = 0.2
"""News come in rows: so long from one look at the network to the next."""

WAIT_SEC = 300.0
"""For a Node's podCIDRs, until it is told that there are none (A42)."""

TOLD_SEC = 600.0
"""The same is told again after so long, at the earliest."""

Tell = Callable[[Event], None]


class Hooks(Protocol):
    """The programs on uplinks; `controllers.hooks.WireHooks` puts them there for real."""

    def attach(self, ifindex: int, ethernet: bool) -> None:
        """Have today's programs on an interface; what runs there already is swapped in place."""

    def detach(self, ifindex: int) -> None:
        """Have no program of uplinks there; an interface that is gone is no error."""

    def attached(self) -> Mapping[int, tuple[bool, Force]]:
        """Interfaces that have, or should have, such programs: for Ethernet, and which."""

    def touch(self, ifindexes: Iterable[int] | None) -> None:
        """Filters of these interfaces changed; None: perhaps of any."""

    def close(self) -> None:
        """Let go of what is kept open; all stays attached."""


class Sight(Protocol):
    """Looks at this node's network; `datapath.snapshot.Network` does for real."""

    @property
    def netns(self) -> int:
        """Cookie of the network namespace."""

    def look(self, changed: Collection[int] | None = None) -> Snapshot:
        """Look now, again only at the links that changed; OSError where asking fails."""

    def close(self) -> None:
        """Let go of what is kept open."""


class UplinkStatus(NamedTuple):
    """An interface that is, or should be, an uplink; addresses are text."""

    ifname: str
    kind: str
    """"vxlan", "bridge", ...; "" for hardware."""
    addresses: tuple[str, ...]
    why: str
    """As in uplinks.Uplink; "" when it cannot be one."""
    attached: bool
    why_not: str
    """Why it is not attached; "" when it is."""


class Uplinks:
    """Keeps attachments, maps and configuration in step with this node's network.

    Nothing is found out or taken away before the Node was told of, or `synced` was called: until
    then what is attached is only kept up. All calls come from one thread, whose network
    namespace is the node's.
    """

    def __init__(
        self,
        home: Home,
        tables: Tables,
        hooks: Hooks,
        settings: Settings,
        node_name: str,
        tell: Tell,
        network: Sight | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._tables = tables
        self._hooks = hooks
        self._settings = settings
        self._key = Key("Node", "", node_name)
        self._tell = tell
        self._network = network or Network()
        self._clock = clock
        self._writer = Writer(tables)
        self._node: Node | None = None
        self._service_blocks: tuple[Block, ...] | None = None
        self._known = False
        self._due = False
        self._links: set[int] | None = None
        """Links to look at again; None: all."""
        self._looked = float("-inf")
        self._began = clock()
        self._choice = Choice()
        self._attached: set[int] = set()
        self._failures: dict[int, str] = {}
        self._told: dict[str, float] = {}
        self.swapped = 0
        """Interfaces whose programs of another version were replaced, since the start."""
        self.restored = 0
        """How often programs that somebody had removed were put back."""

    # ---- what changed -----------------------------------------------------------------------

    def changed(self, key: Key, model: object | None) -> None:
        """Take note of our Node's new state. Others are no concern, nor is that it is deleted."""
        if key != self._key or not isinstance(model, Node):
            return
        before = (self._node.addresses, self._node.pod_cidrs) if self._node else None
        self._due = self._due or before != (model.addresses, model.pod_cidrs)
        if before and before[1] and before[1] != model.pod_cidrs:
            _LOG.warning("%s has other podCIDRs than before: they are followed", key)
        self._node, self._known = model, True

    def synced(self) -> None:
        """Everything was read once: a Node that nobody named is not there."""
        self._due = self._due or not self._known
        self._known = True

    def service_ranges(self, blocks: tuple[Block, ...]) -> None:
        """Cluster IPs are allocated from here; empty: it is not known from where.

        Until this is called, what an earlier daemon knew holds.
        """
        self._due = self._due or blocks != self._service_blocks
        self._service_blocks = blocks

    def heard(self, news: News) -> None:
        """Look again when the network's news may be about uplinks or addresses."""
        self._hooks.touch(None if news.everything else news.filters | news.links)
        if news.everything:
            self._links = None
        elif self._links is not None:
            self._links |= news.links
        about = news.links or news.default_routes or news.own_addresses or news.everything
        self._due = self._due or bool(about)

    # ---- work -------------------------------------------------------------------------------

    def work(self) -> float | None:
        """Do what is due; return the seconds until it wants to be called again, None: never.

        Retry when the kernel does not answer, or a map takes no more.
        """
        now = self._clock()
        if not self._known or not self._due:
            return None
        if now < self._looked + GAP_SEC:
            return self._looked + GAP_SEC - now
        self._put_right()
        return None

    def reconcile(self) -> None:
        """Put right what changed under us: programs that somebody removed, or of yesterday."""
        attached = self._hooks.attached()
        if not self._known:
            self._keep_up(attached)
            return
        today = {one.ifindex: (one.ethernet, Force.TODAY) for one in self._choice.uplinks}
        if attached != today:
            self._links = None
            self._put_right()
        elif self._due:
            self._put_right()
        self._tell_waiting()

    def close(self) -> None:
        """Let go of what is kept open; all stays attached."""
        self._network.close()
        self._hooks.close()

    def _keep_up(self, attached: Mapping[int, tuple[bool, Force]]) -> None:
        """Have an earlier daemon's uplinks run today's programs."""
        for ifindex, (ethernet, force) in attached.items():
            if force is Force.TODAY:
                continue
            try:
                self._hooks.attach(ifindex, ethernet)
                self.swapped += force is Force.OTHER
            except (KpbpfError, OSError) as error:
                self._say(f"interface {ifindex}: programs of an uplink cannot be kept: {error}")

    def _put_right(self) -> None:
        """Look at the network, and have everything be as follows from it."""
        self._due = True  # until all is done
        self._looked = self._clock()
        try:
            seen = self._network.look(self._links)
        except OSError as error:
            self._links = None
            raise Retry(f"asking the kernel about interfaces failed: {error}") from error
        self._links = set()
        with self._home.writer_lock():
            pods = {entry.ifindex for _, entry in self._tables.endpoints.items()}
            addresses = self._node.addresses if self._node else ()
            before = self._choice
            choice = uplinks.choose(seen, self._settings.uplinks, addresses, pods)
            blocks, netns = self._service_blocks, self._network.netns
            if blocks is None:
                blocks = self._writer.service_blocks()
            wanted = follows(self._settings, self._node, seen, choice, blocks, netns)
            full: MapFull | None = None
            try:
                self._writer.add(wanted)
            except MapFull as error:
                full = error
            self._attach(choice)
            self._writer.take_away(wanted)
        self._choice = choice
        self._tell_of(before)
        if addresses and not set(addresses) & {key.addr for key in wanted.addresses}:
            self._say("none of the Node's addresses is here: does kpbpf run in its network?")
        if full is not None:
            raise full
        self._due = False

    def _attach(self, choice: Choice) -> None:
        """Have programs on all uplinks, and on nothing else; one that fails harms no other."""
        attached = self._hooks.attached()
        self._failures = {}
        for uplink in choice.uplinks:
            is_ethernet, force = attached.get(uplink.ifindex, (True, Force.REMOVED))
            if is_ethernet is uplink.ethernet and force is Force.TODAY:
                self._attached.add(uplink.ifindex)
                continue
            try:
                self._hooks.attach(uplink.ifindex, uplink.ethernet)
            except LinkGone as error:
                self._failures[uplink.ifindex] = str(error)
            except (Retry, Fix, OSError) as error:
                self._fail(uplink, error)
            else:
                self._count(uplink, force)
        wanted = {uplink.ifindex for uplink in choice.uplinks}
        for ifindex in attached.keys() - wanted:
            self._hooks.detach(ifindex)
        self._attached &= wanted

    def _count(self, uplink: Uplink, force: Force) -> None:
        if force is Force.OTHER:
            self.swapped += 1
        elif uplink.ifindex in self._attached:
            self.restored += 1
            note = f"kpbpf's programs had been removed from uplink {uplink.name}; they are back"
            self._say(note, "ProgramsRestored", "RestorePrograms")
        self._attached.add(uplink.ifindex)

    def _fail(self, uplink: Uplink, error: Exception) -> None:
        why = f"{error.what}: {error.why}" if isinstance(error, Fix) else str(error)
        self._failures[uplink.ifindex] = why
        note = f"uplink {uplink.name} cannot be attached: {why}"
        self._say(note, "FailedToAttach", "AttachUplink")

    # ---- telling ----------------------------------------------------------------------------

    def _tell_of(self, before: Choice) -> None:
        """One line for each uplink that came, went or changed, and when there is none."""
        old = {one.ifindex: uplinks.told(one) for one in before.uplinks}
        new = {one.ifindex: uplinks.told(one) for one in self._choice.uplinks}
        for ifindex in new.keys() - self._failures.keys():
            if old.get(ifindex) != new[ifindex]:
                _LOG.info("uplink %s", new[ifindex])
        for ifindex in old.keys() - new.keys():
            _LOG.info("no uplink any more: %s", old[ifindex])
        for unfit in self._choice.unfit:
            self._say(f"{unfit.name} is no uplink: {unfit.why_not}")
        if not new:
            note = (
                "this node has no uplink: NodePorts, load balancers' and external IPs are not "
                "served to the outside; name one with --uplink"
            )
            self._say(note, "NoUplink", "FindUplinks")

    def _tell_waiting(self) -> None:
        """Say that podCIDRs are missing: at once in the log, and as a failure when it lasts."""
        mode = self._settings.detect_local.mode
        if mode != "NodeCIDR" or detection(self._settings, self._node)[1]:
            return
        note = "detectLocalMode NodeCIDR: the Node has no podCIDRs yet; meanwhile pods are known "
        note += "by their interfaces"
        self._say(note)
        if self._clock() - self._began > WAIT_SEC:
            note = "detectLocalMode NodeCIDR: the Node has had no podCIDRs for 5 minutes"
            self._say(note, "NoPodCIDR", "DetectLocal")

    def _say(self, note: str, reason: str = "", action: str = "") -> None:
        """Warn, with an Event on the Node where there is a reason; the same not too often."""
        now = self._clock()
        self._told = {said: at for said, at in self._told.items() if now - at < TOLD_SEC}
        if note in self._told:
            return
        self._told[note] = now
        _LOG.warning("%s", note)
        if reason:
            self._tell(Event(self._key, reason, action, note, True, self._key.name))

    def status(self) -> tuple[UplinkStatus, ...]:
        """The uplinks by index, then what cannot be one."""
        found = [
            UplinkStatus(
                ifname=one.name,
                kind=one.kind,
                addresses=tuple(map(to_text, one.addresses)),
                why=one.why,
                attached=one.ifindex not in self._failures,
                why_not=self._failures.get(one.ifindex, ""),
            )
            for one in self._choice.uplinks
        ]
        unfit = [UplinkStatus(name, "", (), "", False, why) for name, why in self._choice.unfit]
        return (*found, *unfit)
