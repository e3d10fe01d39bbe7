# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about the host itself: its disks, its jobs, its clock, its SQLite."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any

from ..host import fstab
from ..host.installation import JOURNALS, is_busy, journals
from ..system.errors import OpsError
from ..system.text import number
from .findings import Finding, Settings

SAFE_SQLITE = (3, 51, 3)
# How a job can end that has to be looked at.
_BAD = ("failed", "rolled_back")


def disk_findings(path: str, status: os.statvfs_result, settings: Settings) -> list[Finding]:
    """Findings about the file system at *path*: full, or read-only."""
    found = []
    if status.f_flag & os.ST_RDONLY:
        found.append(
            Finding("read_only", f"{path} is read-only", "see why: dmesg; then mount the file system writable again")
        )
    for free, share in (("space", _free(status)), ("inodes", _free_inodes(status))):
        if share < settings.disk_percent:
            found.append(
                Finding(
                    "disk_full",
                    f"{path} has {share:.0f} % of its {free} free, less than {settings.disk_percent:g} %",
                    f"free space below {path}, or make the disk larger",
                )
            )
    return found


def disk_figures(status: os.statvfs_result) -> dict[str, float]:
    return {"free_bytes": status.f_bavail * status.f_frsize, "free_percent": _free(status)}


def _free(status: os.statvfs_result) -> float:
    """Free space in per cent of what unprivileged users can use, as in df(1)."""
    used = status.f_blocks - status.f_bfree
    return 100.0 * status.f_bavail / ((used + status.f_bavail) or 1) if status.f_blocks else 100.0


def _free_inodes(status: os.statvfs_result) -> float:
    # Some file systems create inodes on demand and report a total of 0.
    return 100.0 * status.f_ffree / status.f_files if status.f_files else 100.0


def release_findings(root: str, release: str | None) -> list[Finding]:
    """Check that the release to which the link ``current`` below *root* leads is there, and its interpreter.

    Gateways that already run may go on for a long time without it, but they can neither load code nor start again.

    :param release: its id; None: there is no such link
    """
    if release is None:
        what = f"no release is current: {root}/current leads nowhere"
    elif not os.path.isdir(os.path.join(root, "releases", release)):
        what = f"the current release {release} is gone from {root}/releases"
    elif not os.path.exists(os.path.join(root, "releases", release, "bin", "python")):
        what = f"the Python interpreter of the current release {release} is gone"
    else:
        return []
    return [Finding("release_gone", f"{what}, so no gateway can start", "converge the host, which builds it: site.yml")]


def volume_findings(data_dir: str, declared: bool) -> list[Finding]:
    """Check that the data volume is mounted at *data_dir*, if it is *declared* or if /etc/fstab has a line for it."""
    with contextlib.suppress(OpsError):
        declared = declared or data_dir.rstrip("/") in fstab.places()
    if os.path.ismount(data_dir) or not declared:
        return []
    from ..host.volume import not_mounted

    missing = not_mounted(data_dir)
    return [Finding("volume_missing", f"{missing.where}: {missing.what}", missing.fix)]


def went_well_after(status: dict[str, Any], when: float) -> bool:
    """Whether a job ended well after *when* (seconds since 1970), by hand or by its timer.

    :param status: its recorded status
    """
    return status.get("status") not in (None, *_BAD) and (number(status.get("finished")) or 0.0) > when


def interrupted_findings(ops_dir: str) -> list[Finding]:
    """Findings about jobs that ended neither well nor badly, and are not under way: a kill, a power cut.

    The next run of the job or the next boot goes on with it. Until then gateways may be stopped, and starting one is
    the wrong remedy.
    """
    found = []
    for job in JOURNALS:
        for path in journals(ops_dir, job) if not is_busy(ops_dir, job) else []:
            of = os.path.basename(os.path.dirname(path)) if "*" in JOURNALS[job] else None
            what, fix = f"{job} was interrupted on this host", f"undo it: hermes-ops {job} --recover"
            found.append(Finding("interrupted", what, fix, agent=of))
    return found


def job_findings(name: str, status: dict[str, Any]) -> list[Finding]:
    """Findings from the recorded *status* of the last run of the job *name*."""
    if status.get("status") not in _BAD:
        return []
    message = str(status.get("message") or "it did not say why")
    return [
        Finding(
            f"{name}_{status['status']}",
            f"the last {name}: {message}",
            f"see hermes-ops status and the log: journalctl -u hermes-{name}",
        )
    ]


def backup_findings(status: dict[str, Any], since: float, now: float, settings: Settings) -> list[Finding]:
    """Check that the last backup succeeded and is recent, on a host that makes backups.

    :param status: recorded status of the job backup
    :param since: when backups were declared (seconds since 1970); the age counts from here until the first backup
    """
    failed = job_findings("backup", status)
    if failed:
        return failed
    finished = number(status.get("finished")) or since
    hours = (now - finished) / 3600
    if hours <= settings.backup_hours:
        return []
    return [
        Finding(
            "backup_old",
            f"the last backup is {hours:.0f} h old" if status else "no backup was ever made",
            "see why: systemctl status hermes-backup.timer hermes-backup.service",
        )
    ]


def clock_findings(offset: float | None, settings: Settings) -> list[Finding]:
    """Check the host's clock against the ping server's.

    :param offset: seconds that the server is ahead; None: unknown
    """
    if offset is None or abs(offset) <= settings.clock_seconds:
        return []
    return [
        Finding(
            "clock_off",
            f"the clock is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} the ping server's",
            "see timedatectl; install systemd-timesyncd or chrony. Signed webhooks are refused beyond 300 s",
        )
    ]


def sqlite_findings(version: str) -> list[Finding]:
    """SQLite before 3.51.3 can damage a database in WAL mode when two connections reset the WAL at the same time."""
    if tuple(int(part) for part in re.findall(r"\d+", version)) >= SAFE_SQLITE:
        return []
    return [
        Finding(
            "sqlite_wal",
            f"the release's SQLite is {version}; versions before 3.51.3 can, rarely, damage a database in WAL mode",
            "let uv fetch a Python with a newer one: install_python_downloads: true, and install_python: a version "
            "that this host lacks; keep backups",
            False,
        )
    ]
