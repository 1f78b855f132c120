"""Kubeconfig files, as kubeadm writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cluster.authority import Pair


def write_kubeconfig(
    path: Path,
    url: str,
    *,
    ca: Path | None = None,
    token: str | None = None,
    token_file: Path | None = None,
    client: Pair | None = None,
) -> Path:
    """A kubeconfig (JSON, which is YAML) with one cluster, one user, one context."""
    cluster: dict[str, Any] = {"server": url}
    if ca:
        cluster["certificate-authority"] = str(ca)
    user: dict[str, Any] = {}
    if token is not None:
        user["token"] = token
    if token_file:
        user["tokenFile"] = str(token_file)
    if client:
        user["client-certificate"] = str(client.certificate)
        user["client-key"] = str(client.key)
    raw = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "double", "cluster": cluster}],
        "users": [{"name": "kpbpf", "user": user}],
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "kpbpf"}}],
        "current-context": "double",
    }
    path.write_text(json.dumps(raw, indent=1))
    path.chmod(0o600)
    return path
