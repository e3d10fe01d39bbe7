# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which device becomes the data volume, and what is refused: decided from values, without a device."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import (
    devices,
    fstab,
    installation,
    volume,
    volume_mount,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.devices import Content, Device, Mount
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.volume import Place, Volume
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.volume_numbers import Numbers
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager
from hypothesis import given
from hypothesis import strategies as st

DATA = "/var/lib/hermes"
GIB = 2**30
NEW = "11111111-2222-3333-4444-555555555555"
DECLARED = Volume(
    device="/dev/xvdf", fstype="ext4", label="hermes-data", format=True, min_size="1G", timeout=0, data_dir=DATA
)
BLANK = Device("/dev/xvdf", "202:80", 10 * GIB)
OURS = replace(BLANK, usage="filesystem", kind="ext4", label="hermes-data", uuid="aaaa")
EMPTY, WHOLE = Content(blank=True), Content(used=10 * GIB)
HERE = Mount("202:80", DATA, False)


def plan(device=OURS, content=WHOLE, place=None, **declared):
    return volume.plan_volume(replace(DECLARED, **declared), place or Place(), device, content, NEW)


def test_a_blank_device_is_formatted_when_that_is_allowed():
    decision = plan(BLANK, EMPTY)
    assert (decision.make, decision.mount, decision.kind, decision.uuid) == (True, True, "ext4", NEW)


def test_what_carries_our_label_is_adopted_whatever_it_was_to_be_formatted_with():
    decision = plan(replace(OURS, kind="xfs"), format=False)
    assert (decision.make, decision.mount, decision.grow) == (False, True, False)
    assert (decision.kind, decision.uuid) == ("xfs", "aaaa")


def test_nothing_is_done_where_it_is_mounted():
    decision = plan(place=Place(mount=HERE, elsewhere=(Mount("0:1", "/", False),), known="aaaa"))
    assert not any([decision.make, decision.mount, decision.grow])


@pytest.mark.parametrize(
    ("used", "grown"), [(10 * GIB, False), (10 * GIB - 2**20, False), (9 * GIB, True), (None, False)]
)
def test_a_file_system_is_grown_when_its_device_is_larger(used, grown):
    assert plan(content=Content(used=used)).grow is grown


