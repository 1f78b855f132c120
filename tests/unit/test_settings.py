"""From flags and a file to settings: who wins, what is the default, what is warned of."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpbpf.cli.main import build_parser
from kpbpf.cli.run import asked as asked_of
from kpbpf.errors import Fix, Usage
from kpbpf.settings import Address, Api, Asked, Settings, flags, read, schema
from tests.unit.configuration import HEAD, KUBEADM

IN_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}


def asked(*words: str) -> Asked:
    """What the command line `kpbpf run WORDS` asks for."""
    return asked_of(build_parser(["run"]).parse_args(["run", *words]))


def settings(*words: str, **environment: str) -> Settings:
    return read(asked(*words), IN_POD | environment, "Host-1")


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """A function that writes a file and returns the flag for it."""

    def write(body: str, whole: bool = False) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(body if whole else HEAD + body)
        return f"--config={path}"

    return write


# ---- defaults -----------------------------------------------------------------------------


def test_without_words_a_pod_has_the_defaults_of_kube_proxy() -> None:
    found = settings()
    assert found._replace(configuration={}, asked=Asked()) == Settings(node="host-1", api=Api(None))
    assert found.configuration["clientConnection"]["qps"] == 5
    assert found.configuration["kpbpf"]["localFastPath"] is True


def test_every_default_is_a_good_value_in_its_canonical_form() -> None:
    for field in schema.FIELDS:
        assert field.kind.read(field.default) == field.default, field.path


def test_without_any_source_of_objects_the_line_is_refused() -> None:
    with pytest.raises(Usage, match="nothing says where Services come from"):
        read(asked(), {}, "host-1")


def test_without_any_source_a_file_is_refused(config: Any) -> None:
    with pytest.raises(Fix, match="cannot be used as it is"):
        read(asked(config("mode: ''\n")), {}, "host-1")


@pytest.mark.parametrize(
    ("words", "api"),
    [
        ((), Api(None)),
        (("--manifests=/tmp",), None),
        (("--kubeconfig=/k",), Api(Path("/k"))),
        (("--manifests=/tmp", "--kubeconfig=/k"), Api(Path("/k"))),
        (
            ("--master=https://10.0.0.1:6443/", "--master", "https://[fd00::1]:6443"),
            Api(None, ("https://10.0.0.1:6443", "https://[fd00::1]:6443")),
        ),
        (("--kube-api-qps=50", "--kube-api-burst=100"), Api(None, (), 50.0, 100)),
        (("--kube-api-qps=-1",), Api(None, (), 1_000_000.0, 10)),
        (("--kube-api-qps=0", "--kube-api-burst=0"), Api(None)),
    ],
    ids=str,
)
def test_the_api_server_is_found_by_flags(words: tuple[str, ...], api: Api | None) -> None:
    assert settings(*words).api == api


@pytest.mark.parametrize(
    ("words", "environment", "node"),
    [
        ((), {}, "host-1"),
        ((), {"NODE_NAME": " Worker-2 "}, "worker-2"),
        (("--node= Worker-3",), {"NODE_NAME": "worker-2"}, "worker-3"),
        (("--hostname-override=worker-4",), {"NODE_NAME": "worker-2"}, "worker-4"),
        (("--hostname-override=",), {"NODE_NAME": "worker-2"}, "worker-2"),
    ],
)
def test_the_node_has_the_first_name_that_is_given(
    words: tuple[str, ...], environment: dict[str, str], node: str
) -> None:
    assert settings(*words, **environment).node == node


def test_a_blank_node_name_is_refused() -> None:
    with pytest.raises(Usage, match="empty"):
        settings("--hostname-override=  ")


@pytest.mark.parametrize(
    ("words", "health", "metrics"),
    [
        ((), Address("0.0.0.0", 10256), Address("127.0.0.1", 10249)),
        (("--bind-address=fd00::1",), Address("::", 10256), Address("::1", 10249)),
        (
            ("--bind-address=::", "--healthz-bind-address=127.0.0.1"),
            Address("127.0.0.1", 10256),
            Address("::1", 10249),
        ),
        (("--metrics-bind-address=", "--healthz-bind-address=0.0.0.0:0"), None, None),
        (("--metrics-port=0", "--healthz-port=0"), None, None),
        (
            ("--metrics-port=9000", "--healthz-port=9001"),
            Address("0.0.0.0", 9001),
            Address("127.0.0.1", 9000),
        ),
        (
            ("--metrics-bind-address=[::]:9100", "--metrics-port=9000"),
            Address("0.0.0.0", 10256),
            Address("::", 9100),
        ),
    ],
    ids=str,
)
def test_the_servers_listen_where_the_flags_say(
    words: tuple[str, ...], health: Address | None, metrics: Address | None
) -> None:
    found = settings(*words)
    assert (found.health, found.metrics) == (health, metrics)


def test_flags_of_our_own_reach_the_settings(tmp_path: Path) -> None:
    found = settings(
        *("--manifests", str(tmp_path), f"--manifests={tmp_path}/not-there,yet"),
        *("--no-local-fast-path", "--no-follow-pods=true", "--service-metrics=20"),
        *("--pod-interface-prefix=veth,cali", "--pod-interface-prefix=lxc"),
        *("--oom-score-adj=-500", "--bind-address-hard-fail", "--iptables-sync-period=1m"),
    )
    assert found.manifests == (tmp_path, tmp_path / "not-there,yet")
    assert not found.local_fast_path
    assert not found.follow_pods
    assert found.service_metrics == 20
    assert found.pod_interface_prefixes == ("veth", "cali", "lxc")
    assert found.oom_score_adj == -500
    assert found.bind_address_hard_fail
    assert found.sync_period_sec == 60
    assert found.warnings == ()


def test_the_sync_period_is_that_of_the_mode() -> None:
    words = ("--ipvs-sync-period=7s", "--iptables-sync-period=8s")
    assert settings(*words).sync_period_sec == 8
    assert settings(*words, "--proxy-mode=ipvs").sync_period_sec == 7
    assert settings(*words, "--proxy-mode=nftables").sync_period_sec == 30


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ((), "info"),
        (("-v", "3"), "info"),
        (("-v=4",), "debug"),
        (("--v=9",), "debug"),
        (("--v=9", "--log-level=error"), "error"),
        (("--log-level=warning",), "warning"),
    ],
)
def test_levels_are_found_from_verbosity_too(words: tuple[str, ...], level: str) -> None:
    assert settings(*words).log_level == level


@pytest.mark.parametrize("name", ["true", "1", "T", "false", "0", "FALSE"])
def test_switches_take_the_words_that_go_takes(name: str) -> None:
    wanted = name.lower() in ("true", "1", "t")
    assert settings(f"--bind-address-hard-fail={name}").bind_address_hard_fail is wanted


def test_a_directory_of_manifests_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(Usage, match="not a directory"):
        settings(f"--manifests={path}")


# ---- kube-proxy's flags -------------------------------------------------------------------

FLAGS = shlex.split("""
--feature-gates=A=true,B=false --kubeconfig=/k --kube-api-content-type=application/json
--kube-api-burst=20 --kube-api-qps=10.5 --hostname-override=n --bind-address=10.0.0.1
--healthz-bind-address=10.0.0.1 --metrics-bind-address=[::1]:10249 --bind-address-hard-fail
--profiling=false --show-hidden-metrics-for-version=1.30 --proxy-mode=ipvs
--iptables-masquerade-bit=15 --masquerade-all --iptables-localhost-nodeports=false
--iptables-sync-period=30s --iptables-min-sync-period=0 --ipvs-sync-period=30s
--ipvs-min-sync-period=1s --ipvs-scheduler=rr --ipvs-exclude-cidrs=10.0.0.0/8,fd00::/8
--ipvs-strict-arp --ipvs-tcp-timeout=1h --ipvs-tcpfin-timeout=2m --ipvs-udp-timeout=5m
--detect-local-mode=ClusterCIDR --pod-bridge-interface=cni0 --pod-interface-name-prefix=veth
--cluster-cidr=10.244.0.0/16,fd00:10::/56 --nodeport-addresses=primary --oom-score-adj=-998
--conntrack-max-per-core=0 --conntrack-min=1 --conntrack-tcp-timeout-established=1h
--conntrack-tcp-timeout-close-wait=1m --conntrack-tcp-be-liberal --conntrack-udp-timeout=30s
--conntrack-udp-timeout-stream=3m --config-sync-period=15m --healthz-port=10256
--metrics-port=10249 --logging-format=json --log-flush-frequency=5s -v=2 --vmodule=pods=4,api=5
--log-json-split-stream --log-json-info-buffer-size=64Ki --log-text-split-stream
--log-text-info-buffer-size=1M --master=https://10.0.0.1:6443 --init-only=false --cleanup=false
""")


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_of_kube_proxy_is_accepted(flag: str) -> None:
    assert settings(flag).node


def test_the_flags_above_are_all_there_are() -> None:
    words = {flag.partition("=")[0].lstrip("-") for flag in FLAGS}
    ours = {"manifests", "log-level", "no-local-fast-path", "no-follow-pods", "service-metrics"}
    ours |= {"pod-interface-prefix", "uplink", "socket-lb", "masquerade-ports"}
    assert set(flags.by_name()) | set(flags.PORTS) <= words | ours


def test_all_flags_at_once_are_warned_of_in_one_line() -> None:
    (warning,) = settings(*FLAGS).warnings
    assert warning.startswith("accepted without effect: --kube-api-content-type (objects are")
    assert warning.count("(connections through Services are tracked in BPF maps)") == 1
    assert "--ipvs-scheduler" in warning
    for honoured in (
        "--bind-address",
        "--cluster-cidr",
        "--masquerade-all",
        "--nodeport-addresses",
    ):
        assert honoured not in warning


def test_defaults_that_are_said_aloud_are_not_warned_of() -> None:
    words = ("--conntrack-min=131072", "--proxy-mode=kpbpf", "--masquerade-all=false")
    assert settings(*words, "--config-sync-period=15m", "--proxy-mode=").warnings == ()


def test_another_mode_is_accepted_with_a_warning() -> None:
    assert settings("--proxy-mode=iptables").warnings == (
        (
            "accepted without effect: --proxy-mode (kpbpf has one mode, its own; only defaults "
            "are those of the mode named)"
        ),
    )


# ---- a file -------------------------------------------------------------------------------


def test_the_file_of_kubeadm_passes_silently(config: Any) -> None:
    found = read(asked(config(KUBEADM, whole=True)), {}, "host-1")
    assert found.warnings == ()
    assert found.api == Api(Path("/var/lib/kube-proxy/kubeconfig.conf"))
    assert found.files == (found.asked.config,)
    same = read(asked("--kubeconfig=/var/lib/kube-proxy/kubeconfig.conf"), {}, "host-1")
    assert found.configuration == same.configuration
    assert found._replace(files=(), asked=same.asked) == same


def test_what_a_file_sets_without_effect_is_named_in_one_line(config: Any) -> None:
    flag = config("clusterCIDR: 10.244.0.0/16\nmode: ipvs\nconntrack: {min: 1, udpTimeout: 1s}\n")
    (warning,) = settings(flag).warnings
    assert warning == (
        f"{flag.partition('=')[2]}: accepted without effect: conntrack.min, "
        "conntrack.udpTimeout (connections through Services are tracked in BPF maps); mode "
        "(kpbpf has one mode, its own; only defaults are those of the mode named)"
    )


def test_a_file_puts_most_flags_out_of_force_and_says_so(config: Any) -> None:
    flag = config(
        "hostnameOverride: in-file\nkpbpf: {serviceMetrics: 5, manifests: [/tmp]}\n"
        "logging: {verbosity: 5}\nclientConnection: {kubeconfig: /in-file}\n"
    )
    found = settings(
        *(flag, "--kubeconfig=/flag", "--masquerade-all", "--healthz-port=1", "--kube-api-qps=9"),
        *("--node=Flag", "--service-metrics=0", "-v=0", "--logging-format=json"),
        "--master=https://10.0.0.1:6443",
    )
    assert found.warnings == (
        (
            "--config is given, so that these flags are ignored, as by kube-proxy: --kubeconfig, "
            "--kube-api-qps, --masquerade-all, --healthz-port"
        ),
    )
    assert found.api == Api(Path("/in-file"), ("https://10.0.0.1:6443",))
    assert (found.node, found.service_metrics) == ("flag", 0)
    assert (found.log_level, found.log_format) == ("info", "json")
    assert found.manifests == (Path("/tmp"),)


def test_the_flag_for_verbosity_beats_the_level_of_a_file(config: Any) -> None:
    flag = config("kpbpf: {logLevel: error}\n")
    assert settings(flag).log_level == "error"
    assert settings(flag, "-v=4").log_level == "debug"


def test_an_empty_address_in_a_file_is_the_default_and_port_0_is_none(config: Any) -> None:
    found = settings(config("healthzBindAddress: ''\nmetricsBindAddress: 127.0.0.1:0\n"))
    assert (found.health, found.metrics) == (Address("0.0.0.0", 10256), None)


def test_the_same_file_may_be_read_again_after_an_edit(config: Any) -> None:
    first = settings(config("mode: ''\n"))
    assert read(first.asked, IN_POD, "Host-1") == first
    config("mode: nothing\n")
    with pytest.raises(Fix, match="is not a valid configuration"):
        read(first.asked, IN_POD, "Host-1")
    config("kpbpf: {localFastPath: false}\n")
    assert not read(first.asked, IN_POD, "Host-1").local_fast_path


# ---- and back -----------------------------------------------------------------------------


def test_the_configuration_has_every_field_and_is_ready_for_json() -> None:
    configuration = settings(*FLAGS).configuration
    assert json.loads(json.dumps(configuration)) == configuration
    for field in schema.FIELDS:
        if field.path not in schema.NOT_WRITTEN:
            value: Any = configuration
            for name in field.path.split("."):
                value = value[name]
            assert field.kind.read(value) == value


@pytest.mark.parametrize(
    "words",
    [
        (),
        tuple(word for word in FLAGS if "master=" not in word),
        ("--metrics-bind-address=", "--manifests=/tmp", "--no-local-fast-path", "--node=a"),
        ("--bind-address=::", "--log-level=warning", "--pod-interface-prefix=veth"),
        ("--uplink=eth0,wg*", "--uplink=br0", "--socket-lb=all", "--masquerade-ports=1024-2000"),
        ("--nodeport-addresses=10.1.2.3/8", "--cluster-cidr=10.0.0.0/8", "--masquerade-all"),
        ("--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"),
    ],
    ids=len,
)
def test_what_is_written_is_read_as_the_same_settings(words: tuple[str, ...], config: Any) -> None:
    first = settings(*words)
    text = yaml.safe_dump(first.configuration, sort_keys=False)
    second = settings(config(text, whole=True))
    second = second._replace(files=(), warnings=(), asked=Asked())
    assert second == first._replace(files=(), warnings=(), asked=Asked())
