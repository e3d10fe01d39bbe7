# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data volume: which device it is, whether it may be formatted, and its mount at the data directory.

:func:`choose` and :func:`plan_volume` decide and touch nothing. A device is formatted only if it was named, nothing is
found on it, and formatting was allowed; everything else is adopted or refused.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from ..system.errors import OpsError
from ..system.paths import check_path
from ..system.quota import in_force
from ..system.typed import size
from . import devices, fstab
from .devices import Content, Device, Mount

# The file systems that can be grown while they are mounted -> the longest label that they can have.
FILE_SYSTEMS = {"ext4": 16, "xfs": 12}
# A tail of a device that is smaller is not worth growing for: file systems leave some space unused at their end.
LEAST_GROWTH = 16 * 2**20
DOCUMENTATION = "docs/data-volume.md"
POLL_SECONDS = 0.5


class Missing(OpsError):
    """The declared device is not there, but may still be attached."""


@dataclass(frozen=True)
class Volume:
    """What is declared.

    :param device: a path, an id ``vol-…`` of EBS, ``LABEL=…``, ``UUID=…``; "": the one volume with *label*
    :param fstype: what a blank device is formatted with
    :param label: of the file system
    :param format: whether a blank device may be formatted
    :param min_size: smallest size of the device, e.g. ``10G``
    :param timeout: seconds to wait for the device
    :param data_dir: where it is mounted
    :param quota: whether it is mounted such that users can be held to limits; a blank one is formatted for that
    """

    device: str
    fstype: str
    label: str
    format: bool
    min_size: str
    timeout: int
    data_dir: str
    quota: bool = False

    def __post_init__(self) -> None:
        check_path(self.data_dir, "hermes_data_dir")
        size(self.min_size, "data_volume_min_size")
        if not re.fullmatch(r"/.+|vol-[0-9a-f]+|(LABEL|UUID)=.+|", self.device):
            raise OpsError(
                f"{self.device!r} is no device",
                where="data_volume_device",
                fix="declare a path below /dev, vol-…, LABEL=…, UUID=…, or nothing for the volume with our label",
            )
        if self.fstype not in FILE_SYSTEMS:
            raise OpsError(f"is {self.fstype!r}", where="data_volume_fstype", fix="declare ext4 or xfs")
        longest = FILE_SYSTEMS[self.fstype]
        if not re.fullmatch(rf"[A-Za-z0-9_.-]{{1,{longest}}}", self.label):
            fix = f"declare 1 to {longest} letters, digits and _.- (for {self.fstype})"
            raise OpsError(f"{self.label!r} is no label", where="data_volume_label", fix=fix)
        if self.timeout < 0:
            raise OpsError(f"is {self.timeout}", where="data_volume_timeout", fix="declare seconds, 0 or more")

    @property
    def by_name(self) -> bool:
        """Whether the device itself is declared, and not what it holds."""
        return self.device.startswith(("/", "vol-"))


