"""`kpbpf node`, `kpbpf socket` and `kpbpf status` on tables in memory of a node with uplinks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kpbpf.address import ZERO, from_text
from kpbpf.cli import asking, node
from kpbpf.home import Home
from maps import abi, config
from maps.abi import AddressFlag, ConfigFlag, FlowFlag, NameKind, Way
from maps.fake import FakeTables
from maps.layout import U32
from tests.unit.answering import answering, telling
from tests.unit.command import NOW_NS, SEC_NS, Run

NODE = from_text("192.0.2.1")
LO = 1
"""The one interface that is everywhere; here it plays an uplink."""

UPLINK = {
    "ifname": "lo",
    "kind": "vxlan",
    "addresses": ["192.0.2.1", "2001:db8::1"],
    "why": "default route",
    "attached": True,
    "why_not": "",
}
UNFIT = UPLINK | {"ifname": "tun9", "why": "", "why_not": "it has no address", "attached": False}
TOLD = {"node": {"node": "worker-1", "uplinks": [UPLINK, UNFIT]}}


@pytest.fixture
def uplinked(
    node_tables: FakeTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FakeTables:
    """A node with an uplink, addresses, and a masqueraded connection; no pins."""
    monkeypatch.setenv("KPBPF_PINS", str(tmp_path / "pins"))
    asking._said.clear()
    node_tables.devices.put(U32(LO), abi.Device(NODE, ZERO, 0, bytes.fromhex("020000000007")))
    node_tables.addresses.put(abi.AddressKey(NODE), abi.Address(AddressFlag.NODE))
    configure(node_tables, node4=NODE, uplink_ifindex=LO, node_port_first=30000)
    configure(node_tables, node_port_last=30080, masquerade_first=40000, masquerade_last=40009)
    for port in range(40000, 40009):
        key = abi.FlowKey(from_text("10.1.1.1"), NODE, 8080, port, 6, 0)
        flags = FlowFlag.TRANSLATED | FlowFlag.MASQUERADED | FlowFlag.CLIENT_IS_HIGH
        flow = abi.Flow.unpack(bytes(abi.Flow.SIZE))._replace(flags=flags)
        node_tables.flows.put(key, flow)
    return node_tables


def configure(tables: FakeTables, **fields: Any) -> None:
    config.write(tables, config.read(tables)._replace(**fields))


@pytest.mark.usefixtures("uplinked")
def test_a_node_is_shown_while_no_daemon_runs(run: Run) -> None:
    shown = run("node")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    said = dict(line.split(":", 1) for line in lines if ": " in line and "   " in line)
    assert said["NodePorts in use"].strip() == "30000-30080"
    assert said["Masquerade ports"].strip() == "40000-40009"
    assert said["Socket programs"].strip().startswith("off: ")
    assert said["Route by"].strip() == "lo"
    header, line = lines[lines.index("") + 1 :][:2]
    assert header.split() == ["UPLINK", "IFINDEX", "KIND", "PROGRAMS", "ADDRESSES", "MASQUERADE"]
    assert line.split() == ["lo", "1", "ethernet", "-", "-", "192.0.2.1"]
    assert lines[-1].split() == ["10.1.1.1:8080", "TCP", "192.0.2.1", "9", "10", "90.0%"]


@pytest.mark.usefixtures("uplinked")
def test_a_daemon_adds_why_an_interface_is_an_uplink_and_what_is_in_its_way(
    run: Run, tmp_path: Path
) -> None:
    with answering(Home(run=tmp_path), telling(TOLD)):
        found = json.loads(run("node", "-o", "json").out)
        shown = run("node").out
    assert found["node"] == "worker-1"
    lo, tun = found["uplinks"]
    assert (lo["name"], lo["kind"], lo["why"], lo["masquerade"]) == (
        "lo",
        "vxlan",
        "default route",
        ["192.0.2.1"],
    )
    assert (tun["name"], tun["ifindex"], tun["why_not"]) == ("tun9", None, "it has no address")
    assert "192.0.2.1,2001:db8::1" in shown
    assert "NOT ATTACHED" in shown


@pytest.mark.usefixtures("uplinked")
def test_machines_get_all_of_a_node(run: Run) -> None:
    found = json.loads(run("node", "-o", "json").out)
    assert set(found) == {"node", "config", "uplinks", "addresses", "sockets", "masquerade"}
    assert found["addresses"] == [{"address": "192.0.2.1", "node": True, "node_ports": False}]
    assert found["masquerade"][0]["used"] == 9


def test_socket_programs_that_are_missing_are_told_where_they_are_wanted() -> None:
    state = {"cgroup": "/sys/fs/cgroup", "how": "", "attached": {}, "missing": ["connect4"]}
    why = state | {"why": "no cgroup2\n  why: hybrid\n  do:  mount it"}
    assert node._sockets({"socket_lb": "off"}, why) == []
    assert node._sockets({"socket_lb": "host"}, why) == [
        ("  not attached", "connect4"),
        ("  because", "no cgroup2 why: hybrid do: mount it"),
    ]
    well = state | {"attached": {"connect4": 7}, "how": "link", "missing": [], "why": ""}
    assert node._sockets({"socket_lb": "host"}, well) == [
        ("  attached", "1 at cgroup /sys/fs/cgroup, by link")
    ]


# ---- kpbpf status -------------------------------------------------------------------------


def test_status_has_a_line_for_each_part_of_the_node(uplinked: FakeTables, run: Run) -> None:
    configure(uplinked, flags=ConfigFlag.READY | ConfigFlag.HAND_OVER)
    shown = run("status")
    assert shown.code == 1, "no daemon runs"
    said = dict(line.split(":", 1) for line in shown.out.splitlines() if ":   " in line)
    assert said["Uplinks"].strip() == "lo"
    assert said["Socket LB"].strip() == "off"
    assert said["Handing over"].strip().startswith("yes: new connections")
    assert said["Masquerade ports"].strip() == (
        "40000-40009, at most 9 in use, by 10.1.1.1:8080 (90.0%)"
    )
    assert said["Map flows"].strip().startswith("9 of 262144")


@pytest.mark.usefixtures("uplinked")
def test_status_names_an_uplink_without_programs_and_a_backend_without_ports(run: Run) -> None:
    wrong = json.loads(run("status", "-o", "json").out)["wrong"]
    assert any(line.startswith("uplink lo has no programs attached") for line in wrong)
    assert any("9 of 10 source ports of 192.0.2.1 in use" in line for line in wrong)


def test_status_of_a_node_without_uplinks_says_what_that_means(
    node_tables: FakeTables, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPBPF_PINS", str(tmp_path / "pins"))
    shown = run("status").out
    assert "none: only pods of this node are served" in shown
    assert "Handing over" not in shown
    assert node_tables.devices.count() == 0


# ---- kpbpf socket -------------------------------------------------------------------------


@pytest.fixture
def sockets(node_tables: FakeTables) -> FakeTables:
    for id_, name in ((5, "kube-system/dns:dns/IPv4"), (6, "default/web/IPv6")):
        node_tables.names.put(abi.NameKey(NameKind.SERVICE, id_), abi.Name(name))
    for id_, vip, backend in ((5, "10.96.0.10", "10.1.0.2"), (6, "fd96::1", "fd42::1")):
        addr, end = from_text(vip), from_text(backend)
        key = abi.SocketKey(cookie=77, addr=addr, port=53, proto=17, way=Way.TO_BACKEND)
        entry = abi.Socket(NOW_NS - 7 * SEC_NS, netns=9, addr=end, port=5353, service=id_)
        node_tables.sockets.put(key, entry)
    return node_tables


@pytest.mark.usefixtures("sockets")
def test_sockets_show_the_backend_they_were_given(run: Run) -> None:
    lines = [line.split() for line in run("socket", "ls").out.splitlines()]
    assert lines == [
        ["PROTOCOL", "DESTINATION", "BACKEND", "SERVICE", "IDLE"],
        ["UDP", "[fd96::1]:53", "[fd42::1]:5353", "default/web/IPv6", "7s"],
        ["UDP", "10.96.0.10:53", "10.1.0.2:5353", "kube-system/dns:dns/IPv4", "7s"],
    ]


@pytest.mark.parametrize(
    ("flags", "services"),
    [
        (("--service", "dns"), ["kube-system/dns:dns/IPv4"]),
        (("--backend", "fd42::1"), ["default/web/IPv6"]),
        (("--backend", "10.1.0.9"), []),
    ],
)
@pytest.mark.usefixtures("sockets")
def test_sockets_are_filtered(run: Run, flags: tuple[str, ...], services: list[str]) -> None:
    found = json.loads(run("socket", "ls", "-o", "json", *flags).out)
    assert [row["service"] for row in found] == services
