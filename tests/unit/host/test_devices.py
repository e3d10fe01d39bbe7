# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data volume on real devices: loop devices with real file systems. Needs root."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import (
    devices,
    volume,
    volume_mount,
    volume_numbers,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.volume import Volume
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.volume_numbers import Numbers, Owner
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Unit

MIB = 2**20
NEEDED = ("losetup", "mkfs.ext4", "wipefs", "blkid")


def sh(*words: str, check: bool = True) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=check).stdout.strip()


@pytest.fixture
def loop(tmp_path) -> Iterator[Callable[..., str]]:
    """A function that makes a loop device of so many MiB."""
    made = []

    def make(size: int = 64, *options: str) -> str:
        path = tmp_path / f"disk-{len(made)}"
        with path.open("wb") as stream:
            stream.truncate(size * MIB)
        made.append(sh("losetup", "--find", "--show", *options, str(path)))
        return made[-1]

    if os.geteuid() != 0 or not all(map(shutil.which, NEEDED)):
        pytest.skip(f"SKIPPED, NOT PROVED: the data volume on devices, which needs root and {', '.join(NEEDED)}")
    try:
        make()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"SKIPPED, NOT PROVED: the data volume on devices: {error.stderr}")
    yield make
    for path in made:
        subprocess.run(["umount", path], capture_output=True, check=False)
        # The next one that is given this device would find it as it was left.
        sh("blockdev", "--setrw", path, check=False)
        sh("losetup", "--detach", path, check=False)


def declared(path: str, tmp_path, **more) -> Volume:
    values = {"device": path, "fstype": "ext4", "label": "hermes-test", "format": True, "min_size": "8M", "timeout": 0}
    return Volume(**{**values, "data_dir": str(tmp_path / "data"), **more})


def decide(path: str, tmp_path, **more) -> volume.Decision:
    return volume.decide(declared(path, tmp_path, **more), "", wait=False)


def needs(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"SKIPPED, NOT PROVED: the data volume and {program}, which is not on this machine")