@dataclass(frozen=True)
class Place:
    """The state of the mount point.

    :param mount: what is mounted there; None: nothing
    :param elsewhere: all other mounts
    :param below: the names of what lies in the directory while nothing is mounted there
    :param in_fstab: /etc/fstab has a line for it
    :param known: the UUID in our unit: that of the data volume that this host had last; "" if it never had one
    :param quota: users are held to limits on what is mounted there
    """

    mount: Mount | None = None
    elsewhere: tuple[Mount, ...] = ()
    below: tuple[str, ...] = ()
    in_fstab: bool = False
    known: str = ""
    quota: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do with the device.

    :param make: format it first
    :param uuid: of its file system, also of one that is still to be made
    :param grow: the file system is smaller than the device
    """

    device: Device
    uuid: str
    kind: str
    make: bool
    mount: bool
    grow: bool


def choose(volume: Volume, named: str | None, found: Sequence[Device]) -> Device:
    """The declared device among all that were *found*.

    :param named: the path of a device that is declared by name; None if it is not there
    :raises Missing: it is not there
    :raises OpsError: it is no device, or several can be meant
    """
    if volume.by_name:
        if named is None:
            fix = "attach it, or correct data_volume_device"
            raise Missing(f"is not there after {volume.timeout} s", where=volume.device, fix=fix)
        fitting = [device for device in found if device.path == named]
        if not fitting:
            raise OpsError(
                f"{named} is no block device, or it belongs to another one (RAID, LVM, an opened LUKS)",
                where=volume.device,
                fix="declare the device that holds the file system",
            )
    else:
        tag, _equals, value = (volume.device or f"LABEL={volume.label}").partition("=")
        fitting = [device for device in found if (device.label if tag == "LABEL" else device.uuid) == value]
        if not fitting:
            raise Missing(
                f"no volume with {tag.lower()} {value} is attached",
                where=volume.device or "data_volume_device",
                fix="attach it. A new, blank one has to be named: data_volume_device, and data_volume_format: true",
            )
    device = fitting[0]
    # A copy from a snapshot has the label and the UUID of its original.
    twins = fitting[1:] or [other for other in found if device.uuid and other.uuid == device.uuid and other != device]
    if twins:
        paths = " and ".join(each.path for each in [device, *twins])
        same = "UUID" if device.uuid and twins[0].uuid == device.uuid else "label"
        raise OpsError(f"{paths} have the same {same}", fix="detach the one that is not this host's data volume")
    return device


def plan_volume(volume: Volume, place: Place, device: Device, content: Content, new_uuid: str) -> Decision:
    """Decide what to do with *device*.

    :param new_uuid: for a file system that is made
    :raises OpsError: the volume cannot be used; nothing was changed
    """
    _check_place(volume, place, device)
    _check_device(volume, device)
    if not (device.usage or device.kind or device.table):
        _check_blank(volume, place, device, content)
        return Decision(device, new_uuid, volume.fstype, make=True, mount=True, grow=False)
    _check_content(volume, device, content)
    if volume.quota:
        _check_quota(volume, place, device, content)
    grow = content.used is not None and device.size - content.used >= LEAST_GROWTH
    return Decision(device, device.uuid, device.kind, make=False, mount=place.mount is None, grow=grow)


def _check_place(volume: Volume, place: Place, device: Device) -> None:
    """:raises OpsError: the device cannot be mounted at the data directory"""
    if place.in_fstab:
        raise OpsError(
            f"has a line for {volume.data_dir}",
            where=fstab.FSTAB,
            fix="remove that line, a unit takes its place; or declare data_volume_enabled: false to mount it yourself",
        )
    if place.mount and place.mount.number != device.number:
        raise OpsError(
            f"another device ({place.mount.number}) is mounted there, not {device.path} ({device.number})",
            where=volume.data_dir,
            fix="unmount it, or correct data_volume_device",
        )
    if place.mount and place.mount.read_only:
        raise OpsError(
            f"{device.path} is mounted read-only",
            where=volume.data_dir,
            fix="see why in the kernel's log (dmesg); then mount it writable again, or unmount it and check it (fsck)",
        )
    where = [mount.where for mount in place.elsewhere if mount.number == device.number]
    if not place.mount and where:
        raise OpsError(f"is mounted at {where[0]}", where=device.path, fix=f"unmount it there: umount {where[0]}")
    if not place.mount and place.below:
        raise OpsError(
            f"is not empty ({', '.join(place.below[:5])}), and the volume would hide that",
            where=volume.data_dir,
            fix=f"move it to the volume or away: {DOCUMENTATION}, Moving a host's data to a volume",
        )


def _check_device(volume: Volume, device: Device) -> None:
    """:raises OpsError: the device cannot be used, whatever it holds"""
    if device.read_only:
        raise OpsError("is read-only", where=device.path, fix="attach it writable")
    if device.size < size(volume.min_size, "data_volume_min_size"):
        raise OpsError(
            f"has {device.size // 2**20} MiB, less than data_volume_min_size ({volume.min_size})",
            where=device.path,
            fix="attach the right volume, or declare a smaller data_volume_min_size",
        )


def _check_blank(volume: Volume, place: Place, device: Device, content: Content) -> None:
    """:raises OpsError: the device may not be formatted"""
    if content.busy or place.mount:
        raise OpsError("is in use", where=device.path, fix="see by what: lsblk, and /proc/mounts of containers")
    if not content.blank or device.partitions:
        raise OpsError(
            "has no file system, but is not blank",
            where=device.path,
            fix="attach the right volume. If nothing on it is needed (a formatting that was interrupted): "
            f"blkdiscard --zeroout {device.path}",
        )
    if place.known:
        raise OpsError(
            f"is blank, but this host already had a data volume (UUID {place.known})",
            where=device.path,
            fix=f"attach that one. If it is lost: {DOCUMENTATION}, A lost volume",
        )
    if not (volume.format and volume.by_name):
        raise OpsError(
            "is blank, and data_volume_format does not allow to format it",
            where=device.path,
            fix="attach the right volume; for a new one run once with data_volume_format: true",
        )


def _check_content(volume: Volume, device: Device, content: Content) -> None:
    """:raises OpsError: the content of the device cannot be adopted"""
    path = device.path
    if device.usage == "crypto":
        raise OpsError(
            f"is encrypted ({device.kind}) and closed",
            where=path,
            fix=f"open it, e.g. cryptsetup open {path} hermes-data, and declare /dev/mapper/hermes-data",
        )
    if not device.kind and device.table:
        parts = ", ".join(f"/dev/{name}" for name in device.partitions) or "none"
        raise OpsError(
            f"holds only a partition table ({device.table}; partitions: {parts})",
            where=path,
            fix=f"declare a partition; or, if nothing on it is needed: wipefs --all {path}, then "
            f"blkdiscard --zeroout {path}",
        )
    if device.usage != "filesystem" or device.kind not in FILE_SYSTEMS:
        found = device.kind or "contents that contradict each other"
        raise OpsError(f"holds {found}, not ext4 or xfs", where=path, fix="attach the right volume")
    if content.busy:
        raise OpsError("is in use", where=path, fix="see by what: lsblk, and /proc/mounts of containers")
    if device.label != volume.label:
        label = volume.label
        relabel = f"e2label {path} {label}" if device.kind == "ext4" else f"xfs_admin -L {label} {path}"
        raise OpsError(
            f"holds a file system with label {device.label!r}, not {label!r}: it may be somebody else's",
            where=path,
            fix=f"attach the right volume; or, if it is this host's, name it so: {relabel}",
        )
    if content.damaged:
        fix = f"unmount it, then: e2fsck -f {path}" if device.kind == "ext4" else f"see: xfs_repair -n {path}"
        raise OpsError(f"its file system is damaged: {content.damaged}", where=path, fix=fix)


def _check_quota(volume: Volume, place: Place, device: Device, content: Content) -> None:
    """:raises OpsError: users cannot be held to limits on the volume as it is"""
    unmount = f"stop what uses it, and unmount it: {DOCUMENTATION}, Quotas"
    if not content.quota:
        raise OpsError(
            "its file system was made without quotas",
            where=device.path,
            fix=f"{unmount}; then: e2fsck -f {device.path} && tune2fs -O quota {device.path}",
        )
    if place.mount and not place.quota:
        what = f"{device.path} is mounted without quotas"
        raise OpsError(what, where=volume.data_dir, fix=f"{unmount}; then run this again")


def look_at_place(volume: Volume, known: str) -> Place:
    """The state of the mount point now; *known* as in :class:`Place`."""
    data_dir = volume.data_dir
    if os.path.realpath(data_dir) != data_dir:
        raise OpsError(
            f"is reached through a symbolic link ({os.path.realpath(data_dir)})",
            where="hermes_data_dir",
            fix="declare the real path: systemd mounts nothing at another one",
        )
    mounts = devices.mounts()
    here = [mount for mount in mounts if mount.where == data_dir]
    below = () if here or not os.path.isdir(data_dir) else tuple(sorted(os.listdir(data_dir)))
    return Place(
        mount=here[-1] if here else None,
        elsewhere=tuple(mount for mount in mounts if mount.where != data_dir),
        below=below,
        in_fstab=data_dir in fstab.places(),
        known=known,
        quota=bool(here) and in_force(data_dir),
    )


def decide(volume: Volume, known: str, *, wait: bool) -> Decision:
    """Look at the host, and decide.

    :param known: as in :class:`Place`
    :param wait: give a missing device the declared time to appear
    :raises OpsError: the volume cannot be used
    """
    deadline = time.monotonic() + volume.timeout
    while True:
        try:
            named = devices.named(volume.device) if volume.by_name else None
            device = choose(volume, named, devices.devices())
            break
        except Missing:
            if not wait or time.monotonic() >= deadline:
                raise
        time.sleep(POLL_SECONDS)
    place = look_at_place(volume, known)
    return plan_volume(volume, place, device, devices.content(device, place.mount is not None), str(uuid.uuid4()))


def escape(path: str) -> str:
    """*path* in the name of a unit, as ``systemd-escape --path`` writes it."""
    text = "/".join(filter(None, path.split("/"))) or "/"
    escaped = "".join(
        "-" if each == "/" else each if re.fullmatch(r"[A-Za-z0-9:_.]", each) else f"\\x{ord(each):02x}"
        for each in text
    )
    return f"\\x2e{escaped[1:]}" if escaped.startswith(".") else escaped


def unit_of(data_dir: str) -> str:
    """The unit that mounts the data volume."""
    return f"{escape(data_dir)}.mount"


def not_mounted(data_dir: str) -> OpsError:
    """The error that the declared data volume is not mounted at *data_dir*."""
    fix = f"attach the volume, then: systemctl start {unit_of(data_dir)}"
    return OpsError("the data volume is not mounted", where=data_dir, fix=fix)
