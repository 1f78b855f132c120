"""The Service maps from what they hold to what is wanted, safe at every step.

Only differences are written. A changed set of backends is written under a fresh base, and
then each frontend turns to it in one update; what nothing points to any more is deleted last.
So no packet sees half a set, and a run that is killed anywhere leaves whole entries and at
worst some that nobody uses, which the next run finds.

UDP flows hold on to a backend until kp_config.udp_epoch is raised. That must follow the other
writes, and must not be lost to a kill; so a member of no Service (maps.present.UDP_DUE)
stands in the map from before the first of these writes until the epoch is raised.

While the view of what is wanted is not whole, what is not in it may only not have been read: a
port that must keep what an earlier process gave it loses none of that, to nobody.

The caller holds Home.writer_lock. Nothing here knows what a Service is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from kpbpf.errors import MapFull
from maps import config
from maps.abi import Member, NameKey, NameKind
from maps.plan import (
    Change,
    Pair,
    backend_keys,
    backend_pairs,
    gives_up,
    plan,
    plan_removal,
    served_before,
    stale_frontends,
    stale_members,
    unused_bases,
    without_addresses_kept,
)
from maps.present import UDP_DUE, Port, Present, read_present
from maps.table import Table, Tables
from maps.wanted import WantedService

__all__ = ["HOUSEKEEPING", "Report", "ServiceSync", "WantedService"]

#: Service ports that are written together: enough for batches, few enough for memory.
ROUND = 512

#: What Report.failed calls the writes that belong to no Service port.
HOUSEKEEPING = "(housekeeping)"


@dataclass(slots=True)
class Report:
    """Entries written and deleted, and the names of Service ports that are not as wanted.

    `failed` could not be written; `held` were left alone, because the view was not whole.
    """

    writes: int = 0
    failed: dict[str, Exception] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)


class ServiceSync:
    """Owner of frontends, backends, members and the names of Service ports.

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
        tables, present = self._tables, self._present
        if any(change.udp for change in changes):
            self._announce_udp()
        self._put(tables.names, changes, lambda change: change.name, _note_name)
        self._put(tables.members, changes, lambda change: change.members, _note_member)
        self._put(tables.backends, changes, backend_pairs, _no_note)
        present.torn -= {change.base for change in changes if not change.failed}
        self._put(tables.frontends, changes, lambda change: change.inserts, present.put_frontend)
        for change in changes:
            # Not all of its new addresses found room: none of them shall be served.
            change.undo = change.failed
        self._put(tables.frontends, changes, lambda change: change.flips, present.put_frontend)

    def _put(
        self,
        table: Table[Any, Any],
        changes: Sequence[Change],
        pairs_of: Callable[[Change], list[Pair]],
        note: Callable[[Port, bytes, bytes], None],
    ) -> None:
        """Write for all changes at once; if that fails, one by one, to see whose it is."""
        work = [(change, pairs_of(change)) for change in changes if not change.failed]
        pairs = [pair for _, some in work for pair in some]
        if not pairs:
            return
        try:
            table.put_many_raw(pairs)
        except (MapFull, OSError):
            for change, some in work:
                self._put_singly(table, change, some, note)
            return
        self._report.writes += len(pairs)
        for change, some in work:
            for key, value in some:
                note(change.port, key, value)

    def _put_singly(
        self,
        table: Table[Any, Any],
        change: Change,
        pairs: Iterable[Pair],
        note: Callable[[Port, bytes, bytes], None],
    ) -> None:
        waiting = deque(pairs)
        try:
            while waiting:
                key, value = waiting[0]
                table.put_raw(key, value)
                self._report.writes += 1
                note(change.port, key, value)
                waiting.popleft()
        except (MapFull, OSError) as error:
            self._fail(change, error)
            # The batch that failed first may have got as far as these.
            for key, value in waiting:
                if table.get_raw(key) == value:
                    note(change.port, key, value)

    # ---- clearing: what nothing points to any more ------------------------------------------

    def _clear(self, changes: list[Change]) -> None:
        """Delete what the changes left unused, frontends first, names last."""
        if any(change.udp for change in changes):
            self._announce_udp()
        frontends = [(change, stale_frontends(change)) for change in changes]
        self._delete(self._tables.frontends, frontends, self._present.drop_frontend)
        self._clear_sets(changes)
        members = [(change, stale_members(change)) for change in changes]
        self._delete(self._tables.members, members, _drop_member)
        self._clear_leftovers()
        self._raise_udp_epoch()
        self._clear_names(changes)

    def _clear_sets(self, changes: list[Change]) -> None:
        unused = [(change, unused_bases(change)) for change in changes]
        keys = [
            (change, [key for base in bases for key in backend_keys(change.port, base)])
            for change, bases in unused
        ]
        failed = self._delete(self._tables.backends, keys, _no_drop)
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
            if (change.wanted is None or change.failed)
            and not (change.port.frontends or change.port.sets or change.port.members)
        ]
        self._delete(self._tables.names, names, lambda port, _: self._present.forget(port))

    def _clear_leftovers(self) -> None:
        """Delete what a killed run left, and what never belonged to anything."""
        present, tables = self._present, self._tables
        for table, keys in (
            (tables.names, present.left_names),
            (tables.backends, present.left_backends),
            (tables.members, present.left_members),
        ):
            if not keys:
                continue
            try:
                self._report.writes += table.delete_many_raw(keys)
            except OSError as error:
                self._report.failed[HOUSEKEEPING] = error
            else:
                keys.clear()

    def _delete(
        self,
        table: Table[Any, Any],
        work: list[tuple[Change, list[bytes]]],
        note: Callable[[Port, bytes], None],
    ) -> set[str]:
        """Delete for all changes at once, else one by one; names of the ports that failed."""
        keys = [key for _, some in work for key in some]
        if not keys:
            return set()
        try:
            self._report.writes += table.delete_many_raw(keys)
        except OSError:
            return {
                change.port.name
                for change, some in work
                if not self._delete_singly(table, change, some, note)
            }
        for change, some in work:
            for key in some:
                note(change.port, key)
        return set()

    def _delete_singly(
        self,
        table: Table[Any, Any],
        change: Change,
        keys: list[bytes],
        note: Callable[[Port, bytes], None],
    ) -> bool:
        waiting = deque(keys)
        try:
            while waiting:
                self._report.writes += table.delete_raw(waiting[0])
                note(change.port, waiting.popleft())
        except OSError as error:
            self._fail(change, error)
            for key in waiting:
                if table.get_raw(key) is None:
                    note(change.port, key)
            return False
        return True

    # ---- UDP flows, and failures ------------------------------------------------------------

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

    def _fail(self, change: Change, error: Exception) -> None:
        change.failed = True
        self._report.failed[change.port.name] = error


def _note_name(port: Port, _key: bytes, _value: bytes) -> None:
    port.named = True


def _note_member(port: Port, key: bytes, value: bytes) -> None:
    port.members[key] = Member.unpack(value).flags


def _drop_member(port: Port, key: bytes) -> None:
    port.members.pop(key, None)


def _no_note(_port: Port, _key: bytes, _value: bytes) -> None:
    """A backend set is noted when it is planned."""


def _no_drop(_port: Port, _key: bytes) -> None:
    """A backend set is dropped as a whole, when all of it is gone."""
