# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes, mounts and grows the data volume as :mod:`.volume` decides, with a mount unit of systemd.

A unit rather than a line of /etc/fstab: the whole file is ours, it is replaced atomically, and others' lines stay as
they are. All gateways and jobs require it through RequiresMountsFor=.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import time
from collections.abc import Sequence

from ..description.agent import Agent
from ..system.errors import OpsError
from ..system.files import lock, read_text
from ..system.plan import Difference, Plan
from ..system.process import run
from ..system.services import plan_enabled, plan_files_gone
from ..system.systemd import Manager
from . import devices, volume_numbers
from .installation import HOST_FILE
from .jobs import UNIT_DIRECTORY
from .kit import COMMAND
from .volume import DOCUMENTATION, POLL_SECONDS, Decision, Volume, decide, escape, unit_of
from .volume_numbers import Numbers

# Starts what could not be started before the volume was mounted: `hermes-ops volume`.
AFTER_UNIT = "hermes-volume.service"
AFTER_PATH = os.path.join(UNIT_DIRECTORY, AFTER_UNIT)
LOCK = "/run/hermes-volume.lock"
# udev answers here. Without it, as in a container, systemd knows no devices, and can wait for none.
UDEV = "/run/udev/control"
# Seconds. A check of a large, damaged file system takes long; all else is short.
CHECK_TIMEOUT, TIMEOUT = 3600.0, 300.0
# Exit statuses of fsck(8): corrected, and corrected with a request to reboot.
_CORRECTED = 1 | 2
_HEADER = "# Written by the Ansible collection alwayson.hermes."
_WHAT = re.compile(r"^What=/dev/disk/by-uuid/(\S+)$", re.M)


def path_of(data_dir: str) -> str:
    return os.path.join(UNIT_DIRECTORY, unit_of(data_dir))


def waiting_path(uuid: str) -> str:
    """The drop-in that says how long a boot waits for the device."""
    return os.path.join(UNIT_DIRECTORY, f"{_device_unit(uuid)}.d", "hermes.conf")


def _device_unit(uuid: str) -> str:
    return f"{escape(f'/dev/disk/by-uuid/{uuid}')}.device"


def render_mount(data_dir: str, uuid: str, kind: str, numbers: Numbers, *, udev: bool, quota: bool) -> str:
    """The unit that mounts the volume; it is the only record of *numbers*."""
    device = _device_unit(uuid)
    check = f"systemd-fsck@{device.removesuffix('.device')}.service"
    # Started with its device, whenever that is attached.
    wanted_by = f"multi-user.target {device}" if udev else "multi-user.target"
    unit = f"\nRequires={check}\nAfter={check}" if udev else ""
    # ext4 and xfs have the same word for it.
    options = ["nofail,nodev,nosuid", "usrquota" if quota else "", numbers.option()]
    return f"""\
{_HEADER}

[Unit]
Description=Data volume of the Hermes agents{unit}

[Mount]
What=/dev/disk/by-uuid/{uuid}
Where={data_dir}
Type={kind}
# nofail: without its volume the host boots, with no agent running, so that somebody can log in.
Options={",".join(filter(None, options))}

[Install]
WantedBy={wanted_by}
"""


def render_after(data_dir: str) -> str:
    mount = unit_of(data_dir)
    return f"""\
{_HEADER}

[Unit]
Description=Start the Hermes agents once their data volume is mounted
# At a boot without the volume nothing of theirs was started, and systemd does not try again by itself.
After={mount}
ConditionPathIsMountPoint={data_dir}
# Not there yet when the first run mounts the volume; that run starts the agents itself.
ConditionPathExists={COMMAND}
ConditionPathExists={HOST_FILE}

[Service]
Type=oneshot
ExecStart={COMMAND} volume

[Install]
WantedBy={mount}
"""


def render_waiting(timeout: int) -> str:
    return f"{_HEADER}\n\n[Unit]\nJobRunningTimeoutSec={timeout}\n"


def known_uuid(data_dir: str) -> str:
    """The UUID of the data volume that our unit mounts; "" without one."""
    match = _WHAT.search(read_text(path_of(data_dir)) or "")
    return match[1] if match else ""


def numbers_of(data_dir: str, uuid: str | None = None) -> Numbers:
    """The mapping in our unit.

    :param uuid: only if the unit mounts this file system
    """
    known = uuid is None or known_uuid(data_dir) == uuid
    return volume_numbers.read(read_text(path_of(data_dir)) or "") if known else Numbers()


