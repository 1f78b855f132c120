"""A throw-away machine with Debian's stock 6.1 kernel: qemu without acceleration, one command.

The guest sees this machine's root file system below a copy-on-write layer, runs the command as
root in the project's directory and ends; nothing it writes comes back but its output and exit
code. The kernel package is fetched once with `apt-get download` and only unpacked, below .make/vm.
It has the loopback interface and no other.

Two serial ports leave the guest: one has the kernel's messages, the other the command's output,
whose last line is the exit code. One CPU: qemu's threads and the kernel's patching of its own
code do not go together.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".make" / "vm"
MEMORY_MB = 1536
BOOT_SEC = 120
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
EXIT_MARK = "guest-exit-code "

# Runs in the initial file system: loads what the root needs, mounts it, goes there.
FIRST_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
for module in $(cat /modules/order); do insmod /modules/$module; done
share=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o ro,$share,cache=loose root /below
mount -t tmpfs -o size=60% layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/below,upperdir=/layer/upper,workdir=/layer/work root /new
for each in dev proc sys; do mount --move /$each /new/$each; done
mkdir -p /new/lib/modules/VERSION
mount -t 9p -o ro,$share,cache=loose modules /new/lib/modules/VERSION
cp /second-init /new/second-init
exec switch_root /new /bin/sh /second-init
"""

# Runs on the real root: the mounts that a system has, then the command.
SECOND_INIT = """export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t tmpfs run /run; mkdir -p /run/netns /run/lock /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm; mount -t devpts pts /dev/pts
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
ln -sf /proc/self/fd /dev/fd
ulimit -l unlimited
stty -F /dev/ttyS1 raw -echo
cd DIRECTORY
timeout -k 5 LIMIT COMMAND </dev/null >/dev/ttyS1 2>&1
code=$?
echo >/dev/ttyS1
echo "MARK$code" >/dev/ttyS1
sync; sleep 1; echo b >/proc/sysrq-trigger
"""


class Result(NamedTuple):
    """What the command printed and how it ended, and the kernel's messages."""

    code: int
    output: str
    console: str


def run(command: list[str], limit_sec: int) -> Result:
    """Boot, run the command for at most `limit_sec` seconds, and return what came of it.

    RuntimeError, with the end of the kernel's messages, where the machine did not get that far.
    """
    kernel = unpacked_kernel()
    with tempfile.TemporaryDirectory(prefix="kpbpf-vm-") as name:
        work = Path(name)
        initrd = make_initrd(work, kernel, command, limit_sec)
        output, console = work / "output", work / "console"
        argv = qemu(kernel, initrd, output, console)
        subprocess.run(argv, check=False, timeout=BOOT_SEC + limit_sec + 20, capture_output=True)
        text = output.read_text(errors="replace").replace("\r\n", "\n")
        messages = console.read_text(errors="replace")
    printed, mark, code = text.rpartition(EXIT_MARK)
    if not mark:
        raise RuntimeError(f"the machine ended early:\n{text}\n{messages[-4000:]}")
    return Result(int(code), printed.rstrip(), messages)


def qemu(kernel: Path, initrd: Path, output: Path, console: Path) -> list[str]:
    """The command line of the emulator."""
    shares = {"root": Path("/"), "modules": modules_of(kernel)}
    devices: list[str] = []
    for tag, path in shares.items():
        source = f"local,id={tag},path={path},security_model=none,multidevs=remap,readonly=on"
        devices += ["-fsdev", source, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    settings = "console=ttyS0 panic=-1 oops=panic mitigations=off nokaslr audit=0 net.ifnames=0"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-no-reboot", "-M", "q35", "-accel", "tcg,thread=single", "-cpu", "Nehalem-v1,+rdrand"),
        *("-smp", "1", "-m", str(MEMORY_MB)),
        *("-kernel", str(vmlinuz_of(kernel)), "-initrd", str(initrd), "-append", settings),
        *("-serial", f"file:{console}", "-serial", f"file:{output}"),
        *devices,
    ]


def make_initrd(work: Path, kernel: Path, command: list[str], limit_sec: int) -> Path:
    """Pack busybox, the modules for the root file system, and the two scripts."""
    tree = work / "initrd"
    for name in ("bin", "modules", "proc", "sys", "dev", "below", "layer", "new"):
        (tree / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "busybox", tree / "bin/busybox")
    names = []
    for module in needed_modules(kernel):
        shutil.copy(module, tree / "modules")
        names.append(module.name)
    (tree / "modules/order").write_text("\n".join(names))
    version = modules_of(kernel).name
    (tree / "init").write_text(FIRST_INIT.replace("VERSION", version))
    (tree / "init").chmod(0o755)
    second = SECOND_INIT.replace("LIMIT", str(limit_sec)).replace("MARK", EXIT_MARK)
    second = second.replace("DIRECTORY", shlex.quote(str(ROOT)))
    (tree / "second-init").write_text(second.replace("COMMAND", shlex.join(command)))
    files = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"],
        input=files.encode(),
        check=True,
        capture_output=True,
        cwd=tree,
    )
    (work / "initrd.cpio").write_bytes(packed.stdout)
    return work / "initrd.cpio"


def needed_modules(kernel: Path) -> list[Path]:
    """Modules that the root file system needs, dependencies first."""
    found: dict[Path, None] = {}
    for module in MODULES:
        argv = ["modprobe", "-d", str(kernel), "-S", modules_of(kernel).name, "--show-depends"]
        shown = subprocess.run([*argv, module], check=True, capture_output=True, text=True).stdout
        for line in shown.splitlines():
            if line.startswith("insmod "):
                found[Path(line.split()[1])] = None
    return list(found)


def unpacked_kernel() -> Path:
    """Return the directory of the unpacked kernel package; fetch it the first time."""
    kernel = CACHE / "kernel"
    if kernel.exists():
        return kernel
    shown = subprocess.run(
        ["apt-cache", "depends", "linux-image-amd64"], check=True, capture_output=True, text=True
    ).stdout
    package = next(
        line.split()[-1] for line in shown.splitlines() if "Depends: linux-image-" in line
    )
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
        subprocess.run(apt, check=True, cwd=work)
        (archive,) = work.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(work / "kernel")], check=True)
        version = modules_of(work / "kernel").name
        subprocess.run(["depmod", "-b", str(work / "kernel"), version], check=True)
        (work / "kernel").rename(kernel)
    return kernel


def modules_of(kernel: Path) -> Path:
    """The directory of modules, which is called like the kernel's version."""
    (directory,) = (kernel / "lib/modules").iterdir()
    return directory


def vmlinuz_of(kernel: Path) -> Path:
    """The kernel image."""
    (image,) = (kernel / "boot").glob("vmlinuz-*")
    return image
