"""`kpbpf svc ls`: every frontend from the maps, with what the running daemon adds to it.

Joins, chooses and prints rows. While no daemon runs, types and labels are missing, and no more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kpbpf.cli import asking, options, output
from kpbpf.cli.output import Column, Row, age, yes_no
from kpbpf.errors import KpbpfError, Usage
from kpbpf.home import Home
from maps import show_services, table
from maps.table import Tables

if TYPE_CHECKING:
    from kpbpf.model.labels import Selector

Told = Mapping[str, Mapping[str, Any]]
"""What the daemon told of each Service, by namespace/name."""


def _labels(labels: Mapping[str, str]) -> str:
    return output.listed([f"{name}={value}" for name, value in labels.items()])


COLUMNS = (
    Column("NAME", "name"),
    Column("TYPE", "type"),
    Column("FRONTEND", "frontend"),
    Column("ADDRESS", "address"),
    Column("PORT", "port"),
    Column("PROTOCOL", "protocol"),
    Column("HERE", "here"),
    Column("ELSEWHERE", "elsewhere"),
    Column("POLICY", "traffic_policy"),
    Column("AFFINITY", "affinity_sec", age),
    Column("ENDPOINTS", "endpoints", wide=True),
    Column("LOCAL", "local_endpoints", wide=True),
    Column("SOURCE RANGES", "source_ranges", yes_no, wide=True),
    Column("LABELS", "labels", _labels, wide=True),
    Column("ID", "id", wide=True),
)


def ls(arguments: argparse.Namespace) -> int:
    """Print the list; with -w, go on with what changes."""
    home = options.home(arguments)
    listing = Listing(home, arguments.namespace, arguments.selector)
    with table.open_tables(home) as tables:
        if arguments.watch:
            from kpbpf.cli import watching

            if arguments.output == output.NAME:
                raise Usage("-w shows what changes; names do not: leave out one of -w and -o name")
            watching.watch(arguments.output, COLUMNS, lambda: listing.read(tables), _identity)
        elif arguments.output == output.NAME:
            names = sorted({options.path_of(row["name"]) for row in listing.read(tables)})
            sys.stdout.writelines(f"{name}\n" for name in names)
        else:
            output.rows(arguments.output, COLUMNS, listing.read(tables))
    return 0


def _identity(row: Row) -> tuple[Any, ...]:
    return row["name"], row["address"], row["port"], row["protocol"]


class Listing:
    """The rows that somebody asked for; may be read again and again.

    A daemon that is away for a while leaves its last word: nothing has changed by that.
    """

    def __init__(self, home: Home, namespace: str | None, selector: Selector | None) -> None:
        self._home = home
        self._namespace = namespace
        self._selector = selector
        self._told: Told = {}

    def read(self, tables: Tables) -> list[dict[str, Any]]:
        """All rows as of now, by name; an error where labels are asked for and nobody knows any."""
        told = asking.ask(self._home, "services")
        if told is None and self._selector and not self._told:
            raise KpbpfError(
                "labels are known to a running daemon only, and none answers; "
                "start `kpbpf run`, or leave -l out"
            )
        self._told = told or self._told
        rows = show_services.services(tables)
        return [row for row in join(rows, self._told) if self._wants(row)]

    def _wants(self, row: Row) -> bool:
        if self._namespace is not None and row["name"].partition("/")[0] != self._namespace:
            return False
        if self._selector is None:
            return True
        return self._selector.matches(tuple((row["labels"] or {}).items()))


def join(rows: Iterable[show_services.ServiceRow], told: Told) -> list[dict[str, Any]]:
    """Add to each row its Service's type and labels, and which kind of external address it is."""
    nothing: Mapping[str, Any] = {}
    found = []
    for row in rows:
        known = told.get(options.path_of(row["name"]), nothing) if told else nothing
        joined: dict[str, Any] = {"name": row["name"], "type": known.get("type"), **row}
        if row["frontend"] == show_services.EXTERNAL and known:
            joined["frontend"] = kind_of(row["address"], known)
        joined["labels"] = known.get("labels", {}) if known else None
        found.append(joined)
    return found


def kind_of(address: str, known: Mapping[str, Any]) -> str:
    """LoadBalancer or ExternalIP: the maps treat them alike."""
    if address in known.get("load_balancer_ips", ()):
        return "LoadBalancer"
    return "ExternalIP" if address in known.get("external_ips", ()) else show_services.EXTERNAL
