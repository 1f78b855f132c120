"""The systemd unit gives the daemon what the DaemonSet gives it."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from kpbpf import home
from kpbpf.datapath import bpffs
from tests.deploy import overlays

UNIT = overlays.DEPLOY / "systemd" / "kpbpf.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    """The unit's [Service] section; a key that stands twice is an error."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    unit.read(UNIT)
    return unit["Service"]


def test_it_has_the_capabilities_of_the_pod(service: configparser.SectionProxy) -> None:
    assert service["CapabilityBoundingSet"].split() == overlays.capabilities("policy-only")


def test_it_starts_the_command_of_the_pod(service: configparser.SectionProxy) -> None:
    program, *words = service["ExecStart"].split()
    made = overlays.container("policy-only")
    assert [Path(program).name, *words] == [*made["command"], made["args"][0]]


def test_it_may_write_pins_and_the_run_directory(service: configparser.SectionProxy) -> None:
    assert service["ProtectSystem"] == "strict"
    assert service["ReadWritePaths"] == str(bpffs.MOUNT_POINT)
    assert Path("/run", service["RuntimeDirectory"]) == home.RUN
    assert service["RuntimeDirectoryPreserve"] == "yes", "Services made by hand are there"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="a machine without systemd")
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    program = overlays.container("policy-only")["command"][0]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(f"/opt/kpbpf/bin/{program}", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", copy],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
