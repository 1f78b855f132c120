"""`kpbpf svc get`: everything of one Service, for somebody who wonders why it does not answer.

Where it is served stands in the maps; which endpoints there are, and why some are not used, the
running daemon tells. What the two of them do not agree about is named. In words: svc_words.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from kpbpf.address import with_port
from kpbpf.cli import asking, options, svc_words
from kpbpf.cli.output import Column, age, document, facts, listed, rows, yes_no
from kpbpf.cli.svc_list import join
from kpbpf.errors import NotFound
from kpbpf.home import Home
from maps import show, show_node, show_services, table
from maps.table import Tables

FRONTENDS = (
    Column("FRONTEND", "frontend"),
    Column("ADDRESS", "address"),
    Column("PORT", "port"),
    Column("PROTOCOL", "protocol"),
    Column("POLICY", "traffic_policy"),
    Column("WHO CONNECTS REACHES", "reaches"),
    Column("SERVICE PORT", "name", wide=True),
    Column("ID", "id", wide=True),
)
ENDPOINTS = (
    Column("ENDPOINT", "address"),
    Column("PROTOCOL", "protocol"),
    Column("NODE", "node"),
    Column("HERE", "here", yes_no),
    Column("READY", "ready", yes_no),
    Column("SERVING", "serving", yes_no),
    Column("TERMINATING", "terminating", yes_no),
    Column("USED", "used"),
    Column("WHY NOT", "why_not"),
    Column("POD", "pod"),
    Column("PORT NAME", "port", wide=True),
    Column("FOR ZONES", "for_zones", listed, wide=True),
    Column("FOR NODES", "for_nodes", listed, wide=True),
)
_FROM_MAPS = ("address", "protocol", "here", "used", "pod")
"""What is known of an endpoint while no daemon runs."""


def get(arguments: argparse.Namespace) -> int:
    """Find the Services that are meant, and show all of each."""
    home = options.home(arguments)
    asked = arguments.service
    if arguments.namespace and "/" not in asked:
        asked = f"{arguments.namespace}/{asked}"
    with table.open_tables(home) as tables:
        found = [collect(home, tables, path) for path in find(home, tables, asked)]
    if arguments.output in ("json", "yaml"):
        document(arguments.output, found)
        return 0
    for number, service in enumerate(found):
        print(end="\n\n" if number else "")
        _tell(arguments.output, service)
    return 0


def find(home: Home, tables: Tables, asked: str) -> list[str]:
    """namespace/name of every Service that somebody who typed `asked` may mean; else NotFound."""
    place = options.ip_and_port_or_none(asked)
    served = show_services.services(tables)
    if place:
        address = with_port(*place)
        found = {options.path_of(row["name"]) for row in served if _place(row) == address}
        known: set[str] = set()
    else:
        found = {
            options.path_of(row["name"]) for row in served if options.names(asked, row["name"])
        }
        known = {options.path_of(row["name"]) for row in served}
        # Those that are not served have no address, but somebody may wonder why.
        known |= set(asking.ask(home, "services") or ())
        found |= {path for path in known if options.names(asked, f"{path}/")}
    if not found:
        raise NotFound(
            f"there is no Service {asked}{options.closest(asked, sorted(known))}; "
            "`kpbpf svc ls` lists those there are"
        )
    return sorted(found)


def collect(home: Home, tables: Tables, path: str) -> dict[str, Any]:
    """All of one Service: `notes` says what is not as it should be."""
    names = {
        row["name"]
        for row in show_services.services(tables)
        if options.path_of(row["name"]) == path
    }
    written = [row for name in sorted(names) for row in show_services.service(tables, name)]
    told = asking.ask(home, "service", name=path) or {}
    pods = {ip: row["name"] for row in show.endpoints(tables) for ip in row["ips"]}
    frontends = join(written, {path: told} if told else {})
    for row in frontends:
        row["reaches"] = svc_words.reaches(row)
    return {
        "name": path,
        "type": told.get("type"),
        "labels": told.get("labels"),
        "internal_traffic_policy": told.get("internal_traffic_policy")
        or _policy(written, inside=True),
        "external_traffic_policy": told.get("external_traffic_policy")
        or _policy(written, inside=False),
        "affinity_sec": max((row["affinity_sec"] or 0 for row in written), default=0) or None,
        "source_ranges": told.get("source_ranges") or _ranges(tables, written),
        "health_check_port": told.get("health_check_port"),
        "frontends": frontends,
        "endpoints": _endpoints(told, written, pods),
        "notes": svc_words.notes(told, written),
    }


def _policy(written: Sequence[show_services.ServiceRow], inside: bool) -> str | None:
    for row in written:
        if (row["frontend"] == show_services.CLUSTER_IP) is inside:
            return row["traffic_policy"]
    return None


def _ranges(tables: Tables, written: Sequence[show_services.ServiceRow]) -> list[str]:
    ids = {row["id"] for row in written if row["source_ranges"]}
    found = [block for id_ in sorted(ids) for block in show_node.source_ranges(tables, id_)]
    return list(dict.fromkeys(found))


def _endpoints(
    told: Mapping[str, Any],
    written: Sequence[show_services.ServiceRow],
    pods: Mapping[str, str],
) -> list[dict[str, Any]]:
    """All endpoints as the daemon tells them; without it, those that the maps lead to."""
    if told:
        return [
            {
                **one,
                "used": svc_words.used(one["in_cluster_set"], one["in_local_set"]),
                "pod": pods.get(options.host_of(one["address"])),
            }
            for one in told["endpoints"]
        ]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in written:
        for address in dict.fromkeys([*row["backends"], *row["local_backends"]]):
            local = address in row["local_backends"]
            found[address, row["protocol"]] = {
                "address": address,
                "protocol": row["protocol"],
                "here": local,
                "used": svc_words.used(address in row["backends"], local),
                "pod": pods.get(options.host_of(address)),
            }
    return [found[key] for key in sorted(found)]


def _tell(output: str, service: Mapping[str, Any]) -> None:
    """Print one Service: what is said of it, frontends, endpoints, and what is not well."""
    affinity = service["affinity_sec"]
    facts(
        [
            ("Name", service["name"]),
            ("Type", service["type"] or "known to a running daemon only"),
            *_if("Labels", listed([f"{k}={v}" for k, v in (service["labels"] or {}).items()])),
            *_if("Internal traffic policy", service["internal_traffic_policy"]),
            *_if("External traffic policy", service["external_traffic_policy"]),
            ("Affinity", f"client address, {age(affinity)}" if affinity else "none"),
            *_if("Source ranges", listed(service["source_ranges"])),
            *_if("Health check port", service["health_check_port"]),
        ]
    )
    if service["frontends"]:
        print()
        rows(output, FRONTENDS, service["frontends"])
    endpoints = service["endpoints"]
    if endpoints:
        print()
        known = [one for one in ENDPOINTS if "ready" in endpoints[0] or one.key in _FROM_MAPS]
        rows(
            output,
            [one for one in known if one.key != "why_not" or _any(one, endpoints)],
            endpoints,
        )
    if service["notes"]:
        print("\nNot as it should be:")
        print("\n".join(f"  {note}" for note in service["notes"]))


def _any(column: Column, table: Sequence[Mapping[str, Any]]) -> bool:
    return any(row.get(column.key) for row in table)


def _if(name: str, value: object) -> list[tuple[str, str]]:
    """A line, where there is something to say."""
    return [] if value in (None, "", "-") else [(name, str(value))]


def _place(row: show_services.ServiceRow) -> str:
    host = f"[{row['address']}]" if ":" in row["address"] else row["address"]
    return f"{host}:{row['port']}"
