"""How a daemon ends, and what its configuration does to it."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.apiserver import ApiServer
from tests.cluster.daemon import SOON_SEC, Cluster
from tests.cluster.faults import Kind
from tests.lab.agent import until
from tests.lab.sockets import Download, ask_tcp
from tests.lab.world import IPV4

END_SEC = 3.0


@contextmanager
def told(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """What systemd would hear: the path of its socket, and the lines that have come."""
    path = str(directory / "notify")
    lines: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(0.1)
        yield path, lines
        while True:
            try:
                lines += sock.recv(65536).decode().splitlines()
            except TimeoutError:
                return


# ---- configuration -----------------------------------------------------------------------------


def configured(cluster: Cluster, **more: object) -> Path:
    """Write the configuration file, and have the daemon read it."""
    kubeconfig = cluster.directory / "kubeconfig"
    file = cluster.directory / "config.yaml"
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        **more,
    }
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(config))
    draft.replace(file)
    cluster.kpbpf.access = ("--config", str(file))
    return file


def test_a_changed_configuration_ends_the_daemon_orderly_and_traffic_goes_on(
    resting: Cluster,
) -> None:
    configured(resting)
    resting.start()
    with resting.service("web", 80, resting.a) as web:
        before = resting.entries()
        with Download(resting.client, web.addresses[IPV4], 80) as download:
            configured(resting, metricsBindAddress="127.0.0.1:10259")
            daemon = resting.kpbpf.daemon
            assert daemon is not None
            assert daemon.wait(SOON_SEC) == 0
            resting.kpbpf.daemon = None
            assert resting.entries() == before
            assert download.grows(), download.fault
            resting.start()
            assert resting.page("/proxyMode", 10259).code == 200
            assert download.grows(), download.fault


def test_a_broken_configuration_is_named_and_the_one_before_it_stays(resting: Cluster) -> None:
    file = configured(resting)
    resting.start()
    log = resting.kpbpf.log_text()
    file.write_text("apiVersion: [")
    said = resting.log_grows("the old one stays", log)
    assert str(file) in said
    resting.event("InvalidConfiguration")
    until(lambda: "configuration" in resting.status()["failures"], "status names it", SOON_SEC)
    with resting.service("web", 81, resting.a):
        assert resting.runs
    configured(resting)
    until(lambda: not resting.status()["failures"], "it is mended", SOON_SEC)
    assert resting.runs, "the same configuration again is no change"


def test_init_only_makes_maps_and_programs_and_ends(resting: Cluster) -> None:
    done = resting.kpbpf.cli("run", *resting.kpbpf.sources(), "--init-only", timeout_sec=60)
    assert done.returncode == 0, done.stderr
    assert resting.kpbpf.home.pins.is_dir()
    assert not resting.page_or_none("/proxyMode")


# ---- the end -----------------------------------------------------------------------------------


def works(_: ApiServer) -> None:
    """Nothing is wrong."""


def is_away(server: ApiServer) -> None:
    server.refuse()
    server.drop_open()


def stalls(server: ApiServer) -> None:
    server.faults.add(Kind.STALL, times=None)
    server.stall_open()


def was_away(server: ApiServer) -> None:
    server.refuse()


def said_nothing(server: ApiServer) -> None:
    server.faults.add(Kind.STALL, times=None)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("server_does", [works, is_away, stalls])
def test_a_daemon_ends_orderly_whatever_the_server_does(
    resting: Cluster, server_does: Callable[[ApiServer], None], how: int, tmp_path: Path
) -> None:
    with told(tmp_path) as (path, lines):
        resting.start(NOTIFY_SOCKET=path)
        with resting.service("web", 82, resting.a) as web:
            server_does(resting.server)
            before, log = resting.entries(), resting.kpbpf.log_text()
            started = time.monotonic()
            assert resting.stop(how) == 0
            assert time.monotonic() - started < END_SEC
            assert resting.entries() == before
            assert "traffic goes on" in resting.log_grows("kpbpf stops", log)
            assert ask_tcp(resting.client, web.addresses[IPV4], 80).server == "pod-a"
    assert lines[-1] == "STOPPING=1"
    assert "READY=1" in lines
    assert lines.index("READY=1") < lines.index("STOPPING=1")


@pytest.mark.parametrize("server_did", [was_away, said_nothing])
def test_a_daemon_that_never_got_through_ends_orderly_too(
    resting: Cluster, server_did: Callable[[ApiServer], None], tmp_path: Path
) -> None:
    server_did(resting.server)
    resting.kpbpf.launch()
    until(lambda: resting.page_or_none("/readyz") is not None, "it runs", SOON_SEC)
    started = time.monotonic()
    assert resting.stop() == 0
    assert time.monotonic() - started < END_SEC
