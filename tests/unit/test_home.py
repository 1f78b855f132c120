"""The home's directories and locks."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kpbpf.errors import AlreadyRunning, Fix, MapFull, MissingBpffs, Problem
from kpbpf.home import PINS, Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "pins", tmp_path / "run")


def test_flags_win_over_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KPBPF_PINS", raising=False)
    monkeypatch.setenv("KPBPF_RUN", "/run/from-environment")
    assert Home.choose() == Home(PINS, Path("/run/from-environment"))
    assert Home.choose(pins="/a", run="/b") == Home(Path("/a"), Path("/b"))


def test_holder_of_the_writer_lock_may_take_it_again(home: Home) -> None:
    with home.writer_lock(), home.writer_lock():
        assert _other_process_gets_the_lock(home) is False
    assert _other_process_gets_the_lock(home) is True


def test_writer_lock_keeps_other_threads_out(home: Home) -> None:
    order: list[str] = []

    def write() -> None:
        with home.writer_lock():
            order.append("thread")

    with home.writer_lock():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(0.05)
        order.append("main")
    thread.join()
    assert order == ["main", "thread"]


def test_second_daemon_is_told_the_first_ones_pid(home: Home) -> None:
    with (
        home.daemon_lock(),
        pytest.raises(AlreadyRunning, match=f"process {os.getpid()}") as caught,
        home.daemon_lock(),
    ):
        pass
    assert caught.value.pid == os.getpid()
    with home.daemon_lock():
        pass


def _other_process_gets_the_lock(home: Home) -> bool:
    path = home.run / "writer.lock"
    program = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, check=False)
    return done.returncode == 0


def test_fix_says_what_why_and_do_on_three_lines() -> None:
    error = MissingBpffs("/sys/fs/bpf/kpbpf", "/sys/fs/bpf")
    assert isinstance(error, Fix)
    what, why, do = str(error).splitlines()
    assert "/sys/fs/bpf/kpbpf" in what
    assert why.startswith("  why: ")
    assert do == "  do:  mount -t bpf bpf /sys/fs/bpf"


def test_nobody_is_told_to_mount_over_a_directory_that_may_hold_something() -> None:
    do = str(MissingBpffs("/srv/pins")).splitlines()[2]
    assert "--pins" in do
    assert "/srv" not in do


def test_errors_name_what_they_are_about() -> None:
    assert str(MapFull("flows", 262_144)) == "map flows is full: it holds at most 262,144 entries"
    problem = Problem("web.yaml, document 2", "Service default/web", "spec.ports[0].port", "a", "b")
    assert str(problem) == (
        "web.yaml, document 2: Service default/web: spec.ports[0].port: expected a, got b"
    )
    whole = problem._replace(field="")
    assert str(whole) == "web.yaml, document 2: Service default/web: expected a, got b"
