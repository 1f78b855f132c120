"""The Service maps from what they hold to what is wanted, safe at every step.

Only differences are written. A changed set of backends is written under a fresh base, and
then each frontend turns to it in one update; what nothing points to any more is deleted last.
So no packet sees half a set, and a run that is killed anywhere leaves whole entries and at
worst some that nobody uses, which the next run finds.

UDP flows hold on to a backend until kp_config.udp_epoch is raised. That must follow the other
writes, and must not be lost to a kill; so a member of no Service (maps.present.UDP_DUE)
stands in the map from before the first of these writes until the epoch is raised.

Source ranges are written before the frontends that they hold for, and taken away after them. The
span of NodePorts in kp_config covers them all at every moment: it is widened before the first of
them is written, and narrowed after the last is gone.

While the view of what is wanted is not whole, what is not in it may only not have been read: a
port that must keep what an earlier process gave it loses none of that, to nobody.

The caller holds Home.writer_lock. Nothing here knows what a Service is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from kpbpf.errors import MapFull
from maps import config
from maps.abi import Member, NameKey, NameKind
from maps.plan import (
    Change,
    backend_keys,
    backend_pairs,
    gives_up,
    plan,
    plan_removal,
    served_before,
    stale_frontends,
    stale_members,
    stale_ranges,
    unused_bases,
    without_addresses_kept,
)
from maps.present import UDP_DUE, Port, Present, node_port_of, read_present
from maps.table import Tables
from maps.wanted import WantedService
from maps.writing import HOUSEKEEPING, Report

__all__ = ["HOUSEKEEPING", "Report", "ServiceSync", "WantedService"]

#: Service ports that are written together: enough for batches, few enough for memory.
ROUND = 512


class ServiceSync:
    """Owner of frontends, backends, members, and the ranges and names of Service ports.

    `load` reads the maps, and is called by the first `apply` if not before.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._present = Present()
        self._known = False
        self._report = Report()

    def load(self) -> None:
        """Read what the maps hold."""
        self._present = read_present(self._tables)
        self._known = True

    def names(self) -> set[str]:
        """Names of all Service ports that the maps hold."""
        return set(self._present.ports)

    def apply(
        self,
        wanted: Iterable[WantedService],
        gone: Iterable[str] = (),
        keeps: Callable[[str], bool] | None = None,
    ) -> Report:
        """Make the maps hold `wanted`, and nothing of the names in `gone`; others stay.

        `wanted` may be produced while it is consumed, and `gone` is looked at after the last of it.
        What fails is in the report, and as it was before; ask for it again. An address may move
        from one name to another in one call.
        `keeps` tells by name which ports must lose nothing of what an earlier process gave them;
        they are held if they would, and others that want one of their addresses do without. Not
        given: none.
        """
        if not self._known:
            self.load()
        # An exception on the way, and the next call reads the maps again.
        self._known = False
        self._report = Report()
        unfinished: list[Change] = []
        kept: set[str] = set()
        empty: set[str] = set()
        waiting = iter(wanted)
        while batch := list(islice(waiting, ROUND)):
            kept.update(service.name for service in batch)
            if keeps is not None:
                batch = self._hold_back(batch, keeps)
            empty.update(service.name for service in batch if not service.frontends)
            changes = [
                change
                for service in batch
                if service.frontends and (change := plan(self._present, service)) is not None
            ]
            self._write(changes)
            unfinished += [change for change in changes if change.leaves_something()]
        ports = self._present.ports
        leaving = ({*gone, *self._present.orphans} - kept) | empty
        if keeps is not None:
            mine = leaving & ports.keys()
            held = {name for name in mine if served_before(ports[name]) and keeps(name)}
            self._report.held |= held
            leaving -= held
        unfinished += [plan_removal(ports[name]) for name in sorted(leaving & ports.keys())]
        self._clear(unfinished)
        self._present.settle_orphans()
        self._known = True
        return self._report

    def _hold_back(
        self, batch: list[WantedService], keeps: Callable[[str], bool]
    ) -> list[WantedService]:
        """The Service ports as far as they take nothing away from those that keep it."""
        may: list[WantedService] = []
        for service in batch:
            left = without_addresses_kept(self._present, service, keeps)
            if left is not service:
                self._report.held.add(service.name)
            if keeps(service.name) and gives_up(self._present, left):
                self._report.held.add(service.name)
            else:
                may.append(left)
        return may

    # ---- writing: first what nothing points to yet, then what points to it ------------------

    def _write(self, changes: list[Change]) -> None:
        tables, present, put = self._tables, self._present, self._report.put
        if any(change.udp for change in changes):
            self._announce_udp()
        put(tables.names, changes, lambda change: change.name, _note_name)
        put(tables.members, changes, lambda change: change.members, _note_member)
        put(tables.ranges, changes, lambda change: change.ranges, _note_range)
        put(tables.backends, changes, backend_pairs, _no_note)
        present.torn -= {change.base for change in changes if not change.failed}
        self._widen_node_ports(changes)
        put(tables.frontends, changes, lambda change: change.inserts, present.put_frontend)
        for change in changes:
            # Not all of its new addresses found room: none of them shall be served.
            change.undo = change.failed
        put(tables.frontends, changes, lambda change: change.flips, present.put_frontend)

    def _widen_node_ports(self, changes: list[Change]) -> None:
        """Have the programs look for NodePorts as far as these changes bring new ones."""
        numbers: set[int] = set()
        mine: list[Change] = []
        for change in changes:
            new = {node_port_of(key) for key, _ in change.inserts} - {0}
            if new and not change.failed:
                numbers |= new
                mine.append(change)
        if not mine:
            return
        before = config.node_ports(self._tables)
        try:
            self._set_node_ports(before, config.Span.over(*before, *numbers))
        except (MapFull, OSError) as error:
            for change in mine:
                self._report.fail(change, error)

    def _set_node_ports(self, before: config.Span, now: config.Span) -> None:
        if now != before:
            config.set_node_ports(self._tables, now)
            self._report.writes += 1

    # ---- clearing: what nothing points to any more ------------------------------------------

    def _clear(self, changes: list[Change]) -> None:
        """Delete what the changes left unused, frontends first, names last."""
        delete = self._report.delete
        if any(change.udp for change in changes):
            self._announce_udp()
        frontends = [(change, stale_frontends(change)) for change in changes]
        delete(self._tables.frontends, frontends, self._present.drop_frontend)
        self._narrow_node_ports()
        self._clear_sets(changes)
        members = [(change, stale_members(change)) for change in changes]
        delete(self._tables.members, members, _drop_member)
        ranges = [(change, stale_ranges(change)) for change in changes]
        delete(self._tables.ranges, ranges, _drop_range)
        self._clear_leftovers()
        self._raise_udp_epoch()
        self._clear_names(changes)

    def _narrow_node_ports(self) -> None:
        """Have the programs look for NodePorts where there are some, and nowhere else."""
        before = config.node_ports(self._tables)
        try:
            self._set_node_ports(before, config.Span.over(*self._present.node_ports))
        except (MapFull, OSError) as error:
            self._report.failed[HOUSEKEEPING] = error

    def _clear_sets(self, changes: list[Change]) -> None:
        unused = [(change, unused_bases(change)) for change in changes]
        keys = [
            (change, [key for base in bases for key in backend_keys(change.port, base)])
            for change, bases in unused
        ]
        failed = self._report.delete(self._tables.backends, keys, _no_drop)
        for change, bases in unused:
            if change.port.name in failed:
                self._present.torn.update(bases)
                continue
            for base in bases:
                del change.port.sets[base]
                self._present.free_base(base)

    def _clear_names(self, changes: list[Change]) -> None:
        """Take the names of ports that are wanted no more, or could not begin."""
        names = [
            (change, [NameKey(NameKind.SERVICE, change.port.id).pack()])
            for change in changes
            if (change.wanted is None or change.failed) and not change.port.in_use()
        ]
        self._report.delete(self._tables.names, names, lambda port, _: self._present.forget(port))

    def _clear_leftovers(self) -> None:
        """Delete what a killed run left, and what never belonged to anything."""
        present, tables = self._present, self._tables
        for table, keys in (
            (tables.names, present.left_names),
            (tables.backends, present.left_backends),
            (tables.members, present.left_members),
            (tables.ranges, present.left_ranges),
        ):
            if not keys:
                continue
            try:
                self._report.writes += table.delete_many_raw(keys)
            except OSError as error:
                self._report.failed[HOUSEKEEPING] = error
            else:
                keys.clear()

    # ---- UDP flows --------------------------------------------------------------------------

    def _announce_udp(self) -> None:
        """Leave word that known UDP flows must be judged again, should we not get to it."""
        if self._present.udp_due:
            return
        self._present.udp_due = True
        try:
            self._tables.members.put_raw(UDP_DUE, Member(0).pack())
            self._report.writes += 1
        except (MapFull, OSError):
            # We remember it ourselves; only a kill before the end of this call would lose it.
            return

    def _raise_udp_epoch(self) -> None:
        if not self._present.udp_due:
            return
        try:
            config.raise_epoch(self._tables, udp=True)
            self._report.writes += 1 + self._tables.members.delete_raw(UDP_DUE)
            self._present.udp_due = False
        except (MapFull, OSError) as error:
            self._report.failed[HOUSEKEEPING] = error


def _note_name(port: Port, _key: bytes, _value: bytes) -> None:
    port.named = True


def _note_member(port: Port, key: bytes, value: bytes) -> None:
    port.members[key] = Member.unpack(value).flags


def _drop_member(port: Port, key: bytes) -> None:
    port.members.pop(key, None)


def _note_range(port: Port, key: bytes, _value: bytes) -> None:
    port.add_range(key)


def _drop_range(port: Port, key: bytes) -> None:
    port.drop_range(key)


def _no_note(_port: Port, _key: bytes, _value: bytes) -> None:
    """A backend set is noted when it is planned."""


def _no_drop(_port: Port, _key: bytes) -> None:
    """A backend set is dropped as a whole, when all of it is gone."""