def units_elsewhere(data_dir: str | None) -> list[str]:
    """The paths of our mount units for other places than *data_dir*; None: of all."""
    ours = []
    for path in sorted(glob.glob(os.path.join(UNIT_DIRECTORY, "*.mount"))):
        if (data_dir is None or path != path_of(data_dir)) and (read_text(path) or "").startswith(_HEADER):
            ours.append(path)
    return ours


def plan_present(volume: Volume, manager: Manager, agents: Sequence[Agent], *, wait: bool) -> Plan:
    """Compare the host with one whose data volume is mounted.

    :param manager: the system's
    :param agents: all that are declared; the numbers of their users decide how the volume is mounted
    :param wait: give a missing device the declared time to appear
    :raises OpsError: the volume cannot be used; nothing was changed
    """
    decision = decide(volume, known_uuid(volume.data_dir), wait=wait)
    device, where, plan = decision.device, volume.data_dir, Plan()
    if decision.make:
        after = f"{decision.kind}, label {volume.label}"
        plan.add(Difference(device.path, "blank", after), lambda: _make(volume, decision))
    units = _plan_units(volume, decision, manager, numbers_of(where, decision.uuid))
    plan.differences += units.differences
    if decision.mount:
        plan.add(
            Difference(where, "not mounted", device.path),
            lambda: plan.differences.extend(_mount(volume, decision, manager, agents)),
        )
    else:
        plan.actions += units.actions
    if decision.grow:
        size = f"all {device.size // 2**20} MiB of the device"
        plan.add(Difference(f"the file system at {where}", "smaller", size), lambda: _grow(volume, decision))
    # Two runs at once would both find the device blank.
    return Plan(plan.differences, [lambda: _apply_alone(plan)] if plan.actions else [])


def _apply_alone(plan: Plan) -> None:
    with lock(LOCK, timeout=CHECK_TIMEOUT):
        plan.apply()


def _plan_units(volume: Volume, decision: Decision, manager: Manager, numbers: Numbers) -> Plan:
    where, udev, plan = volume.data_dir, os.path.exists(UDEV), Plan()
    files = {
        path_of(where): render_mount(where, decision.uuid, decision.kind, numbers, udev=udev, quota=volume.quota),
        AFTER_PATH: render_after(where),
    }
    if udev:
        files[waiting_path(decision.uuid)] = render_waiting(volume.timeout)
    plan_files_gone(plan, sorted(set(waiting_paths()) - files.keys()))
    plan_enabled(plan, manager, [unit_of(where), AFTER_UNIT], files)
    return plan


def waiting_paths() -> list[str]:
    """Our drop-ins for devices, also those of earlier volumes."""
    # Brackets, because a backslash escapes in a pattern.
    pattern = waiting_path("*").replace("\\", "[\\]").replace("[\\]x2a", "*")
    return sorted(glob.glob(pattern))


def _make(volume: Volume, decision: Decision) -> None:
    """Format the device, unless it is no longer blank.

    A kill leaves behind a file system of ours, which the next run adopts, or one that is not finished: that has no
    signature yet (mke2fs) or cannot be mounted (mkfs.xfs), and is refused.
    """
    device = decision.device
    now = next((each for each in devices.devices() if each.path == device.path), None)
    if now != device or not devices.content(device, mounted=False).blank:
        raise OpsError("is no longer blank", where=device.path, fix="see who else uses it, then run this again")
    options = ["-U", decision.uuid] if decision.kind == "ext4" else ["-m", f"uuid={decision.uuid}"]
    if volume.quota and decision.kind == "ext4":
        # xfs always has them.
        options += ["-O", "quota"]
    # Neither program is told to overwrite what it finds.
    run([f"mkfs.{decision.kind}", "-q", "-L", volume.label, *options, device.path], timeout=CHECK_TIMEOUT)


