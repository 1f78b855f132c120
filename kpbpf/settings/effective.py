"""From what was asked, on the command line and in a file, to the settings that hold.

Which of two wins, which default applies, what has no effect and is named: SEMANTICS A57.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kpbpf import log
from kpbpf.errors import Fix, Usage
from kpbpf.settings import durations, file, flags, kinds, schema
from kpbpf.settings.outside import detect_local, node_port_addresses, one_family
from kpbpf.settings.schema import BY_PATH, FIELDS, OWN
from kpbpf.settings.settings import Address, Api, Asked, Settings

_NO_LIMIT_QPS = 1_000_000.0
_BIND_PATHS = ("healthzBindAddress", "metricsBindAddress")

Values = dict[str, Any]
"""Canonical values by the paths of their fields; only what somebody set, unless said."""


def read(
    asked: Asked,
    environment: Mapping[str, str] | None = None,
    hostname: str | None = None,
    needs_source: bool = True,
) -> Settings:
    """Find the settings out; may be called again when the file has changed.

    `environment` and `hostname` are the process's own by default. Without `needs_source` it is
    fine that nothing says where Services come from. Raises Fix for what is wrong with a file
    (and everything, where there is one), Usage for a wrong command line.
    """
    environment = os.environ if environment is None else environment
    own = flags.values(asked)
    warnings: list[str] = []
    name: Callable[[str], str] = _flag
    if asked.config is None:
        given = own
    else:
        in_file = file.read(asked.config)
        given, name = in_file | _counted(own), str
        warnings += _ignored(asked, own)
    if "logging.verbosity" in own and "kpbpf.logLevel" not in own:
        given.pop("kpbpf.logLevel", None)  # of two that say the same, the flag
    values = _with_defaults(given)
    place = f"{asked.config}: " if asked.config else ""
    warnings += [f"{place}{line}" for line in _without_effect(values, given, name)]
    warnings += [f"{place}{line}" for line in one_family(values["nodePortAddresses"])]
    try:
        api = _api(asked, values, environment, needs_source)
        node = _node(values, environment, hostname or os.uname().nodename)
        return _settings(values, api, node)._replace(
            files=(asked.config,) if asked.config else (), warnings=tuple(warnings), asked=asked
        )
    except Usage as error:
        if asked.config is None:
            raise
        do = "correct that file, or give it with a flag"
        raise Fix(f"{asked.config} cannot be used as it is", str(error), do) from None


def _settings(values: Values, api: Api | None, node: str) -> Settings:
    mode = values["mode"] if values["mode"] in ("ipvs", "nftables") else "iptables"
    first, last = values["kpbpf.masqueradePorts"].split("-")
    return Settings(
        node=node,
        manifests=tuple(_directory(text) for text in values["kpbpf.manifests"]),
        api=api,
        health=_address(values["healthzBindAddress"]),
        metrics=_address(values["metricsBindAddress"]),
        bind_address_hard_fail=values["bindAddressHardFail"],
        sync_period_sec=durations.seconds(values[f"{mode}.syncPeriod"]),
        local_fast_path=values["kpbpf.localFastPath"],
        follow_pods=values["kpbpf.followPods"],
        pod_interface_prefixes=tuple(values["kpbpf.podInterfacePrefixes"]),
        uplinks=tuple(values["kpbpf.uplinks"]),
        socket_lb=values["kpbpf.socketLB"],
        node_port_addresses=node_port_addresses(values["nodePortAddresses"], mode),
        localhost_node_ports=values["iptables.localhostNodePorts"] and mode != "nftables",
        detect_local=detect_local(values),
        masquerade_all=_masquerade_all(values),
        masquerade_ports=(int(first), int(last)),
        service_metrics=values["kpbpf.serviceMetrics"],
        oom_score_adj=values["oomScoreAdj"],
        log_format=values["logging.format"],
        log_level=values["kpbpf.logLevel"] or log.level_of(values["logging.verbosity"]),
        configuration=schema.document(values),
    )


# ---- values -------------------------------------------------------------------------------


def _with_defaults(given: Values) -> Values:
    """A value for every field."""
    values = {field.path: field.default for field in FIELDS} | given
    if ":" in values["bindAddress"]:
        for path, host in zip(_BIND_PATHS, ("[::]", "[::1]"), strict=True):
            port = BY_PATH[path].default.rpartition(":")[2]
            values[path] = given.get(path, f"{host}:{port}")
    return values


def _counted(own: Values) -> Values:
    """What flags still say when there is a file."""
    return {path: value for path, value in own.items() if _counts(path)}


def _counts(path: str) -> bool:
    return path == "hostnameOverride" or path.startswith(("logging.", f"{OWN}."))


def _ignored(asked: Asked, own: Values) -> list[str]:
    """Name the flags that a file puts out of force."""
    lost = [f"--{name}" for name, _ in asked.flags if not _counts(flags.path(name))]
    if not lost:
        return []
    return [f"--config is given, so that these flags are ignored, as by kube-proxy: {_and(lost)}"]


def _without_effect(values: Values, given: Values, name: Callable[[str], str]) -> list[str]:
    """One line that names what somebody set and nothing follows from, by reasons."""
    by_reason: dict[schema.Reason, list[str]] = {}
    for field in FIELDS:
        said = field.path in given and values[field.path] not in (field.default, field.kind.empty)
        if said and field.reason is not None:
            names = by_reason.setdefault(field.reason, [])
            names += [name(field.path)] if name(field.path) not in names else []
    told = "; ".join(f"{_and(names)} ({why.text})" for why, names in by_reason.items())
    return [f"accepted without effect: {told}"] if told else []


def _flag(path: str) -> str:
    return f"--{BY_PATH[path].flag}"


def _and(names: list[str]) -> str:
    return ", ".join(names)


# ---- settings -----------------------------------------------------------------------------


def _api(
    asked: Asked, values: Values, environment: Mapping[str, str], needs_source: bool
) -> Api | None:
    """The API server; in a pod it is the default, but only where nothing else is named."""
    kubeconfig = values["clientConnection.kubeconfig"]
    if not kubeconfig and not asked.masters:
        if values["kpbpf.manifests"]:
            return None
        if not environment.get("KUBERNETES_SERVICE_HOST"):
            if needs_source:
                raise Usage(_NO_SOURCE)
            return None
    qps = float(values["clientConnection.qps"])
    return Api(
        Path(kubeconfig) if kubeconfig else None,
        asked.masters,
        qps if qps > 0 else _NO_LIMIT_QPS,
        max(values["clientConnection.burst"], 1),
    )


_NO_SOURCE = (
    "nothing says where Services come from: give --kubeconfig FILE or --master URL for an API "
    "server, --manifests DIR for files, or --config FILE that names one of them (in a pod of "
    "the cluster, none is needed)"
)


def _node(values: Values, environment: Mapping[str, str], hostname: str) -> str:
    """The Node's name, trimmed and in small letters, as kube-proxy does."""
    named = values["hostnameOverride"] or environment.get("NODE_NAME", "").strip() or hostname
    name = str(named).strip().lower()
    if not name:
        raise Usage("the name of this node is empty: give --hostname-override NAME")
    return name


def _masquerade_all(values: Values) -> bool:
    """Of the two fields that say it, that of the mode; where the mode is ours, either."""
    asked = {"nftables": values["nftables.masqueradeAll"]}
    asked["iptables"] = asked["ipvs"] = values["iptables.masqueradeAll"]
    return bool(asked.get(values["mode"], any(asked.values())))


def _address(text: str) -> Address | None:
    host, _, port = text.rpartition(":")
    return None if text == kinds.OFF else Address(host.strip("[]"), int(port))


def _directory(text: str) -> Path:
    path = Path(text)
    try:
        wrong = path.exists() and not path.is_dir()
    except OSError as error:
        raise Usage(f"manifests {text}: {error.strerror}") from None
    if wrong:
        raise Usage(f"manifests {text}: not a directory")
    return path
