"""Build kpbpf's image without a registry: Debian packages and wheels, packed as one file.

    sudo .venv/bin/python -m deploy.image.build

Needs Debian 12 (its Python is that of the image), root, and the package mmdebstrap. Takes about
a minute and a half. The file goes to each node:

    ctr -n k8s.io images import kpbpf-0.1.0.tar     containerd, kubeadm
    k3s ctr images import kpbpf-0.1.0.tar           k3s
    kind load image-archive kpbpf-0.1.0.tar         kind
    podman load -i kpbpf-0.1.0.tar                  podman, CRI-O
    docker load -i kpbpf-0.1.0.tar                  docker
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from deploy.image import oci, recipe

SUITE = "bookworm"
NOT_NEEDED = ("doc", "info", "locale", "man")
LEFT_BEHIND = ("etc/hostname", "etc/machine-id", "etc/resolv.conf", "var/cache/ldconfig/aux-cache")
"""Of the machine that built it, or different each time."""

_started = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, try and write the image; say what is being done."""
    chosen = _parser().parse_args(arguments)
    _require()
    newest = int(os.environ.get("SOURCE_DATE_EPOCH") or _last_change())
    name = f"docker.io/library/kpbpf:{_version()}"
    with tempfile.TemporaryDirectory(prefix="kpbpf-image-") as scratch:
        wheels, root = Path(scratch, "wheels"), Path(scratch, "root")
        say("wheels of kpbpf and of what it needs")
        make_wheels(wheels)
        say(f"Debian {SUITE} with {' '.join(recipe.packages())}")
        make_root(root, chosen.sources, newest)
        say("kpbpf into /opt/kpbpf")
        install(root, wheels)
        say(f"a try: {attempt(root)}")
        say("packing")
        layer = oci.pack(root, Path(scratch, "layer.tar.gz"), newest)
        digest = oci.write(chosen.output, layer, description(newest), name)
    megabytes = chosen.output.stat().st_size / 1e6
    say(f"{chosen.output}: {name}, {megabytes:.0f} MB, {digest}")


def make_wheels(target: Path) -> None:
    """Build and fetch every wheel. From a copy: setuptools leaves files where it builds."""
    with tempfile.TemporaryDirectory(prefix="kpbpf-sources-") as copy:
        for source in recipe.sources():
            here, there = recipe.ROOT / source, Path(copy, source)
            there.parent.mkdir(parents=True, exist_ok=True)
            if here.is_dir():
                shutil.copytree(here, there, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(here, there)
        run(sys.executable, "-m", "pip", "wheel", "-q", "--wheel-dir", target, copy, "pip")


def make_root(root: Path, sources: Path | None, newest: int) -> None:
    """Unpack Debian's essential packages and ours, with today's updates; `sources` is for apt."""
    options = ["--quiet", "--mode=root", "--variant=essential"]
    options.append(f"--include={','.join(recipe.packages())}")
    options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in NOT_NEEDED]
    # Without a file of its own, mmdebstrap takes Debian's main, updates and security.
    own = [str(sources)] if sources else []
    run(
        *("mmdebstrap", *options, SUITE, str(root), *own),
        environment={"SOURCE_DATE_EPOCH": str(newest)},
    )


def install(root: Path, wheels: Path) -> None:
    """Run install.sh in the root, and leave nothing of the build behind."""
    inside = root / "build"
    shutil.copytree(wheels, inside)
    shutil.copy2(recipe.HERE / "install.sh", inside)
    in_root(root, "sh", "/build/install.sh", "/build")
    shutil.rmtree(inside)
    for path in LEFT_BEHIND:
        (root / path).unlink(missing_ok=True)
    for log in (root / "var/log").rglob("*"):
        if log.is_file():
            log.unlink()


def attempt(root: Path) -> str:
    """Start kpbpf from the root and load its compiler: a missing library shows here."""
    loader = "from kpbpf.datapath.build import import_bcc; import_bcc()"
    in_root(root, "/opt/kpbpf/bin/python", "-c", loader)
    return " ".join(in_root(root, "/opt/kpbpf/bin/kpbpf", "version").split())


def description(created: int) -> oci.Description:
    """What the Dockerfile says of the image, for this machine's architecture."""
    said = recipe.image()
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    return oci.Description(
        architecture or platform.machine(),
        said.environment,
        {**said.labels, "org.opencontainers.image.version": _version()},
        said.command,
        said.user,
        created,
    )


def in_root(root: Path, *command: str) -> str:
    """Run a command with `root` as its root, and return what it prints."""
    return run("chroot", root, *command, environment={"PYTHONDONTWRITEBYTECODE": "1"})


def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    """Run a command to its good end; what a failed one said is the error."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        check=False,
        env={**os.environ, **(environment or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"build.py: {' '.join(words)}: exit {done.returncode}\n{done.stdout.strip()}")
    return done.stdout


def say(what: str) -> None:
    """Tell a person what happens now, and when."""
    print(f"{time.monotonic() - _started:6.1f} s  {what}", flush=True)


def _require() -> None:
    if os.geteuid() != 0:
        sys.exit("build.py: it unpacks Debian packages: run it as root")
    if shutil.which("mmdebstrap") is None:
        sys.exit("build.py: mmdebstrap is missing: apt-get install mmdebstrap")


def _last_change() -> int:
    """When the newest source was changed (Unix seconds): the same sources give the same image."""
    paths = [recipe.ROOT / source for source in recipe.sources()]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return int(max(file.stat().st_mtime for file in files if "__pycache__" not in file.parts))


def _version() -> str:
    project = tomllib.loads((recipe.ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(f"kpbpf-{_version()}.tar"),
        help="the file to write (%(default)s)",
    )
    parser.add_argument(
        "--sources",
        type=Path,
        metavar="FILE",
        help="a sources.list for apt, of a mirror of yours, instead of Debian's own",
    )
    return parser


if __name__ == "__main__":
    main()
