"""The settings of one daemon, as everything below the command line sees them.

Plain values with their units in their names; how they are found out is in effective.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from kpbpf import address

Block = tuple[address.Address, int]
"""16-byte base, bits behind the prefix cleared, and prefix length 0 to 128; IPv4 from 96."""


class Address(NamedTuple):
    """Where a server listens: host "" and "0.0.0.0" are all of IPv4, "::" all of both families."""

    host: str
    port: int


class Api(NamedTuple):
    """How to reach the API server.

    `masters` are URLs that are tried in turn; empty: the kubeconfig's, or the pod's own
    environment where `kubeconfig` is None (in-cluster). `qps` and `burst` limit requests.
    """

    kubeconfig: Path | None
    masters: tuple[str, ...] = ()
    qps: float = 5.0
    """Greater than 0; "no limit" (a negative number in kube-proxy) is a million."""
    burst: int = 10


class NodePortAddresses(NamedTuple):
    """At which of its addresses a node serves NodePorts (A32); neither of them: at all."""

    primary: bool = False
    """At the first of each family that its Node object names."""
    blocks: tuple[Block, ...] = ()
    """At those in here."""


class DetectLocal(NamedTuple):
    """How a client is known to be a pod of this node (A42)."""

    mode: str = ""
    """"": by the interfaces that we are attached to. Else as in KubeProxyConfiguration."""
    blocks: tuple[Block, ...] = ()
    """ClusterCIDR: the first of each family; none: nobody is told apart."""
    name: str = ""
    """BridgeInterface, InterfaceNamePrefix: the bridge, or the start of the names."""


class Asked(NamedTuple):
    """What a command line says: all that is needed to find the settings out again."""

    config: Path | None = None
    """A KubeProxyConfiguration; with it only some flags count (SEMANTICS A57)."""
    masters: tuple[str, ...] = ()
    flags: tuple[tuple[str, Any], ...] = ()
    """Names of flags, without dashes, and their raw values; only those that were given."""


class Settings(NamedTuple):
    """One daemon's settings; the defaults are kube-proxy's where it has any (SEMANTICS A57)."""

    node: str
    manifests: tuple[Path, ...] = ()
    api: Api | None = None
    """None: no API server, manifests only."""
    health: Address | None = Address("0.0.0.0", 10256)
    metrics: Address | None = Address("127.0.0.1", 10249)
    bind_address_hard_fail: bool = False
    sync_period_sec: float = 30.0
    """/healthz fails when a change has waited for twice as long (A53)."""
    local_fast_path: bool = True
    follow_pods: bool = True
    """Find the pods of this node by the API and attach to them; needs `api`."""
    pod_interface_prefixes: tuple[str, ...] = ()
    """Host-side interfaces of pods, for pods that route and neighbours do not lead to."""
    uplinks: tuple[str, ...] = ()
    """Names of interfaces, or starts of names with a "*"; empty: they are found."""
    socket_lb: str = "host"
    """Whose sockets get a backend as they connect: "host", "all" (pods', too) or "off"."""
    node_port_addresses: NodePortAddresses = NodePortAddresses()
    localhost_node_ports: bool = True
    """Whether 127.0.0.0/8 serves NodePorts to this node's processes; never ::1 (A33)."""
    detect_local: DetectLocal = DetectLocal()
    masquerade_all: bool = False
    """Also pods, when they reach a ClusterIP whose backend is elsewhere (A25)."""
    masquerade_ports: tuple[int, int] = (10240, 29999)
    """First and last source port of masqueraded connections."""
    service_metrics: int = 0
    """Services that get metrics of their own, at most; 0: none."""
    oom_score_adj: int | None = -999
    """None: leave it alone."""
    log_format: str = "text"
    log_level: str = "info"
    files: tuple[Path, ...] = ()
    """What was read to get here; a change of their content ends the daemon (A57)."""
    configuration: dict[str, Any] = {}  # noqa: RUF012 (never changed in place)
    """The effective KubeProxyConfiguration, for /configz."""
    warnings: tuple[str, ...] = ()
    """What was accepted but has no effect; each is one line for the log."""
    asked: Asked = Asked()
    """What `kpbpf.settings.read` takes to read the file again."""
