"""The pages of the daemon's two servers: what stands at which path (SEMANTICS A53, A54)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from controllers.health import NOSNIFF, Health
from kpbpf.metrics import Metrics
from kpbpf.web import JSON, TEXT, Answer, Make, routes

PROXY_MODE = "kpbpf"
"""Where kube-proxy says "iptables" or "nftables"."""


def health_pages(health: Health) -> Make:
    """Make the pages of the health server, which load balancers and the kubelet ask."""
    return routes({"/healthz": health.healthz, "/livez": health.livez})


def metrics_pages(metrics: Metrics, health: Health, configuration: Mapping[str, Any]) -> Make:
    """Make the pages of the metrics server; `configuration` is Settings.configuration."""
    configz = {"kubeproxy.config.k8s.io": dict(configuration)}
    body = json.dumps(configz, separators=(",", ":"), default=str).encode()
    return routes(
        {
            "/metrics": metrics.answer,
            "/readyz": health.readyz,
            "/healthz": lambda _: Answer(200, b"ok"),
            "/proxyMode": lambda _: Answer(200, PROXY_MODE.encode(), TEXT, NOSNIFF),
            "/configz": lambda _: Answer(200, body, JSON, NOSNIFF),
        }
    )