def _mount(volume: Volume, decision: Decision, manager: Manager, agents: Sequence[Agent]) -> list[Difference]:
    """Check the file system, write the units, mount it, and see that it is there.

    :returns: the numbers that are mapped otherwise than before
    """
    device, where = decision.device, volume.data_dir
    if decision.kind == "ext4":
        done = run(["e2fsck", "-p", device.path], timeout=CHECK_TIMEOUT, check=False)
        if done.rc & ~_CORRECTED:
            _refuse_mounted(device, where)
            raise OpsError(
                f"its file system is damaged: {' '.join(done.stdout.split()) or done.last_words}",
                where=device.path,
                fix=f"e2fsck -f {device.path}",
            )
    _prepare(device, where)
    before = numbers_of(where, decision.uuid)
    numbers = Numbers() if decision.make else _numbers(volume, decision, agents, before)
    # Only now, with the mapping: from here on a boot mounts the volume.
    _plan_units(volume, decision, manager, numbers).apply()
    _await(f"/dev/disk/by-uuid/{decision.uuid}", volume.timeout)
    unit = unit_of(where)
    manager.call("reset-failed", unit, check=False)
    started = manager.call("start", unit, check=False, timeout=TIMEOUT + volume.timeout)
    here = [mount for mount in devices.mounts() if mount.where == where]
    unmapped = bool(here) and here[-1].mapped != bool(numbers)
    if unmapped:
        # A user of this host could read what is another one's.
        manager.call("stop", unit, check=False)
    if not started.ok or not here or here[-1].number != device.number or here[-1].read_only or unmapped:
        log = run(["journalctl", f"--unit={unit}", "--lines=20", "--output=cat"], timeout=TIMEOUT, check=False).stdout
        said = [line.strip() for line in log.splitlines() if line.startswith("mount: ")]
        said += ["its numbers were not mapped"] if unmapped else []
        fix = f"see why: journalctl --unit {unit}, dmesg; check it: fsck -n {device.path}"
        if numbers:
            fix += f"; if its numbers cannot be mapped here ({', '.join(numbers.shown())}): {DOCUMENTATION}, Users"
        raise OpsError(
            f"{device.path} could not be mounted: {said[-1] if said else started.last_words}", where=where, fix=fix
        )
    gone, new = set(before.shown()) - set(numbers.shown()), set(numbers.shown()) - set(before.shown())
    return [Difference(unit, each, None) for each in sorted(gone)] + [
        Difference(unit, None, each) for each in sorted(new)
    ]


def _numbers(volume: Volume, decision: Decision, agents: Sequence[Agent], before: Numbers) -> Numbers:
    """The mapping with which the volume is mounted."""
    if not volume_numbers.can_map():
        return Numbers()
    owners = volume_numbers.look(decision.device.path, decision.kind, volume.data_dir, agents)
    return volume_numbers.plan(agents, owners, volume.data_dir, before)


def _await(link: str, timeout: int) -> None:
    """Wait until udev has seen the file system; right after it was made, that takes a moment."""
    deadline = time.monotonic() + timeout
    while not os.path.exists(link):
        if time.monotonic() >= deadline:
            raise OpsError(f"is not there after {timeout} s", where=link, fix="see why: systemctl status systemd-udevd")
        time.sleep(POLL_SECONDS)


def _prepare(device: devices.Device, where: str) -> None:
    """Make the mount point such that nothing can be written below it while the volume is missing.

    :raises OpsError: it is mounted
    """
    if not os.path.isdir(where):
        os.makedirs(os.path.dirname(where), mode=0o755, exist_ok=True)
        os.mkdir(where, 0)
    # Opened before the look at the mounts: it stays the mount point itself, whatever is mounted there later.
    handle = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _refuse_mounted(device, where)
        if stat.S_IMODE(os.fstat(handle).st_mode):
            os.fchmod(handle, 0)
        # Not even root, where the file system knows this attribute: overlayfs and tmpfs do not.
        run(["chattr", "+i", f"/proc/{os.getpid()}/fd/{handle}/."], timeout=TIMEOUT, check=False)
    finally:
        os.close(handle)


def _refuse_mounted(device: devices.Device, where: str) -> None:
    """:raises OpsError: systemd mounted the volume after it was looked at, because its device has just appeared"""
    if any(mount.where == where or mount.number == device.number for mount in devices.mounts()):
        raise OpsError(f"{device.path} was mounted meanwhile", where=where, fix="run this again")


def _grow(volume: Volume, decision: Decision) -> None:
    command = ["resize2fs", decision.device.path] if decision.kind == "ext4" else ["xfs_growfs", volume.data_dir]
    run(command, timeout=CHECK_TIMEOUT)
