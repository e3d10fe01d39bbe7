# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine with Debian's kernel, for what the kernel of the machine that tests may lack: quotas.

All of it is in memory: this machine's Python and programs for file systems, the kit, and inside.py, which it runs. The
processor is emulated, so nothing but Debian's packages is needed.
"""

from __future__ import annotations

import lzma
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import box

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/kernel"
KIT = ROOT / "plugins/module_utils/hermes_ops"
INSIDE = Path(__file__).with_name("inside.py")

# Program -> the package that has it.
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "mkfs.xfs": "xfsprogs"}
KERNEL = "linux-image-cloud-amd64"
# The kernel itself loads the one for quotas of ext4.
MODULES = ("virtio_pci", "virtio_blk", "xfs", "quota_v2")
PYTHON = "/usr/bin/python3"
IN_THE_MACHINE = ("blkid", "dumpe2fs", "e2fsck", "mkfs.ext4", "mkfs.xfs", "mount", "tune2fs", "umount", "wipefs")
# Parts of Python's library that are large, and not used here.
_LEFT_OUT = re.compile(r"config-.*|dist-packages|ensurepip|idlelib|lib2to3|pydoc_data|test|tkinter|turtledemo")
# xfs is never smaller.
DISK_SIZE, DISKS = 320 * 2**20, 3
SECONDS = 300

_INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /sbin /mnt
/bin/busybox --install -s /bin
ln -s /bin/modprobe /sbin/modprobe
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/kit
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
modprobe -a virtio_pci virtio_blk xfs
python3 /kit/inside.py
poweroff -f
"""


def missing() -> str:
    """Why there can be no such machine here; "" if there can."""
    if platform.machine() != "x86_64":
        return f"this is no x86_64, but {platform.machine()}"
    if not re.search(r"^ID=debian$", Path("/etc/os-release").read_text(encoding="utf-8"), re.M):
        return "this is not Debian"
    if not Path(PYTHON).exists():
        return f"there is no {PYTHON}"
    lacking = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    return f"there is no {', '.join(lacking)}: install {' '.join(PROGRAMS.values())}" if lacking else ""


def run(directory: Path) -> str:
    """Start a machine with three blank disks, and wait until it has ended; returns what it said.

    :param directory: for its files
    """
    kernel = unpacked_kernel()
    tree = directory / "root"
    _fill(tree, kernel)
    image = directory / "root.cpio"
    with image.open("wb") as stream:
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        _run("busybox", "cpio", "-o", "-H", "newc", cwd=tree, input=names.encode(), stdout=stream)
    disks: list[str] = []
    for number in range(DISKS):
        disk = directory / f"disk{number}"
        with disk.open("wb") as stream:
            stream.truncate(DISK_SIZE)
        disks += ["-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"]
    (file,) = kernel.glob("boot/vmlinuz-*")
    done = subprocess.run(
        # No graphics, no network, one processor; its console is our pipe.
        [*("qemu-system-x86_64", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-m", "512"),
         *("-kernel", str(file), "-initrd", str(image), "-append", "console=ttyS0 quiet panic=-1"), *disks],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    return done.stdout.decode("utf-8", "replace").replace("\r\n", "\n")


def unpacked_kernel() -> Path:
    """Debian's kernel, unpacked and not installed."""
    target = CACHE / "unpacked"
    if not target.is_dir():
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(parents=True)
        with box.alone("apt"):
            _run(*box.as_root("apt-get", "update", "-qq"))
            name = re.search(r"Depends: (linux-image-\d\S*)", _run("apt-cache", "depends", KERNEL).stdout.decode())[1]
            _run("apt-get", "download", "-qq", name, cwd=CACHE)
        (package,) = CACHE.glob("*.deb")
        _run("dpkg-deb", "--extract", str(package), str(CACHE / "partial"))
        package.unlink()
        (CACHE / "partial").rename(target)
    return target


def _fill(tree: Path, kernel: Path) -> None:
    for directory in ("bin", "kit", "usr/bin", "usr/sbin"):
        (tree / directory).mkdir(parents=True)
    shutil.copy2(shutil.which("busybox", path=_path()), tree / "bin/busybox")
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)
    _add_modules(tree, kernel)
    library = Path(_run(PYTHON, "-I", "-c", "import os; print(os.__file__, end='')").stdout.decode()).parent
    shutil.copytree(library, tree / str(library).lstrip("/"), ignore=_left_out)
    programs = [Path(shutil.which(name, path=_path())) for name in IN_THE_MACHINE]
    for program in [Path(PYTHON), *programs]:
        shutil.copy2(program.resolve(), tree / str(program).lstrip("/"))
    for file in set(_libraries([Path(PYTHON), *programs, *library.glob("lib-dynload/*.so")])):
        (tree / file.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, tree / file.lstrip("/"))
    shutil.copytree(KIT, tree / "kit/hermes_ops", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(INSIDE, tree / "kit")
    # By this machine, which is twenty times as fast.
    program = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2, invalidation_mode="
    program += "__import__('py_compile').PycInvalidationMode.UNCHECKED_HASH)"
    _run(PYTHON, "-I", "-c", program, str(tree / "kit"))


def _left_out(_directory: str, names: list[str]) -> set[str]:
    return {name for name in names if _LEFT_OUT.fullmatch(name)}


def _add_modules(tree: Path, kernel: Path) -> None:
    (modules,) = kernel.glob("**/lib/modules/*")
    target = tree / "lib/modules" / modules.name
    found = {re.sub(r"\.ko.*", "", path.name).replace("-", "_"): path for path in modules.rglob("*.ko*")}
    wanted = list(MODULES)
    for name in wanted:
        if name not in found:
            # It is built in.
            continue
        source = found[name]
        data = source.read_bytes()
        data = lzma.decompress(data) if source.suffix == ".xz" else data
        place = target / source.relative_to(modules).with_name(source.name.split(".")[0] + ".ko")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        needs = re.search(rb"\0depends=([^\0]*)\0", data)[1].decode()
        soft = re.search(rb"\0softdep=pre: ([^\0]*)\0", data)
        needs += "," + ",".join(soft[1].decode().split()) if soft else ""
        wanted += [each.replace("-", "_") for each in needs.split(",") if each and each not in wanted]
    for path in modules.glob("modules.*"):
        shutil.copy2(path, target)
    _run("busybox", "depmod", "-b", str(tree), modules.name)


def _libraries(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        said = subprocess.run(["ldd", str(file)], capture_output=True, check=False).stdout.decode()
        yield from re.findall(r"(/\S+) \(0x", said)


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _run(*command: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PATH": _path()}
    more.setdefault("stdout", subprocess.PIPE)
    return subprocess.run([*command], env=environment, stderr=subprocess.PIPE, check=True, **more)
