"""Every field of a KubeProxyConfiguration (v1alpha1), and of our own section: the one table.

Flags, the file, --write-config-to and /configz all follow from it. Names and defaults are
kube-proxy's (SEMANTICS A57). What a field with an effect does is in effective.py; nothing is
read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from kpbpf.log import FORMATS, LEVELS
from kpbpf.settings import kinds
from kpbpf.settings.kinds import Kind

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"
OWN = "kpbpf"
"""Our own section, and the name of our one mode."""


class Reason(NamedTuple):
    """Why a field has no effect."""

    text: str


CONNTRACK = Reason("connections through Services are tracked in BPF maps")
CONTENT = Reason("objects are read as JSON")
GATES = Reason("kpbpf has no feature gates")
GONE = Reason("kube-proxy does not use it any more")
LOGS = Reason("each event is one line on standard error, at once")
METRICS = Reason("no metric is hidden")
MODE = Reason("kpbpf has one mode, its own; only defaults are those of the mode named")
NETFILTER = Reason("no rules of iptables, nftables or IPVS are written")
PROFILING = Reason("there is no profiler")
SNAT = Reason("masquerading takes the address of the uplink that is used")
SYNC = Reason("each change is written at once, and nothing else")
WINDOWS = Reason("for Windows only")


class Group(Enum):
    """Headings of the help, for flags that have an effect."""

    SOURCES = "API server and manifests"
    NODE = "node and its pods"
    SERVICES = "Services from outside, from this node, and local clients"
    HEALTH = "health and metrics"
    LOGGING = "logging"


class Field(NamedTuple):
    """One field; `default` is what it has when nobody set it.

    `zero_counts`: 0, 0s and false are values; otherwise they are what a field has that nobody
    set, as in the file that kubeadm writes.
    """

    path: str
    kind: Kind
    default: Any
    flag: str = ""
    """Its flag, without dashes; "no-..." says the contrary of the field."""
    reason: Reason | None = None
    """None: it has an effect."""
    group: Group = Group.NODE
    about: str = ""
    zero_counts: bool = False


def _used(
    group: Group, path: str, kind: Kind, default: Any, flag: str, about: str, zero: bool = False
) -> Field:
    return Field(path, kind, default, flag, None, group, about, zero)


def _idle(
    reason: Reason, path: str, kind: Kind, default: Any, flag: str = "", zero: bool = False
) -> Field:
    return Field(path, kind, default, flag, reason, zero_counts=zero)


_HEALTH, _LOGGING, _NODE = Group.HEALTH, Group.LOGGING, Group.NODE
_SERVICES, _SOURCES = Group.SERVICES, Group.SOURCES
_BIT = kinds.whole(0, 31)
_INTERFACE = kinds.TEXT._replace(metavar="NAME")
_LOCAL_MODE = kinds.choice("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
_PROXY_MODE = kinds.choice(OWN, "iptables", "ipvs", "nftables", "userspace", "kernelspace")
_PROTOBUF = "application/vnd.kubernetes.protobuf"
_PERIOD = "/healthz fails when a change waits for twice as long (30s)"

# fmt: off
FIELDS = (
    _used(_HEALTH, "bindAddress", kinds.IP, "0.0.0.0", "bind-address",
          "its family is that of the defaults of the next two"),
    _used(_HEALTH, "healthzBindAddress", kinds.bind(10256), "0.0.0.0:10256", "healthz-bind-address",
          "where /healthz is served (0.0.0.0:10256); '' or port 0: nowhere"),
    _used(_HEALTH, "metricsBindAddress", kinds.bind(10249), "127.0.0.1:10249",
          "metrics-bind-address", "where /metrics is served (127.0.0.1:10249); likewise"),
    _used(_HEALTH, "bindAddressHardFail", kinds.BOOL, False, "bind-address-hard-fail",
          "end when such an address cannot be had, instead of trying again"),
    _used(_SOURCES, "clientConnection.kubeconfig", kinds.PATH, "", "kubeconfig",
          "where the API server is, and who we are; in a pod, not needed"),
    _idle(CONTENT, "clientConnection.acceptContentTypes", kinds.TEXT, ""),
    _idle(CONTENT, "clientConnection.contentType", kinds.TEXT, _PROTOBUF, "kube-api-content-type"),
    _used(_SOURCES, "clientConnection.qps", kinds.NUMBER, 5, "kube-api-qps",
          "requests to the API server a second (5); negative: no limit"),
    _used(_SOURCES, "clientConnection.burst", kinds.COUNT, 10, "kube-api-burst",
          "requests at once before that limit holds (10)"),
    _used(_SERVICES, "clusterCIDR", kinds.BLOCKS_IN_TEXT, "", "cluster-cidr",
          "pods are what has an address in here, for --detect-local-mode=ClusterCIDR"),
    _idle(SYNC, "configSyncPeriod", kinds.DURATION, "15m0s", "config-sync-period"),
    _idle(CONNTRACK, "conntrack.maxPerCore", kinds.COUNT, 32768, "conntrack-max-per-core", True),
    _idle(CONNTRACK, "conntrack.min", kinds.COUNT, 131072, "conntrack-min", True),
    _idle(CONNTRACK, "conntrack.tcpBeLiberal", kinds.BOOL, False, "conntrack-tcp-be-liberal"),
    _idle(CONNTRACK, "conntrack.tcpCloseWaitTimeout", kinds.DURATION, "1h0m0s",
          "conntrack-tcp-timeout-close-wait", True),
    _idle(CONNTRACK, "conntrack.tcpEstablishedTimeout", kinds.DURATION, "24h0m0s",
          "conntrack-tcp-timeout-established", True),
    _idle(CONNTRACK, "conntrack.udpStreamTimeout", kinds.DURATION, "0s",
          "conntrack-udp-timeout-stream"),
    _idle(CONNTRACK, "conntrack.udpTimeout", kinds.DURATION, "0s", "conntrack-udp-timeout"),
    _used(_SERVICES, "detectLocal.bridgeInterface", _INTERFACE, "", "pod-bridge-interface",
          "for --detect-local-mode=BridgeInterface: the bridge of this node's pods"),
    _used(_SERVICES, "detectLocal.interfaceNamePrefix", _INTERFACE, "",
          "pod-interface-name-prefix",
          "for --detect-local-mode=InterfaceNamePrefix: their interfaces start so"),
    _used(_SERVICES, "detectLocalMode", _LOCAL_MODE, "", "detect-local-mode",
          "how a client is known to be a pod of this node (as kpbpf attached itself to it)"),
    _idle(PROFILING, "enableProfiling", kinds.BOOL, False, "profiling"),
    _idle(GATES, "featureGates", kinds.GATES, {}, "feature-gates"),
    _used(_NODE, "hostnameOverride", kinds.TEXT._replace(metavar="NAME"), "", "hostname-override",
          "name of this Node in the API ($NODE_NAME, else the host name)"),
    _used(_SERVICES, "iptables.localhostNodePorts", kinds.BOOL, True,
          "iptables-localhost-nodeports",
          "whether processes of this node reach NodePorts at 127.0.0.1, too (true)", True),
    _used(_SERVICES, "iptables.masqueradeAll", kinds.BOOL, False, "masquerade-all",
          "backends on other nodes see this node as the client of a ClusterIP, always"),
    _idle(NETFILTER, "iptables.masqueradeBit", _BIT, 14, "iptables-masquerade-bit", True),
    _idle(SYNC, "iptables.minSyncPeriod", kinds.DURATION, "1s", "iptables-min-sync-period"),
    _idle(SNAT, "iptables.snatNodeInternalIP", kinds.BOOL, False),
    _used(_HEALTH, "iptables.syncPeriod", kinds.DURATION, "30s", "iptables-sync-period", _PERIOD),
    _idle(NETFILTER, "ipvs.excludeCIDRs", kinds.BLOCKS, [], "ipvs-exclude-cidrs"),
    _idle(NETFILTER, "ipvs.ipSet.hashSize", kinds.COUNT, 1024),
    _idle(NETFILTER, "ipvs.ipSet.maxElements", kinds.COUNT, 65536),
    _idle(SYNC, "ipvs.minSyncPeriod", kinds.DURATION, "0s", "ipvs-min-sync-period"),
    _idle(NETFILTER, "ipvs.scheduler", kinds.TEXT, "", "ipvs-scheduler"),
    _idle(NETFILTER, "ipvs.strictARP", kinds.BOOL, False, "ipvs-strict-arp"),
    _used(_HEALTH, "ipvs.syncPeriod", kinds.DURATION, "30s", "ipvs-sync-period",
          "the same for --proxy-mode=ipvs"),
    _idle(NETFILTER, "ipvs.tcpFinTimeout", kinds.DURATION, "0s", "ipvs-tcpfin-timeout"),
    _idle(NETFILTER, "ipvs.tcpTimeout", kinds.DURATION, "0s", "ipvs-tcp-timeout"),
    _idle(NETFILTER, "ipvs.udpTimeout", kinds.DURATION, "0s", "ipvs-udp-timeout"),
    _used(_NODE, "kpbpf.followPods", kinds.BOOL, True, "no-follow-pods",
          "do not look for this node's pods; attach them with `kpbpf ep add`", True),
    _used(_NODE, "kpbpf.localFastPath", kinds.BOOL, True, "no-local-fast-path",
          "pass packets between two pods of this node through its network stack", True),
    _used(_LOGGING, "kpbpf.logLevel", kinds.choice(*LEVELS), "", "log-level",
          "how much to log (info)"),
    _used(_SOURCES, "kpbpf.manifests", kinds.DIRECTORIES, [], "manifests",
          "directory of YAML and JSON to watch; of several, the first one wins"),
    _used(_SERVICES, "kpbpf.masqueradePorts", kinds.PORTS, "10240-29999", "masquerade-ports",
          "source ports of connections that this node masquerades (10240-29999)"),
    _used(_NODE, "kpbpf.podInterfacePrefixes", kinds.INTERFACE_PREFIXES, [], "pod-interface-prefix",
          "host-side interfaces of pods start so; used when routes do not tell"),
    _used(_HEALTH, "kpbpf.serviceMetrics", kinds.COUNT, 0, "service-metrics",
          "give so many Services, at most, metrics of their own (0)", True),
    _used(_SERVICES, "kpbpf.socketLB", kinds.choice("host", "all", "off"), "host", "socket-lb",
          "whose processes get their backend as they connect: the node's (host), also those of "
          "pods (all), or nobody's (off)"),
    _used(_SERVICES, "kpbpf.uplinks", kinds.UPLINKS, [], "uplink",
          "interface to other nodes and the outside, or the start of such names and a *; else "
          "found by default routes, this node's addresses, and tunnels"),
    _idle(LOGS, "logging.flushFrequency", kinds.FLUSH_FREQUENCY, "5s", "log-flush-frequency"),
    _used(_LOGGING, "logging.format", kinds.choice(*FORMATS), "text", "logging-format",
          "one line of text, or one JSON object, for each event (text)"),
    _idle(LOGS, "logging.options.json.infoBufferSize", kinds.QUANTITY, "0",
          "log-json-info-buffer-size"),
    _idle(LOGS, "logging.options.json.splitStream", kinds.BOOL, False, "log-json-split-stream"),
    _idle(LOGS, "logging.options.text.infoBufferSize", kinds.QUANTITY, "0",
          "log-text-info-buffer-size"),
    _idle(LOGS, "logging.options.text.splitStream", kinds.BOOL, False, "log-text-split-stream"),
    _used(_LOGGING, "logging.verbosity", kinds.COUNT, 0, "v",
          "kube-proxy's way to say it: 0 to 3 is info, 4 and more is debug", True),
    _idle(LOGS, "logging.vmodule", kinds.VMODULE, [], "vmodule"),
    _idle(MODE, "mode", _PROXY_MODE, OWN, "proxy-mode"),
    _used(_SERVICES, "nftables.masqueradeAll", kinds.BOOL, False, "masquerade-all", ""),
    _idle(NETFILTER, "nftables.masqueradeBit", _BIT, 14, zero=True),
    _idle(SYNC, "nftables.minSyncPeriod", kinds.DURATION, "1s"),
    _used(_HEALTH, "nftables.syncPeriod", kinds.DURATION, "30s", "", ""),
    _used(_SERVICES, "nodePortAddresses", kinds.NODE_PORT_ADDRESSES, [], "nodeport-addresses",
          "this node's addresses that serve NodePorts: blocks, or primary (all of them)"),
    _used(_NODE, "oomScoreAdj", kinds.whole(-1000, 1000), -999, "oom-score-adj",
          "how readily the kernel ends this process when memory is short (-999)", True),
    _idle(GONE, "portRange", kinds.TEXT, ""),
    _idle(METRICS, "showHiddenMetricsForVersion", kinds.TEXT, "",
          "show-hidden-metrics-for-version"),
    _idle(GONE, "udpIdleTimeout", kinds.DURATION, "0s"),
    _idle(WINDOWS, "windowsRunAsService", kinds.BOOL, False),
    _idle(WINDOWS, "winkernel.enableDSR", kinds.BOOL, False),
    _idle(WINDOWS, "winkernel.forwardHealthCheckVip", kinds.BOOL, False),
    _idle(WINDOWS, "winkernel.networkName", kinds.TEXT, ""),
    _idle(WINDOWS, "winkernel.rootHnsEndpointName", kinds.TEXT, ""),
    _idle(WINDOWS, "winkernel.sourceVip", kinds.TEXT, ""),
)
# fmt: on

NOT_WRITTEN = frozenset(
    {
        "iptables.snatNodeInternalIP",
        "ipvs.ipSet.hashSize",
        "ipvs.ipSet.maxElements",
        "udpIdleTimeout",
    }
)
"""Accepted, because older or newer versions of kube-proxy have them; never written."""

BY_PATH: Mapping[str, Field] = {field.path: field for field in FIELDS}

Section = dict[str, "Field | Section"]


@cache
def sections() -> Section:
    """The fields as a tree of sections: the form that a file has."""
    root: Section = {}
    for field in FIELDS:
        *parents, name = field.path.split(".")
        section = root
        for parent in parents:
            found = section.setdefault(parent, {})
            assert isinstance(found, dict), f"{parent} is a field and a section"
            section = found
        section[name] = field
    return root


def document(values: Mapping[str, Any]) -> dict[str, Any]:
    """A whole configuration, JSON-ready, from the value of each path."""
    root: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND}
    for field in FIELDS:
        if field.path in NOT_WRITTEN:
            continue
        *parents, name = field.path.split(".")
        section = root
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = values[field.path]
    return root