def may(capability: int) -> bool:
    """Whether this process has the capability of that number (capability.h)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return bool(int(re.search(r"^CapEff:\s*(\w+)$", status, re.M)[1], 16) >> capability & 1)


def write(path: str, data: bytes, place: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(place)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def test_a_blank_device_is_made_and_then_adopted_even_if_we_were_killed_in_between(loop, tmp_path):
    path = loop()
    decision = decide(path, tmp_path)
    assert decision.make
    volume_mount._make(declared(path, tmp_path), decision)
    again = decide(path, tmp_path, format=False)
    assert (again.make, again.mount, again.grow) == (False, True, False)
    assert (again.uuid, again.device.label, again.kind) == (decision.uuid, "hermes-test", "ext4")
    # Found by its label alone, as on the next host.
    assert decide("", tmp_path).device.path == path


def test_a_device_that_somebody_used_meanwhile_is_not_formatted(loop, tmp_path):
    path = loop()
    decision = decide(path, tmp_path)
    sh("mkfs.ext4", "-q", "-L", "theirs", path)
    with pytest.raises(OpsError, match="is no longer blank"):
        volume_mount._make(declared(path, tmp_path), decision)
    assert sh("blkid", "-p", "-s", "LABEL", "-o", "value", path) == "theirs"


# A table of partitions with one entry (type 83, 8 MiB from 1 MiB on), and one without any.
ENTRY = bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") + (16384).to_bytes(4, "little")
FOREIGN = {
    "another label": (("mkfs.ext4", "-q", "-L", "theirs"), "with label 'theirs'"),
    "ext3": (("mkfs.ext3", "-q", "-L", "hermes-test"), "holds ext3"),
    "swap": (("mkswap", "-q", "-L", "hermes-test"), "holds swap"),
    "only a partition table": (bytes(446) + ENTRY + bytes(48) + b"\x55\xaa", r"only a partition table \(dos"),
    "a boot sector": (bytes(510) + b"\x55\xaa", "only a partition table|is not blank"),
    "LUKS": (b"LUKS\xba\xbe\x00\x01" + bytes(504), "is encrypted .* and closed"),
    "LVM": (bytes(512) + b"LABELONE" + bytes(16) + b"LVM2 001", "LVM2_member|is not blank"),
}


@pytest.mark.parametrize(("content", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_what_others_made_is_refused_and_left_as_it_is(loop, tmp_path, content, reason):
    path = loop()
    if isinstance(content, bytes):
        write(path, content, 0)
    else:
        sh(*content, path)
    before = sh("sha256sum", path)
    with pytest.raises(OpsError, match=reason) as caught:
        decide(path, tmp_path)
    assert caught.value.fix
    assert sh("sha256sum", path) == before


@pytest.mark.parametrize("place", [0, 511, 65536, MIB - 1, next(devices._places(64 * MIB))[0], 64 * MIB - 1])
def test_a_single_byte_that_no_program_knows_is_not_blank(loop, tmp_path, place):
    path = loop()
    write(path, b"x", place)
    assert sh("blkid", "-p", path, check=False) == ""
    with pytest.raises(OpsError, match="has no file system, but is not blank"):
        decide(path, tmp_path)


def test_a_device_that_is_in_use_is_refused(loop, tmp_path):
    path = loop()
    holder = os.open(path, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(OpsError, match="is in use"):
            decide(path, tmp_path)
    finally:
        os.close(holder)


def test_a_volume_that_is_mounted_elsewhere_read_only_or_small_is_refused(loop, tmp_path):
    path = loop()
    sh("mkfs.ext4", "-q", "-L", "hermes-test", path)
    with pytest.raises(OpsError, match="less than data_volume_min_size"):
        decide(path, tmp_path, min_size="65M")
    (tmp_path / "elsewhere").mkdir()
    sh("mount", path, str(tmp_path / "elsewhere"))
    with pytest.raises(OpsError, match=f"is mounted at {tmp_path}/elsewhere"):
        decide(path, tmp_path)
    sh("umount", path)
    (tmp_path / "data").mkdir()
    sh("mount", "-o", "ro", path, str(tmp_path / "data"))
    with pytest.raises(OpsError, match="is mounted read-only"):
        decide(path, tmp_path)
    sh("umount", path)
    sh("blockdev", "--setro", path)
    with pytest.raises(OpsError, match="is read-only"):
        decide(path, tmp_path)


def test_a_damaged_file_system_is_refused_with_fscks_word(loop, tmp_path, monkeypatch):
    path = loop()
    sh("mkfs.ext4", "-q", "-L", "hermes-test", path)
    decision = decide(path, tmp_path)
    # The root directory is gone.
    sh("debugfs", "-w", "-R", "clri <2>", path)
    sh("tune2fs", "-T", "19700101", "-c", "1", "-C", "5", path)
    with pytest.raises(OpsError, match=r"is damaged: .*Root inode is not a directory") as caught:
        volume_mount._mount(declared(path, tmp_path), decision, None, [])
    assert caught.value.fix == f"e2fsck -f {path}"
    # What the kernel has seen already.
    sh("debugfs", "-w", "-R", "ssv state 2", path)
    with pytest.raises(OpsError, match="its file system is damaged"):
        decide(path, tmp_path)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_mounted_file_system_grows_with_its_device(loop, tmp_path, kind):
    needs(f"mkfs.{kind}")
    path = loop(400)
    sh(f"mkfs.{kind}", "-q", "-L", "hermes-test", path)
    (tmp_path / "data").mkdir()
    sh("mount", path, str(tmp_path / "data"))
    assert not decide(path, tmp_path).grow
    os.truncate(sh("losetup", "--noheadings", "--output", "BACK-FILE", path), 600 * MIB)
    sh("losetup", "--set-capacity", path)
    decision = decide(path, tmp_path)
    assert (decision.grow, decision.mount) == (True, False)
    if kind == "ext4" and not may(24):
        pytest.skip("SKIPPED, NOT PROVED: growing a mounted ext4, which needs CAP_SYS_RESOURCE")
    volume_mount._grow(declared(path, tmp_path), decision)
    assert not decide(path, tmp_path).grow
    assert os.statvfs(tmp_path / "data").f_blocks * os.statvfs(tmp_path / "data").f_frsize > 500 * MIB


@pytest.fixture
def volume_of_two(loop, tmp_path, request) -> str:
    """A device with the directories of two agents, one of them not where ours are, and things that are none."""
    needs(f"mkfs.{request.param}")
    path, where = loop(400), tmp_path / "data"
    sh(f"mkfs.{request.param}", "-q", "-L", "hermes-test", path)
    where.mkdir()
    sh("mount", path, str(where))
    for name, number in {"agents/ada": 2001, "agents/two words": 2003, "mine": 2005}.items():
        (where / name).mkdir(parents=True)
        os.chown(where / name, number, number + 1)
    (where / "agents/file").write_text("")
    (where / "agents/link").symlink_to("../mine")
    sh("umount", path)
    return path


@pytest.mark.parametrize(("volume_of_two", "kind"), [("ext4", "ext4"), ("xfs", "xfs")], indirect=["volume_of_two"])
def test_the_owners_are_seen_before_anybody_else_sees_the_volume(volume_of_two, tmp_path, kind):
    where = str(tmp_path / "data")
    agents = [described.agent(name, directory=path) for name, path in {"a": f"{where}/mine", "b": "/home/b"}.items()]
    agents.append(described.agent("c", directory=f"{where}/gone"))
    owners = volume_numbers.look(volume_of_two, kind, where, agents)
    assert sorted(owners, key=lambda owner: owner.uid) == [
        Owner("agents/ada", 2001, 2002),
        Owner("agents/two words", 2003, 2004),
        Owner("mine", 2005, 2006),
    ]
    assert where not in [mount.where for mount in devices.mounts()]
    # At once, and writable.
    sh("mount", volume_of_two, where)
    sh("umount", where)
    with pytest.raises(OpsError, match="the owners of its directories cannot be read: ") as caught:
        volume_numbers.look(volume_of_two, "vfat", where, agents)
    assert caught.value.where == volume_of_two


class Systemctl:
    """Mounts as systemd does with our unit, on a machine whose mount(8) knows no mapping, or hides that it failed."""

    def __init__(self, device: str, where: str):
        self.device, self.where = device, where

    def units(self, names):
        return {name: Unit(name, "", "", "", True, 0, 0, "", 0, 0.0, False) for name in names}

    def call(self, verb, *words, **_options):
        if verb in ("start", "stop"):
            sh(*{"start": ("mount", self.device), "stop": ("umount",)}[verb], self.where)
        return Completed((verb, *words), 0, "", "")


@pytest.mark.parametrize("volume_of_two", ["ext4"], indirect=True)
def test_a_volume_whose_numbers_are_not_mapped_does_not_stay_mounted(volume_of_two, tmp_path, monkeypatch):
    monkeypatch.setattr(volume_mount, "UNIT_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(volume_mount, "AFTER_PATH", str(tmp_path / "after"))
    for name in ("_await", "_prepare"):
        monkeypatch.setattr(volume_mount, name, lambda *_arguments: None)
    monkeypatch.setattr(volume_numbers, "can_map", lambda: True)
    monkeypatch.setattr(volume_numbers, "has_user", lambda number: number in (1, 2001))
    monkeypatch.setattr(volume_numbers, "has_group", lambda _number: False)
    where = str(tmp_path / "data")
    agents = [described.agent("ada", user="no-such-user", directory=f"{where}/agents/ada")]
    wanted, decided = declared(volume_of_two, tmp_path), decide(volume_of_two, tmp_path)
    with pytest.raises(OpsError, match="its numbers were not mapped") as caught:
        volume_mount._mount(wanted, decided, Systemctl(volume_of_two, where), agents)
    assert "user id 2001 of the volume is 999 on this host" in caught.value.fix
    assert where not in [mount.where for mount in devices.mounts()]
    # A boot would try the same again, and not without the mapping.
    assert volume_mount.numbers_of(where, decided.uuid) == Numbers({2001: 999, 999: 2001}, {})
    assert volume_mount.numbers_of(where, "another") == Numbers()


def test_two_volumes_with_our_label_are_refused(loop, tmp_path):
    first, second = loop(), loop()
    for path in (first, second):
        sh("mkfs.ext4", "-q", "-L", "hermes-test", path)
    with pytest.raises(OpsError, match=f"{first} and {second} have the same label"):
        decide("", tmp_path)
    sh("tune2fs", "-U", sh("blkid", "-p", "-s", "UUID", "-o", "value", first), second)
    with pytest.raises(OpsError, match="have the same UUID"):
        decide(first, tmp_path)


def test_a_partition_is_not_its_disk(loop, tmp_path):
    path = loop(64, "--partscan")
    write(path, bytes(446) + ENTRY + bytes(48) + b"\x55\xaa", 0)
    sh("blockdev", "--rereadpt", path)
    part = f"{path}p1"
    if not os.path.exists(f"/sys/class/block/{os.path.basename(part)}"):
        pytest.skip(
            "SKIPPED, NOT PROVED: the data volume on a partition, because this kernel makes none of loop devices"
        )
    with pytest.raises(OpsError, match=f"partitions: {part}"):
        decide(path, tmp_path)
    assert decide(part, tmp_path).make


def test_the_mount_point_takes_nothing_while_it_is_empty(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("SKIPPED, NOT PROVED: the mount point's attribute, which needs root")
    where, absent = tmp_path / "above" / "data", devices.Device("/dev/absent", "0:0", 0)
    volume_mount._prepare(absent, str(where))
    try:
        assert where.stat().st_mode & 0o777 == 0
        if "i" in sh("lsattr", "-d", str(where), check=False).split(" ")[0]:
            with pytest.raises(PermissionError):
                (where / "file").write_text("")
        volume_mount._prepare(absent, str(where))
    finally:
        sh("chattr", "-i", str(where), check=False)


def test_blank_is_asked_of_all_places_of_a_device(monkeypatch):
    """The first and the last MiB, and others between, never beyond the end."""
    for size in (512, MIB, MIB + 512, 10 * MIB, 10**13 // 512 * 512):
        places = list(devices._places(size))
        assert min(start for start, _length in places) == 0
        assert max(start + length for start, length in places) == size
        assert len(places) <= 20
        assert all(start >= 0 and start + length <= size for start, length in places)


def test_a_path_that_is_no_device_is_refused(loop, tmp_path):
    with pytest.raises(volume.Missing, match="is not there"):
        decide("/dev/no-such-device", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OpsError, match="is no block device"):
        decide(str(tmp_path / "file"), tmp_path)
    path = loop()
    sh("mkfs.ext4", "-q", "-L", "hermes-test", path)
    (tmp_path / "link").symlink_to("/nowhere")
    with pytest.raises(OpsError, match="through a symbolic link"):
        volume.decide(replace(declared(path, tmp_path), data_dir=str(tmp_path / "link")), "", wait=False)


@pytest.mark.parametrize(("features", "quota"), [([], False), (["-O", "quota"], True)])
def test_whether_an_ext4_has_quotas_is_read_from_it(tmp_path, features, quota):
    path = str(tmp_path / "disk")
    with open(path, "wb") as stream:
        stream.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", *features, path], check=True)
    device = devices.Device(path, "7:0", 64 * 2**20, usage="filesystem", kind="ext4")
    found = devices.content(device, mounted=True)
    assert (found.quota, found.damaged, found.used) == (quota, "", 64 * 2**20)
