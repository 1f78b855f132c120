"""The dashboard and the alerts speak of metrics, labels and values that are really exported."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from controllers.flows import Swept
from deploy.monitoring import dashboard
from kpbpf.web import Request
from maps import abi, show
from maps.abi import Hook, State, Verdict
from tests.unit.test_observed import Pod, Reflector, Scrape

TARGET = {"job", "instance", "node", "namespace", "pod", "container", "endpoint"}
"""Labels that Prometheus adds to whatever it scrapes."""

VALUES = {
    "verdict": {verdict.short for verdict in Verdict},
    "hook": {hook.short for hook in Hook},
    "map": set(abi.MAPS),
    "ip_family": {"IPv4", "IPv6"},
    "code": {"200", "503"},
}
"""What the values of a label can be, where that is known."""


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Labels of every series, by name, of a daemon that has something of everything."""
    scrape = Scrape()
    scrape.seen.maps = show.map_usage(scrape.tables)
    scrape.seen.retried = {"objects": 1}
    scrape.seen.own_services = {1: "default/web"}
    scrape.seen.take_sweep(Swept(0, {(6, int(State.TCP_NEW)): 1}, {1: 1}))
    scrape.seen.reflectors = lambda: [Reflector("services", True, 1, 1, 1, 1, 1.0)]
    scrape.seen.pods = [Pod("route", "")]
    answer = scrape.metrics.answer(Request("GET", "/metrics", {}, {}))
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            found[sample.name] |= sample.labels.keys()
    return {"up": set(), **found}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dashboard.FILE.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    manifest = yaml.safe_load((dashboard.HERE / "alerts.yaml").read_text())
    return [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]


def queries() -> list[tuple[str, str, str]]:
    """Where it stands, the query, and the text in which its labels are named."""
    return [
        (f"panel {panel['title']}", target["expr"], target["legendFormat"])
        for panel in panels()
        for target in panel["targets"]
    ] + [
        (f"alert {rule['alert']}", rule["expr"], " ".join(rule["annotations"].values()))
        for rule in alerts()
    ]


def parse(query: str) -> promql_parser.Expr:
    return promql_parser.parse(query.replace("$__rate_interval", "5m"))


def nodes(query: promql_parser.Expr) -> Iterator[promql_parser.Expr]:
    """The query and all that is in it."""
    yield query
    for attribute in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(query, attribute, None)
        if isinstance(inner, promql_parser.Expr):
            yield from nodes(inner)
    for argument in getattr(query, "args", ()):
        yield from nodes(argument)


def selectors(query: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    return [node for node in nodes(query) if isinstance(node, promql_parser.VectorSelector)]


def labels_of(query: promql_parser.Expr, exported: dict[str, set[str]]) -> set[str]:
    """Labels of what comes out; those it groups by have to be there before."""
    match query:
        case promql_parser.VectorSelector():
            return TARGET | exported[str(query.name)]
        case promql_parser.MatrixSelector():
            return labels_of(query.vector_selector, exported)
        case promql_parser.AggregateExpr():
            inside = labels_of(query.expr, exported)
            by = set(query.modifier.labels) if query.modifier else set()
            assert by <= inside, f"{by - inside} cannot be grouped by"
            return by
        case promql_parser.Call():
            return set().union(*(labels_of(one, exported) for one in query.args))
        case promql_parser.BinaryExpr():
            return labels_of(query.lhs, exported) or labels_of(query.rhs, exported)
        case promql_parser.ParenExpr():
            return labels_of(query.expr, exported)
        case promql_parser.NumberLiteral():
            return set()
    raise AssertionError(f"this test does not know {type(query)}")


@pytest.mark.parametrize(("where", "query", "words"), queries(), ids=lambda text: text[:40])
def test_a_query_is_promql_of_exported_metrics_and_labels(
    where: str, query: str, words: str, exported: dict[str, set[str]]
) -> None:
    parsed = parse(query)
    found = selectors(parsed)
    assert found, where
    for selector in found:
        assert selector.name in exported, f"{where}: {selector.name} is not exported"
        own = TARGET | exported[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in own, f"{where}: {selector.name} has no label {matcher.name}"
            if matcher.name in VALUES:
                unknown = set(matcher.value.split("|")) - VALUES[matcher.name]
                assert not unknown, f"{where}: no {matcher.name} is {unknown}"
    named = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", words))
    missing = named - labels_of(parsed, exported)
    assert not missing, f"{where}: {missing} are no labels of what comes out"


def test_every_exported_kpbpf_metric_but_a_few_is_shown_or_watched(
    exported: dict[str, set[str]],
) -> None:
    used = {str(selector.name) for _, query, _ in queries() for selector in selectors(parse(query))}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported if "kpbpf_" in name}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert ours - shown == {
        "kpbpf_endpoints",
        "kpbpf_events_dropped_total",
        "kpbpf_last_sync_timestamp_seconds",
        "kpbpf_map_capacity",
        "kpbpf_reflector_synced",
        "kpbpf_services",
    }


def test_the_dashboard_is_what_its_panels_make() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), (
        "kpbpf.json is out of date: python -m deploy.monitoring.dashboard"
    )


def test_panels_do_not_lie_on_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= dashboard.WIDTH
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_the_rows_are_there() -> None:
    found = json.loads(dashboard.FILE.read_text())
    rows = [panel["title"] for panel in found["panels"] if panel["type"] == "row"]
    assert rows[0] == "Is it healthy?"
    assert {"Programming latency", "Syncs", "Packets", "Flows", "Maps", "API server"} < set(rows)
    assert [one["name"] for one in found["templating"]["list"]] == ["datasource", "job", "instance"]


def test_an_alert_says_what_it_means_what_to_do_and_how_urgent_it_is() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
        assert len(rule["annotations"]["description"]) > 60, rule["alert"]


def test_the_pod_monitor_scrapes_the_port_and_pods_of_the_daemonset() -> None:
    monitor = yaml.safe_load((dashboard.HERE / "pod-monitor.yaml").read_text())["spec"]
    daemons = yaml.safe_load((dashboard.HERE.parent / "base" / "daemonset.yaml").read_text())
    template = daemons["spec"]["template"]
    assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ports = [one["name"] for one in template["spec"]["containers"][0]["ports"]]
    assert monitor["podMetricsEndpoints"][0]["port"] in ports
    assert template["metadata"]["labels"][monitor["jobLabel"]] == "kpbpf", "what the alerts expect"