REFUSED = {
    "formatting is not allowed": (BLANK, EMPTY, Place(), {"format": False}, "data_volume_format: true"),
    "not blank": (BLANK, Content(), Place(), {}, "blkdiscard --zeroout /dev/xvdf"),
    "used by the kernel": (BLANK, Content(busy=True), Place(), {}, "see by what: lsblk"),
    "blank in the place of another": (BLANK, EMPTY, Place(known="aaaa"), {}, "A lost volume"),
    "mounted elsewhere": (OURS, WHOLE, Place(elsewhere=(Mount("202:80", "/mnt", False),)), {}, "umount /mnt"),
    "another one is mounted": (OURS, WHOLE, Place(mount=Mount("0:7", DATA, False)), {}, "correct data_volume_device"),
    "mounted read-only": (OURS, WHOLE, Place(mount=replace(HERE, read_only=True)), {}, "mount it writable again"),
    "made without quotas": (OURS, Content(quota=False), Place(), {"quota": True}, "tune2fs -O quota /dev/xvdf"),
    "mounted without quotas": (OURS, WHOLE, Place(mount=HERE), {"quota": True}, "Quotas; then run this again"),
    "in fstab": (OURS, WHOLE, Place(in_fstab=True), {}, "remove that line"),
    "data below": (OURS, WHOLE, Place(below=("agents",)), {}, "Moving a host's data"),
    "read-only": (replace(OURS, read_only=True), WHOLE, Place(), {}, "attach it writable"),
    "too small": (replace(OURS, size=GIB // 2), WHOLE, Place(), {}, "a smaller data_volume_min_size"),
    "damaged": (OURS, Content(used=10 * GIB, damaged="its state is 'clean with errors'"), Place(), {}, "e2fsck -f"),
    "another label": (replace(OURS, label="backup"), WHOLE, Place(), {}, "e2label /dev/xvdf hermes-data"),
    "another label, xfs": (
        replace(OURS, label="", kind="xfs"),
        WHOLE,
        Place(),
        {},
        "xfs_admin -L hermes-data /dev/xvdf",
    ),
    "only a table": (replace(BLANK, table="gpt", partitions=("xvdf1",)), Content(), Place(), {}, "declare a partition"),
    "closed": (replace(BLANK, usage="crypto", kind="crypto_LUKS"), Content(), Place(), {}, "cryptsetup open /dev/xvdf"),
    "lvm": (replace(BLANK, usage="raid", kind="LVM2_member"), Content(), Place(), {}, "attach the right volume"),
    "swap": (replace(BLANK, usage="other", kind="swap"), Content(), Place(), {}, "attach the right volume"),
    "another file system": (replace(OURS, kind="btrfs"), WHOLE, Place(), {}, "attach the right volume"),
    "contradicting": (replace(BLANK, usage="ambivalent"), Content(), Place(), {}, "attach the right volume"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_with_the_fix(case):
    device, content, place, declared, fix = case
    with pytest.raises(OpsError) as caught:
        plan(device, content, place, **declared)
    assert caught.value.where
    assert fix in caught.value.fix


def test_quotas_matter_only_where_they_are_declared_and_mounted_with_them_all_is_well():
    assert not plan(place=Place(mount=HERE)).mount
    assert not plan(place=Place(mount=HERE, quota=True), quota=True).mount
    assert plan(content=Content(quota=False)).mount
    assert plan(quota=True).mount
    assert plan(BLANK, EMPTY, quota=True).make


@pytest.mark.parametrize(
    ("kind", "quota", "asked"), [("ext4", True, True), ("ext4", False, False), ("xfs", True, False)]
)
def test_a_volume_is_made_and_mounted_with_quotas_if_that_is_declared(monkeypatch, kind, quota, asked):
    commands = []
    monkeypatch.setattr(volume_mount, "run", lambda argv, **_more: commands.append(argv))
    monkeypatch.setattr(volume_mount.devices, "devices", lambda: [BLANK])
    monkeypatch.setattr(volume_mount.devices, "content", lambda device, mounted: EMPTY)
    volume_mount._make(replace(DECLARED, quota=quota), plan(BLANK, EMPTY, fstype=kind, quota=quota))
    ((program, *words),) = commands
    assert (program, words[-3:-1] == ["-O", "quota"], words[-1]) == (f"mkfs.{kind}", asked, "/dev/xvdf")
    text = volume_mount.render_mount(DATA, NEW, kind, Numbers(), udev=False, quota=quota)
    assert ("\nOptions=nofail,nodev,nosuid,usrquota\n" in text) is quota


ANY_DEVICE = st.builds(
    Device,
    path=st.just("/dev/xvdf"),
    number=st.just("202:80"),
    size=st.sampled_from([0, GIB, 10 * GIB]),
    read_only=st.booleans(),
    usage=st.sampled_from(["", "", "filesystem", "crypto", "raid", "other", "ambivalent", "new"]),
    kind=st.sampled_from(["", "", "ext4", "xfs", "btrfs", "crypto_LUKS", "swap"]),
    label=st.sampled_from(["", "hermes-data", "other"]),
    uuid=st.sampled_from(["", "aaaa"]),
    table=st.sampled_from(["", "", "gpt", "dos"]),
    partitions=st.sampled_from([(), (), ("xvdf1",)]),
)
ANY_CONTENT = st.builds(
    Content,
    blank=st.booleans(),
    used=st.sampled_from([None, GIB]),
    damaged=st.sampled_from(["", "x"]),
    busy=st.booleans(),
    quota=st.booleans(),
)
ANY_MOUNT = st.builds(Mount, st.sampled_from(["202:80", "0:1"]), st.sampled_from([DATA, "/mnt"]), st.booleans())
ANY_PLACE = st.builds(
    Place,
    mount=st.none() | ANY_MOUNT,
    elsewhere=st.lists(ANY_MOUNT, max_size=2).map(tuple),
    below=st.sampled_from([(), ("agents",)]),
    in_fstab=st.booleans(),
    known=st.sampled_from(["", "aaaa"]),
)


@given(
    ANY_DEVICE, ANY_CONTENT, ANY_PLACE, st.booleans(), st.sampled_from(["/dev/xvdf", "vol-1", "", "LABEL=x", "UUID=y"])
)
def test_only_what_is_named_allowed_and_provably_blank_is_ever_formatted(device, content, place, allowed, named):
    declared = replace(DECLARED, format=allowed, device=named)
    try:
        decision = volume.plan_volume(declared, place, device, content, NEW)
    except OpsError:
        return
    if decision.make:
        assert allowed
        assert named.startswith(("/", "vol-"))
        assert (content.blank, content.busy) == (True, False)
        assert not any([device.usage, device.kind, device.table, device.partitions, device.read_only])
        assert not any([place.known, place.mount, place.below, place.in_fstab])
        assert device.number not in [mount.number for mount in place.elsewhere]
        assert decision.mount
    else:
        assert (device.usage, device.label) == ("filesystem", "hermes-data")
        assert device.kind in volume.FILE_SYSTEMS


# Which device


def choose(found, named="/dev/xvdf", **declared):
    return volume.choose(replace(DECLARED, **declared), named, found)


def test_a_device_is_found_by_name_label_and_uuid():
    other = replace(BLANK, path="/dev/xvda", uuid="bbbb", label="root")
    for device in ("/dev/xvdf", "vol-123", "", "LABEL=hermes-data", "UUID=aaaa"):
        assert choose([other, OURS], device=device) == OURS


@pytest.mark.parametrize("device", ["/dev/xvdf", "vol-123", "", "LABEL=hermes-data", "UUID=aaaa"])
def test_a_device_that_is_not_there_may_still_come(device):
    with pytest.raises(volume.Missing) as caught:
        choose([], None, device=device)
    assert "attach it" in caught.value.fix


def test_a_blank_device_is_never_meant_by_a_label():
    with pytest.raises(volume.Missing, match=r"no volume with label hermes-data is attached.*has to be named"):
        choose([BLANK], None, device="")


def test_two_with_our_label_are_refused():
    twin = replace(OURS, path="/dev/xvdg", uuid="bbbb")
    with pytest.raises(OpsError, match="/dev/xvdf and /dev/xvdg have the same label"):
        choose([OURS, twin], device="")
    assert choose([OURS, twin], device="/dev/xvdf") == OURS


def test_a_copy_with_the_same_uuid_is_refused_even_if_one_is_named():
    with pytest.raises(OpsError, match="/dev/xvdf and /dev/xvdg have the same UUID"):
        choose([OURS, replace(OURS, path="/dev/xvdg")])


def test_a_part_of_another_device_is_refused():
    with pytest.raises(OpsError, match="belongs to another one"):
        choose([replace(OURS, path="/dev/md0")])


@pytest.mark.parametrize(
    "declared",
    [
        {"device": "xvdf"},
        {"device": "vol_12"},
        {"fstype": "btrfs"},
        {"label": ""},
        {"label": "a label"},
        {"label": "seventeen-letters"},
        {"fstype": "xfs", "label": "thirteen-char"},
        {"min_size": "10GB"},
        {"timeout": -1},
        {"data_dir": "relative"},
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(declared):
    with pytest.raises(OpsError) as caught:
        replace(DECLARED, **declared)
    assert caught.value.where
    assert caught.value.fix


# Units


@pytest.mark.parametrize("path", ["/var/lib/hermes", "/data", "/srv/her-mes/.d@ta", "/.x"])
@pytest.mark.skipif(not shutil.which("systemd-escape"), reason="systemd-escape is not on this machine")
def test_names_of_units_are_systemds_own(path):
    said = subprocess.run(["systemd-escape", "--path", path], capture_output=True, text=True, check=True).stdout
    assert volume.escape(path) == said.strip()


@pytest.mark.parametrize("udev", [False, True])
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not on this machine")
def test_systemd_accepts_the_units(tmp_path, udev):
    mount = tmp_path / volume.unit_of(DATA)
    mount.write_text(volume_mount.render_mount(DATA, NEW, "ext4", Numbers({998: 999, 999: 998}), udev=udev, quota=True))
    after = tmp_path / volume_mount.AFTER_UNIT
    after.write_text(volume_mount.render_after(DATA).replace(volume_mount.COMMAND, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(mount), str(after)], capture_output=True, text=True, check=False
    )
    assert not [line for line in done.stderr.splitlines() if "hermes" in line], done.stderr


def test_a_boot_waits_for_the_device_checks_it_and_goes_on_without_it():
    text = volume_mount.render_mount(DATA, NEW, "ext4", Numbers(), udev=True, quota=False)
    device = r"dev-disk-by\x2duuid-11111111\x2d2222\x2d3333\x2d4444\x2d555555555555"
    assert f"\nRequires=systemd-fsck@{device}.service\nAfter=systemd-fsck@{device}.service\n" in text
    # Started with the device, also when that is attached later.
    assert f"\nWantedBy=multi-user.target {device}.device\n" in text
    assert "\nOptions=nofail,nodev,nosuid\n" in text
    assert volume_mount.waiting_path(NEW).endswith(f"/{device}.device.d/hermes.conf")
    assert "\nJobRunningTimeoutSec=30\n" in volume_mount.render_waiting(30)


def test_the_volume_that_the_host_had_is_known_by_its_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(volume_mount, "UNIT_DIRECTORY", str(tmp_path))
    assert volume_mount.known_uuid(DATA) == ""
    assert volume_mount.units_elsewhere(None) == []
    path = tmp_path / volume.unit_of(DATA)
    path.write_text(volume_mount.render_mount(DATA, NEW, "ext4", Numbers(), udev=False, quota=False))
    (tmp_path / "srv.mount").write_text("[Mount]\nWhat=/dev/sdb\nWhere=/srv\n")
    assert volume_mount.known_uuid(DATA) == NEW
    assert volume_mount.units_elsewhere(DATA) == []
    assert volume_mount.units_elsewhere(None) == volume_mount.units_elsewhere("/data") == [str(path)]


def test_waiting_for_earlier_volumes_ends(tmp_path, monkeypatch, systemd):
    monkeypatch.setattr(volume_mount, "UNIT_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(volume_mount, "AFTER_PATH", str(tmp_path / volume_mount.AFTER_UNIT))
    monkeypatch.setattr(volume_mount, "UDEV", str(tmp_path))
    for uuid in (NEW, "ab-cd"):
        path = volume_mount.waiting_path(uuid)
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text("")
    assert sorted(volume_mount.waiting_paths()) == sorted(map(volume_mount.waiting_path, (NEW, "ab-cd")))
    manager = Manager("system", Account.current())
    volume_mount._plan_units(DECLARED, replace(plan(), uuid=NEW), manager, Numbers()).apply()
    assert volume_mount.waiting_paths() == [volume_mount.waiting_path(NEW)]
    assert len(list(tmp_path.glob("*.d"))) == 1


def test_a_volume_that_systemd_mounts_meanwhile_is_neither_changed_nor_called_damaged(tmp_path, monkeypatch):
    """Its unit is started with its device: between the look at the mount point and the work at it."""
    calls, mounts = [], [HERE]
    monkeypatch.setattr(
        volume_mount, "run", lambda argv, **_more: calls.append(argv[0]) or Completed((), 8, "", "busy")
    )
    monkeypatch.setattr(volume_mount.devices, "mounts", lambda: mounts)
    place, decision = replace(DECLARED, data_dir=str(tmp_path)), plan()
    with pytest.raises(OpsError, match="was mounted meanwhile"):
        volume_mount._mount(place, decision, None, ())
    with pytest.raises(OpsError, match="was mounted meanwhile"):
        volume_mount._prepare(OURS, str(tmp_path))
    assert (calls, tmp_path.stat().st_mode & 0o777) == (["e2fsck"], 0o700)
    mounts.clear()
    with pytest.raises(OpsError, match="is damaged"):
        volume_mount._mount(place, decision, None, ())
    volume_mount._prepare(OURS, str(tmp_path))
    assert (calls[-1], tmp_path.stat().st_mode & 0o777) == ("chattr", 0)
    tmp_path.chmod(0o700)


# The host


def test_commands_refuse_without_the_volume_but_those_that_report(tmp_path):
    path = tmp_path / "host.json"
    host = '{"scope": "system", "data_dir": "%s", "ops_dir": "x", "root": "x", "managed_root": "x", "data_volume": %s}'
    path.write_text(host % (tmp_path, "true"))
    with pytest.raises(OpsError, match=r"is not mounted\. Fix: attach the volume, then: systemctl start .*\.mount"):
        installation.Installation.load(str(path))
    assert installation.Installation.load(str(path), unmounted=True).data_volume
    path.write_text(host % (tmp_path, "false"))
    installation.Installation.load(str(path))
    path.write_text(host % ("/", "true"))
    installation.Installation.load(str(path))


MOUNTINFO = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 8:16 / /var/lib/hermes rw,relatime - ext4 /dev/sdb ro,errors=remount-ro
31 22 0:40 / /mnt/a\040b rw - tmpfs tmpfs rw
"""


def test_mounts_are_read(tmp_path, monkeypatch):
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    monkeypatch.setattr(devices, "MOUNTS", str(tmp_path / "mountinfo"))
    assert devices.mounts() == [
        Mount("8:1", "/", False),
        # The kernel turned it read-only, after an error.
        Mount("8:16", DATA, True),
        Mount("0:40", "/mnt/a b", False),
    ]


@pytest.mark.parametrize("character", ["\r", "\f", "\x1c", "\x85", "\u2028"])
def test_the_name_of_a_mount_point_ends_no_line(tmp_path, monkeypatch, character):
    """Who may mount a FUSE file system chooses it. The kernel escapes less than what Python breaks at."""
    line = f"40 22 0:50 / /home/ada/a{character}b rw - fuse.x x rw\n"
    (tmp_path / "mountinfo").write_bytes((line + MOUNTINFO).encode())
    monkeypatch.setattr(devices, "MOUNTS", str(tmp_path / "mountinfo"))
    assert [mount.where for mount in devices.mounts()] == [f"/home/ada/a{character}b", "/", DATA, "/mnt/a b"]


def test_a_line_of_fstab_is_seen(tmp_path, monkeypatch):
    (tmp_path / "fstab").write_text(f"# UUID=x {DATA} ext4\nUUID=y {DATA}/ ext4 defaults 0 2\nbroken\n")
    monkeypatch.setattr(fstab, "FSTAB", str(tmp_path / "fstab"))
    assert fstab.places() == {DATA}


def test_a_volume_of_ebs_is_found_by_its_serial_number(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "BLOCK", str(tmp_path / "block"))
    monkeypatch.setattr(devices, "BY_ID", str(tmp_path / "by-id"))
    for name, serial in (("nvme0n1", "vol000"), ("nvme1n1", "vol0abc")):
        (tmp_path / "block" / name / "device").mkdir(parents=True)
        (tmp_path / "block" / name / "device/serial").write_text(f"{serial}\n")
    assert devices.named("vol-0abc") == "/dev/nvme1n1"
    assert devices.named("vol-0abd") is None
    (tmp_path / "by-id").mkdir()
    (tmp_path / "by-id/nvme-Amazon_Elastic_Block_Store_vol0abd").symlink_to("/dev/null")
    assert devices.named("vol-0abd") == "/dev/null"
