"""Writes the Grafana dashboard, kpbpf.json, from panels.yaml.

Run it as `python -m deploy.monitoring.dashboard`. The result is committed, because operators
import it as it is; a test compares the two. What is shown is not decided here, only where.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
FILE = HERE / "kpbpf.json"

WHERE = 'job=~"$job",instance=~"$instance"'
"""What every query is narrowed to: the "@" of panels.yaml."""

WIDTH = 24
SIZES = {"stat": (4, 4), "timeseries": (8, 7)}
"""Width and height of a panel by its kind, in Grafana's units."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def text() -> str:
    """Make the file's content."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


def dashboard() -> dict[str, Any]:
    """Make what Grafana imports (schema 39: Grafana 10.4 and later)."""
    nodes = 'label_values(kpbpf_build_info{job=~"$job"}, instance)'
    return {
        "title": "kpbpf",
        "uid": "kpbpf",
        "description": "Kubernetes Services in eBPF: the daemons of all nodes.",
        "tags": ["kpbpf", "kubernetes", "network"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "editable": True,
        "graphTooltip": 1,
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data",
                    "type": "datasource",
                    "query": "prometheus",
                },
                _variable("job", "Job", "label_values(kpbpf_build_info, job)"),
                _variable("instance", "Node", nodes),
            ]
        },
        "panels": _panels(yaml.safe_load((HERE / "panels.yaml").read_text())),
    }


def _panels(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lay the rows out below each other, the panels of a row side by side while they fit."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        panels.append({"type": "row", "title": row["row"], "gridPos": place, "panels": []})
        top += 1
        left = height = 0
        for panel in row["panels"]:
            width, high = SIZES[panel.get("kind", "timeseries")]
            if left + width > WIDTH:
                top, left, height = top + height, 0, 0
            panels.append(_panel(panel, {"x": left, "y": top, "w": width, "h": high}))
            left, height = left + width, max(height, high)
        top += height
    return [{"id": number, **panel} for number, panel in enumerate(panels, 1)]


def _panel(panel: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    kind = panel.get("kind", "timeseries")
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if "alarm" in panel:
        steps.append({"color": "red", "value": panel["alarm"]})
    defaults: dict[str, Any] = {
        "unit": panel.get("unit", "short"),
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}}
    if kind == "stat":
        options = {"colorMode": "value", "reduceOptions": {"calcs": ["lastNotNull"]}}
        defaults["noValue"] = "0"
    return {
        "type": kind,
        "title": panel["title"],
        "description": panel["about"],
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": expression.replace("@", WHERE),
                "legendFormat": legend,
            }
            for number, (legend, expression) in enumerate(panel["queries"].items())
        ],
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    """Make a choice at the dashboard's head, of whatever Prometheus knows."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    FILE.write_text(text())
