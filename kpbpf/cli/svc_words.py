"""What `kpbpf svc get` says of a Service, in words that a tired person understands.

Pure: from rows of the maps and what the daemon told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maps.show_services import CLUSTER_IP, ServiceRow

_SHOWN = 5
"""Of many addresses, those that a note names."""


def used(cluster: bool, local: bool) -> str | None:
    """For which traffic an endpoint is used: that of policy Cluster, Local, or both."""
    return ",".join(word for word, is_ in (("cluster", cluster), ("local", local)) if is_) or None


def reaches(row: Mapping[str, Any]) -> str:
    """Who connects to a frontend reaches these endpoints (SEMANTICS A19 to A21, and A.4)."""
    count, local = row["endpoints"], row["local_endpoints"]
    ranges = "; only from the source ranges" if row["source_ranges"] else ""
    if not count:
        return "nobody: refused, no endpoint can be used"
    everybody = f"{'all' if count > 1 else 'the'} {_many(count)}"
    here = f"{_many(local)} on this node"
    if row["traffic_policy"] == "Cluster":
        return everybody + ranges
    if row["frontend"] == CLUSTER_IP:
        return f"only the {here}" if local else "nobody: dropped, no endpoint is on this node"
    outside = f"only the {here}" if local else "nobody (dropped, no endpoint is on this node)"
    return f"from outside {outside}; from pods and this node {everybody}{ranges}"


def _many(count: int) -> str:
    return f"{count} endpoint{'s' * (count != 1)}"


def notes(told: Mapping[str, Any], written: Sequence[ServiceRow]) -> list[str]:
    """What is not as it should be, a sentence each; without a daemon nobody can know."""
    if not told:
        return []
    found = []
    if told["not_served"]:
        found.append(f"not served: {told['not_served']}")
    found += [
        f"{claim['frontend']} leads to Service {claim['service']}, which claims it, too"
        for claim in told["claimed_by_others"]
    ]
    found += [f"{name} could not be written: {why}" for name, why in told["failed"].items()]
    if told["held"]:
        held = _some(told["held"])
        found.append(f"left as it was before this start, until all sources can be read: {held}")
    if told["waiting"] and not told["failed"] and not told["held"]:
        found.append("changed a moment ago: not written yet")
    return found + _differences(told, written)


def _differences(told: Mapping[str, Any], written: Sequence[ServiceRow]) -> list[str]:
    """Where the maps hold something else than the daemon wants."""
    lost = {claim["frontend"] for claim in told["claimed_by_others"]}
    wanted = set(told["frontends"]) - lost
    present = {_frontend(row) for row in written}
    found = []
    if wanted - present:
        found.append(f"not served yet: {_some(wanted - present)}")
    if present - wanted:
        found.append(f"still served: {_some(present - wanted)}")
    chosen = {
        (one["protocol"], one["address"])
        for one in told["endpoints"]
        if one["in_cluster_set"] or one["in_local_set"]
    }
    leading = {
        (row["protocol"], address)
        for row in written
        for address in (*row["backends"], *row["local_backends"])
    }
    # Of a Service whose addresses are all another's nothing is written.
    if written and chosen - leading:
        found.append(f"not used yet: {_some(address for _, address in chosen - leading)}")
    if leading - chosen:
        found.append(f"still used: {_some(address for _, address in leading - chosen)}")
    return found


def _frontend(row: ServiceRow) -> str:
    host = f"[{row['address']}]" if ":" in row["address"] else row["address"]
    return f"{host}:{row['port']}/{row['protocol']}"


def _some(things: Any) -> str:
    """The first few in order, and how many more there are."""
    ordered = sorted(things)
    shown = ", ".join(ordered[:_SHOWN])
    return shown if len(ordered) <= _SHOWN else f"{shown} and {len(ordered) - _SHOWN:,} more"
