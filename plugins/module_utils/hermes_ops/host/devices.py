# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block devices of a host: what they hold, and where they are mounted. Reads only.

The content is read from the devices themselves (blkid's low-level probe), never from a cache: that of udev can be older
than the device, and a container has none.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..system.errors import OpsError
from ..system.process import run

BLOCK = "/sys/class/block"
BY_ID = "/dev/disk/by-id"
MOUNTS = "/proc/self/mountinfo"
TIMEOUT = 60.0
# Exit statuses of blkid -p (blkid(8)): nothing was found, or several contents that contradict each other.
_NOTHING, _AMBIVALENT = 2, 8
# What a blank device is read for, in bytes: its first and last part, where all file systems, tables and volume managers
# keep their signatures, and as much again at so many places in between.
_PART, _PLACES = 2**20, 16
# In memory, or never a place for data: their names begin like this.
_NEVER = ("fd", "ram", "sr", "zram")


@dataclass(frozen=True)
class Device:
    """A disk, partition or mapped device, and what blkid finds on it.

    :param number: ``major:minor``, as in mountinfo
    :param size: bytes
    :param usage: blkid's word: ``filesystem``, ``crypto``, ``raid``, ``other``; ``ambivalent`` for contents that
        contradict each other; "" for none
    :param kind: the content's type, e.g. ``ext4``, ``crypto_LUKS``; "" for none
    :param table: the type of its partition table; "" for none
    :param partitions: the names of its partitions
    """

    path: str
    number: str
    size: int
    read_only: bool = False
    usage: str = ""
    kind: str = ""
    label: str = ""
    uuid: str = ""
    table: str = ""
    partitions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mount:
    """A mounted file system: the ``number`` of its device, where it is mounted, whether it is read-only, and whether it
    shows other numbers of users and groups than those that it holds."""

    number: str
    where: str
    read_only: bool
    mapped: bool = False


@dataclass(frozen=True)
class Content:
    """The content of one device, more closely.

    :param blank: nothing at all was found on it
    :param used: bytes of the device that its file system uses; None: unknown
    :param damaged: why its file system cannot be trusted; "": no reason is known
    :param busy: the kernel uses it: it is mounted, perhaps where we cannot see it, or part of another device
    :param quota: its file system can hold users to limits, if it is mounted for that
    """

    blank: bool = False
    used: int | None = None
    damaged: str = ""
    busy: bool = False
    quota: bool = True


def devices() -> list[Device]:
    """All block devices that can hold data and are not part of another one, by path."""
    found = []
    for name in sorted(os.listdir(BLOCK)):
        path = f"/dev/{name.replace('!', '/')}"
        size = int(_word(name, "size") or 0) * 512
        # A holder is a device made of this one: RAID, LVM, multipath, an opened LUKS. The content is that one's.
        if size and not name.startswith(_NEVER) and os.path.exists(path) and not os.listdir(f"{BLOCK}/{name}/holders"):
            found.append(_probed(path, name, size))
    return found


def _probed(path: str, name: str, size: int) -> Device:
    done = run(["blkid", "-p", "-o", "export", path], timeout=TIMEOUT, check=False)
    if done.rc not in (0, _NOTHING, _AMBIVALENT):
        raise OpsError(f"cannot be examined: {done.last_words}", where=path, fix="see the kernel's log: dmesg")
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return Device(
        path=path,
        number=_word(name, "dev"),
        size=size,
        read_only=_word(name, "ro") == "1",
        usage="ambivalent" if done.rc == _AMBIVALENT else said.get("USAGE", ""),
        kind=said.get("TYPE", ""),
        label=_unescaped(said.get("LABEL", "")),
        uuid=said.get("UUID", ""),
        table=said.get("PTTYPE", ""),
        partitions=tuple(
            sorted(each for each in os.listdir(f"{BLOCK}/{name}") if _word(f"{name}/{each}", "partition"))
        ),
    )


def _word(name: str, attribute: str) -> str:
    """An attribute of the device in sysfs; "" if it has none."""
    try:
        with open(f"{BLOCK}/{name}/{attribute}", encoding="ascii", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    """*text* as blkid -o export escapes it for a shell: a backslash before each special character."""
    return re.sub(r"\\(.)", r"\1", text)


def named(declared: str) -> str | None:
    """The path in /dev of a device that is declared by a path or by the id of an EBS volume; None: it is not there."""
    if not declared.startswith("vol-"):
        path = os.path.realpath(declared)
        return path if os.path.exists(path) else None
    serial = declared.replace("-", "")
    link = f"{BY_ID}/nvme-Amazon_Elastic_Block_Store_{serial}"
    if os.path.exists(link):
        return os.path.realpath(link)
    # The volume's id is the serial number of its NVMe device, also where udev has not made the link.
    for name in sorted(os.listdir(BLOCK)):
        if _word(name, "device/serial") == serial and not _word(name, "partition"):
            return f"/dev/{name}"
    return None


def mounts() -> list[Mount]:
    """All mounted file systems that this process sees, later ones after those that they cover."""
    found = []
    for line in filter(None, _kernel_text(MOUNTS).split("\n")):
        fields, _dash, rest = line.partition(" - ")
        # The kernel escapes these characters in names, and no others at which Python would split.
        words, more = fields.split(" "), rest.split(" ")
        options = {*words[5].split(","), *more[-1].split(",")}
        found.append(Mount(words[2], _octal(words[4]), "ro" in options, "idmapped" in options))
    return found


def _kernel_text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        return stream.read()


def _octal(text: str) -> str:
    """*text* as the kernel escapes it: ``\\040`` for a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def content(device: Device, mounted: bool) -> Content:
    """Look at *device* more closely.

    :param mounted: its file system is mounted where it belongs
    """
    if device.usage == "filesystem":
        state = {"ext4": _ext4, "xfs": _xfs}.get(device.kind, _unknown)(device.path)
        return replace(state, busy=not mounted and is_busy(device.path))
    busy = is_busy(device.path)
    return Content(blank=not (device.usage or device.kind or device.table or busy) and is_blank(device), busy=busy)


def _unknown(_path: str) -> Content:
    return Content()


def _ext4(path: str) -> Content:
    if not shutil.which("dumpe2fs"):
        return _unknown(path)
    done = run(["dumpe2fs", "-h", path], timeout=TIMEOUT, check=False)
    said = dict(re.findall(r"^([\w ]+): +(.*)$", done.stdout, re.M))
    if not done.ok or "Block count" not in said:
        return Content(damaged=done.last_words)
    state = said.get("Filesystem state", "")
    damaged = f"its state is {state!r}" if "error" in state else ""
    used = int(said["Block count"]) * int(said["Block size"])
    return Content(used=used, damaged=damaged, quota="quota" in said.get("Filesystem features", "").split())


def _xfs(path: str) -> Content:
    if not shutil.which("xfs_info"):
        # On a bare host, before its packages are installed.
        return _unknown(path)
    # Where it is not mounted, xfs_info reads it with xfs_db; old versions cannot, and the mount will tell.
    done = run(["xfs_info", path], timeout=TIMEOUT, check=False)
    match = re.search(r"^data +=.*?bsize=(\d+) +blocks=(\d+)", done.stdout, re.M)
    return Content(used=int(match[1]) * int(match[2]) if match else None)


def is_busy(path: str) -> bool:
    """Whether the kernel uses the device: for a mount in any name space, for swap, or as part of another device."""
    try:
        # open(2): O_EXCL without O_CREAT fails for a block device in use.
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError:
        return True
    return False


def is_blank(device: Device) -> bool:
    """Whether nothing was ever written to the device, as far as that can be known without reading all of it.

    blkid alone is no proof: it exits alike for a blank device and for content that it does not know.
    """
    signatures = run(["wipefs", "--no-act", "--parsable", device.path], timeout=TIMEOUT, check=False)
    if not signatures.ok or signatures.stdout.strip():
        return False
    try:
        descriptor = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # A read that fails or is short proves nothing.
        return all(_is_zero(os.pread(descriptor, length, start), length) for start, length in _places(device.size))
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_zero(data: bytes, length: int) -> bool:
    return len(data) == length and not any(data)


def _places(size: int) -> Iterator[tuple[int, int]]:
    """Where to read a device of *size* bytes: starts and lengths."""
    length = min(_PART, size)
    step = max(_PART, (size - length) // (_PLACES + 1) // 512 * 512)
    yield size - length, length
    for start in range(0, size - length, step):
        yield start, length
