# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Problems of a host, whatever its jobs' records contain."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import fstab, volume
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import (
    host_findings,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.findings import Settings
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_795_000_000.0
HOUR, DAY = 3600, 86400
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def causes(findings):
    return [(finding.cause, "failure" if finding.failure else "warning") for finding in findings]


def statvfs(free=50, inodes=50, flags=0, reserved=0):
    return SimpleNamespace(
        f_flag=flags, f_blocks=100, f_bfree=free + reserved, f_bavail=free, f_files=100, f_ffree=inodes, f_frsize=4096
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (statvfs(), []),
        (statvfs(free=10), []),
        (statvfs(free=9), [("disk_full", "failure")]),
        (statvfs(inodes=9), [("disk_full", "failure")]),
        (statvfs(flags=os.ST_RDONLY), [("read_only", "failure")]),
        (SimpleNamespace(**{**vars(statvfs()), "f_blocks": 0, "f_files": 0}), []),
    ],
)
def test_disks(status, expected):
    found = host_findings.disk_findings("/data", status, Settings())
    assert causes(found) == expected
    assert all("/data" in finding.what for finding in found)


def test_a_release_that_is_there_or_gone(tmp_path):
    described.release(str(tmp_path), "0.19.0-22c8bba0")

    def found(release="0.19.0-22c8bba0"):
        return host_findings.release_findings(str(tmp_path), release)

    assert found() == []
    python = tmp_path / "releases/0.19.0-22c8bba0/bin/python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.0")
    (finding,) = found()
    assert (finding.cause, finding.what) == (
        "release_gone",
        "the Python interpreter of the current release 0.19.0-22c8bba0 is gone, so no gateway can start",
    )
    shutil.rmtree(tmp_path / "releases/0.19.0-22c8bba0")
    said = [(finding.cause, finding.failure, finding.what) for finding in (*found(), *found(None))]
    assert said == [
        (
            "release_gone",
            True,
            f"the current release 0.19.0-22c8bba0 is gone from {tmp_path}/releases, so no gateway can start",
        ),
        ("release_gone", True, f"no release is current: {tmp_path}/current leads nowhere, so no gateway can start"),
    ]


def test_what_root_keeps_for_itself_is_not_free():
    (finding,) = host_findings.disk_findings("/data", statvfs(free=0, reserved=20), Settings())
    assert "has 0 % of its space free" in finding.what


@pytest.mark.parametrize(
    ("declared", "lines", "expected"),
    [
        (False, "", []),
        (True, "", ["volume_missing"]),
        (False, "LABEL=data /somewhere ext4 nofail 0 2\n# x {} y\n", []),
        (False, "# a comment\n\nLABEL=data {} ext4 nofail 0 2\n", ["volume_missing"]),
    ],
)
def test_a_volume_that_is_not_mounted(tmp_path, monkeypatch, declared, lines, expected):
    (tmp_path / "fstab").write_text(lines.replace("{}", str(tmp_path)))
    monkeypatch.setattr(fstab, "FSTAB", str(tmp_path / "fstab"))
    found = host_findings.volume_findings(str(tmp_path), declared)
    assert [finding.cause for finding in found] == expected
    mount = volume.unit_of(str(tmp_path))
    assert [finding.fix for finding in found] == [f"attach the volume, then: systemctl start {mount}"] * len(expected)


def test_a_volume_that_is_mounted():
    assert host_findings.volume_findings("/", True) == []


@pytest.mark.parametrize("status", ["failed", "rolled_back"])
def test_a_job_that_failed(status):
    (finding,) = host_findings.job_findings("update", {"status": status, "message": "the canary did not answer"})
    assert finding.cause == f"update_{status}"
    assert "the canary did not answer" in finding.what


@given(JSON)
def test_a_job_may_have_written_anything(value):
    status = value if isinstance(value, dict) else {"status": value}
    host_findings.job_findings("update", status)
    host_findings.backup_findings(status, NOW, NOW, Settings())


def test_a_job_that_went_well():
    for status in ("success", "held", "up_to_date"):
        assert host_findings.job_findings("update", {"status": status}) == []
    assert host_findings.job_findings("update", {}) == []


@pytest.mark.parametrize(
    ("status", "since", "expected"),
    [
        ({}, NOW - HOUR, []),
        ({}, NOW - 37 * HOUR, ["backup_old"]),
        ({"status": "success", "finished": NOW - 35 * HOUR}, NOW - 90 * DAY, []),
        ({"status": "success", "finished": NOW - 37 * HOUR}, NOW - 90 * DAY, ["backup_old"]),
        ({"status": "failed", "finished": NOW}, NOW, ["backup_failed"]),
    ],
)
def test_backups(status, since, expected):
    assert [f.cause for f in host_findings.backup_findings(status, since, NOW, Settings())] == expected


@pytest.mark.parametrize(
    ("offset", "expected"), [(None, None), (29, None), (-29, None), (31, "31 s behind"), (-300, "300 s ahead")]
)
def test_the_clock(offset, expected):
    found = host_findings.clock_findings(offset, Settings())
    assert [expected in finding.what for finding in found] == ([True] if expected else [])
