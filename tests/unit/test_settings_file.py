"""Configuration files: what is read of good ones, and what is said of bad ones."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kpbpf.errors import Fix
from kpbpf.settings import schema
from kpbpf.settings.file import decode, read
from tests.unit.configuration import HEAD, KUBEADM


def values(body: str) -> dict[str, Any]:
    return decode((HEAD + body).encode(), "config.yaml")


def refused(content: str | bytes) -> Fix:
    with pytest.raises(Fix) as caught:
        decode(content if isinstance(content, bytes) else content.encode(), "config.yaml")
    return caught.value


def test_of_the_file_of_kubeadm_only_what_is_set_counts() -> None:
    assert decode(KUBEADM.encode(), "config.conf") == {
        "bindAddress": "0.0.0.0",
        "clientConnection.kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf",
        "logging.verbosity": 0,
    }


@pytest.mark.parametrize(
    ("body", "path", "value"),
    [
        ("healthzBindAddress: 10.0.0.1", "healthzBindAddress", "10.0.0.1:10256"),
        ("metricsBindAddress: '::'", "metricsBindAddress", "[::]:10249"),
        ("metricsBindAddress: '[FD00::1]:9000'", "metricsBindAddress", "[fd00::1]:9000"),
        ("metricsBindAddress: :9000", "metricsBindAddress", "0.0.0.0:9000"),
        ("metricsBindAddress: 127.0.0.1:0", "metricsBindAddress", "0.0.0.0:0"),
        ("bindAddress: 010.0.0.1", "bindAddress", "10.0.0.1"),
        ("oomScoreAdj: 0", "oomScoreAdj", 0),
        ("conntrack: {maxPerCore: 0}", "conntrack.maxPerCore", 0),
        ("iptables: {syncPeriod: 1m30s}", "iptables.syncPeriod", "1m30s"),
        ("clientConnection: {qps: 2.5}", "clientConnection.qps", 2.5),
        ("clientConnection: {qps: -1}", "clientConnection.qps", -1),
        ("clusterCIDR: 10.244.0.0/16,fd00::/64", "clusterCIDR", "10.244.0.0/16,fd00::/64"),
        (
            "nodePortAddresses: [primary, 10.0.0.0/8]",
            "nodePortAddresses",
            ["primary", "10.0.0.0/8"],
        ),
        ("ipvs: {excludeCIDRs: ['::/0']}", "ipvs.excludeCIDRs", ["::/0"]),
        (
            "featureGates: {Some: true, Other: false}",
            "featureGates",
            {"Some": True, "Other": False},
        ),
        ("logging: {format: json}", "logging.format", "json"),
        ("logging: {flushFrequency: 1500000000}", "logging.flushFrequency", "1.5s"),
        (
            "logging: {vmodule: [{filePattern: pods, verbosity: 5}]}",
            "logging.vmodule",
            [{"filePattern": "pods", "verbosity": 5}],
        ),
        ("kpbpf: {localFastPath: false}", "kpbpf.localFastPath", False),
        ("kpbpf: {manifests: [/etc/a, /etc/b]}", "kpbpf.manifests", ["/etc/a", "/etc/b"]),
        (
            "kpbpf: {podInterfacePrefixes: [veth, cali]}",
            "kpbpf.podInterfacePrefixes",
            ["veth", "cali"],
        ),
    ],
)
def test_a_good_value_is_read_in_one_form(body: str, path: str, value: object) -> None:
    assert values(body) == {path: value}


def test_json_is_read_too_and_may_be_indented_with_tabs() -> None:
    body = {"apiVersion": schema.API_VERSION, "kind": schema.KIND, "mode": "ipvs"}
    for indent in (None, "\t", 2):
        assert decode(json.dumps(body, indent=indent).encode(), "c.json") == {"mode": "ipvs"}


# ---- what is wrong ------------------------------------------------------------------------


def test_all_mistakes_are_named_at_once_with_line_and_closest_name() -> None:
    body = (
        "iptables:\n  syncperiod: 30s\n  masqueradeBit: 32\n"
        "bindAddress: everywhere\nhostnameOverride: 17\nstrictARP: true\n"
    )
    assert str(refused(HEAD + body)) == (
        "config.yaml is not a valid configuration\n"
        "  why: line 4: iptables.syncperiod is not a field; did you mean iptables.syncPeriod?\n"
        "       line 5: iptables.masqueradeBit: expected a whole number from 0 to 31, got 32\n"
        "       line 6: bindAddress: expected an IP address such as 0.0.0.0 or fd00::1, "
        "got 'everywhere'\n"
        "       line 7: hostnameOverride: expected text (in quotes if it looks like something "
        "else), got 17\n"
        "       line 8: strictARP is not a field; did you mean ipvs.strictARP?\n"
        "  do:  correct the file; `kpbpf run --write-config-to FILE` writes one with every field"
    )


def test_the_mistakes_told_are_not_endless() -> None:
    told = refused(HEAD + "".join(f"wrong{number}: 1\n" for number in range(50))).why.splitlines()
    assert len(told) == 11
    assert told[-1].strip() == "and 40 more"


def test_a_file_as_large_as_a_config_map_is_read_all_the_same() -> None:
    gates = "".join(f"  gate{number}: true\n" for number in range(30_000))
    assert len(values(f"featureGates:\n{gates}")["featureGates"]) == 30_000
    wrong = "".join(f"wrong{number}: true\n" for number in range(30_000))
    assert "and 490 more" in refused(HEAD + wrong).why


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "line 1: expected a KubeProxyConfiguration, got nothing"),
        ("- 1\n", "line 1: expected a KubeProxyConfiguration, got a list"),
        (
            "kind: KubeProxyConfiguration\n",
            "line 1: apiVersion is missing: expected apiVersion: kubeproxy.config.k8s.io/v1alpha1",
        ),
        (
            HEAD.replace("v1alpha1", "v1beta1"),
            (
                "line 1: apiVersion: expected kubeproxy.config.k8s.io/v1alpha1, "
                "got 'kubeproxy.config.k8s.io/v1beta1'"
            ),
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\ndata: {}\n",
            (
                "line 2: this is the ConfigMap: give the file that it holds, which is its key "
                "config.conf"
            ),
        ),
        (HEAD + "mode: ipvs\nmode: ipvs", "line 4: mode is given twice, first in line 3"),
        (HEAD + "kind: Other", "line 1: kind is given twice"),
        (
            HEAD + "featureGates:\n  A: true\n  A: false",
            "line 5: featureGates.A is given twice, first in line 4",
        ),
        (
            HEAD + "featureGates: {A: perhaps}",
            "line 3: featureGates.A: expected true or false, got 'perhaps'",
        ),
        (
            HEAD + "iptables: 3",
            (
                "line 3: iptables: expected a section with localhostNodePorts, masqueradeAll, "
                "masqueradeBit, ..., got 3"
            ),
        ),
        (
            HEAD + "iptables: {syncPeriod: 30}",
            "line 3: iptables.syncPeriod: expected a duration such as 30s, 15m or 1h30m, got 30",
        ),
        (
            HEAD + "ipvs:\n  excludeCIDRs:\n  - 10.0.0.0/8\n  - 10.0.0.0/33",
            (
                "line 6: ipvs.excludeCIDRs[1]: expected a block of addresses such as 10.244.0.0/16 "
                "or fd00::/64, got '10.0.0.0/33'"
            ),
        ),
        (
            HEAD + "metricsBindAddress: localhost:10249",
            (
                "line 3: metricsBindAddress: expected an address with a port, such as "
                "0.0.0.0:10249 or [::]:10249, got 'localhost:10249'"
            ),
        ),
        (
            HEAD + "kpbpf: {manifests: [here]}",
            "line 3: kpbpf.manifests[0]: expected an absolute path of a directory, got 'here'",
        ),
        (
            HEAD + "mode: fast",
            (
                "line 3: mode: expected one of kpbpf, iptables, ipvs, nftables, userspace, "
                "kernelspace, got 'fast'"
            ),
        ),
        (HEAD + "portRange: !!int x", "line 3: 'x' is not what its tag says"),
        (
            HEAD + "mode: &a ipvs\nportRange: *a",
            "line 4: aliases (*name) are not understood: write the value out",
        ),
        (HEAD + "---\n" + HEAD, "line 3: a second document starts here: one is expected"),
        (HEAD + "? [a]\n: 1", "line 3: a name is expected here"),
        (HEAD + "x: " + "[" * 31, "line 3: nesting deeper than 30"),
        (HEAD + "x:\n\t- 1", "line 4: found character that cannot start any token"),
        (b"\xff\xfe", "line 1: this is not text in UTF-8"),
        (HEAD + "#" * (1 << 20), "the file is larger than 1 MiB"),
    ],
)
def test_a_bad_file_is_refused_in_words(content: str | bytes, why: str) -> None:
    assert refused(content).why == why


@pytest.mark.parametrize(
    "body",
    [
        "oomScoreAdj: 1001",
        "oomScoreAdj: true",
        "clientConnection: {burst: -1}",
        "clientConnection: {qps: .nan}",
        "clientConnection: {qps: '5'}",
        "clusterCIDR: 10.0.0.0",
        "clusterCIDR: ','",
        "healthzBindAddress: 0.0.0.0:70000",
        "healthzBindAddress: 10256",
        "healthzBindAddress: '[::]:x'",
        "nodePortAddresses: primary",
        "nodePortAddresses: [somewhere]",
        "configSyncPeriod: -1s",
        "detectLocalMode: Guess",
        "logging: {format: xml}",
        "logging: {verbosity: -1}",
        "logging: {verbosity: high}",
        "logging: {vmodule: [{filePattern: 'a=b'}]}",
        "logging: {vmodule: [{file: a}]}",
        "logging: {flushFrequency: 1.5}",
        "logging: {options: {json: {infoBufferSize: many}}}",
        "featureGates: [A]",
        "kpbpf: {serviceMetrics: -1}",
        "kpbpf: {podInterfacePrefixes: ['a b']}",
        "kpbpf: {uplinks: ['*']}",
        "kpbpf: {uplinks: ['a*b']}",
        "kpbpf: {uplinks: eth0}",
        "kpbpf: {socketLB: some}",
        "kpbpf: {masqueradePorts: '0-10'}",
        "kpbpf: {masqueradePorts: '20-10'}",
        "kpbpf: {masqueradePorts: 70000-80000}",
        "kpbpf: {masqueradePorts: 40000}",
        "kpbpf: {podInterfacePrefixes: [a-name-that-is-too-long]}",
        "kpbpf: {masters: []}",
        "kpbpf: {logLevel: loud}",
    ],
)
def test_a_bad_value_is_one_mistake_in_line_3(body: str) -> None:
    (told,) = refused(HEAD + body).why.splitlines()
    assert told.startswith("line 3: ")


def test_a_file_that_is_not_there_says_so(tmp_path: Any) -> None:
    with pytest.raises(Fix, match="cannot be read") as caught:
        read(tmp_path / "missing.yaml")
    assert caught.value.why == "No such file or directory"
    with pytest.raises(Fix, match="cannot be read"):
        read(tmp_path)


# ---- anything at all ----------------------------------------------------------------------

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["0s", "1h", "::", "10.0.0.0/8", "0.0.0.0:1", "ipvs", "1.5", "json"]),
)
_TREES = st.recursive(
    _SCALARS,
    lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(st.text(max_size=6), deeper),
    max_leaves=8,
)
_NAMES = sorted({part for field in schema.FIELDS for part in field.path.split(".")})


def _nested(path: str, value: Any) -> Any:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@given(st.binary(max_size=300))
def test_no_bytes_do_worse_than_being_refused(content: bytes) -> None:
    try_to_decode(content)


@given(st.text(max_size=300))
def test_no_text_does_worse_than_being_refused(text: str) -> None:
    try_to_decode((HEAD + text).encode(errors="replace"))


@given(st.dictionaries(st.sampled_from(_NAMES), _TREES, max_size=6))
def test_no_document_does_worse_than_being_refused(document: dict[str, Any]) -> None:
    identity = {"apiVersion": schema.API_VERSION, "kind": schema.KIND}
    try_to_decode(yaml.safe_dump(document | identity).encode())
    try_to_decode(json.dumps(document | identity).encode())


@given(st.sampled_from(schema.FIELDS), _TREES)
def test_no_value_of_any_field_does_worse_than_being_refused(
    field: schema.Field, value: Any
) -> None:
    identity = {"apiVersion": schema.API_VERSION, "kind": schema.KIND}
    try_to_decode(yaml.safe_dump(identity | _nested(field.path, value)).encode())


def try_to_decode(content: bytes) -> None:
    """Nothing but a Fix is raised, and what is read is fit for JSON."""
    with contextlib.suppress(Fix):
        found = decode(content, "config.yaml")
        assert json.loads(json.dumps(found)) == found
