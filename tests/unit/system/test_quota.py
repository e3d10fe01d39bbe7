# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel is told and says of quotas. That it does so is in tests/kernel."""

from __future__ import annotations

import errno
import struct

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import quota
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.quota import Limits, Usage

MIB = 2**20


@pytest.mark.parametrize(
    ("space", "files", "limits", "percent"),
    [
        (90 * MIB, 1, Limits(100 * MIB, 100), 90),
        (1, 95, Limits(100 * MIB, 100), 95),
        (90 * MIB - 1, 89, Limits(100 * MIB, 100), 89),
        # After it was lowered.
        (150 * MIB, 0, Limits(100 * MIB, 100), 150),
        (90 * MIB, 90, Limits(), 0),
    ],
)
def test_the_nearer_limit_counts(space, files, limits, percent):
    assert Usage(space, files, limits).percent == percent


def kernel(monkeypatch, answer=b"", error=0):
    """A kernel that gives one answer; what it was asked."""
    asked = []

    def call(path, command, uid, data):
        asked.append((path, command, uid, data.raw))
        if error:
            raise OSError(error, "no")
        data[: len(answer)] = answer

    monkeypatch.setattr(quota, "_call", call)
    return asked


def test_a_limit_is_set_in_kib_and_touches_neither_what_is_used_nor_the_times(monkeypatch):
    asked = kernel(monkeypatch)
    quota.write("/data", 700_000, Limits(64 * MIB, 4096))
    ((path, command, uid, record),) = asked
    assert (path, command, uid) == ("/data", 0x80000800, 700_000)
    assert struct.unpack("=8QI4x", record) == (64 * 1024, 0, 0, 4096, 0, 0, 0, 0, 5)


def test_usage_is_read(monkeypatch):
    kernel(monkeypatch, struct.pack("=8QI4x", 64 * 1024, 0, 12_345, 4096, 0, 7, 0, 0, 63))
    assert quota.read("/data", 700_000) == Usage(12_345, 7, Limits(64 * MIB, 4096))


def test_a_user_whom_xfs_does_not_know_has_nothing(monkeypatch):
    kernel(monkeypatch, error=errno.ENOENT)
    assert quota.read("/data", 700_000) == Usage(0, 0, Limits())


def test_a_kernel_that_refuses_is_an_error_with_a_fix(monkeypatch):
    kernel(monkeypatch, error=errno.EPERM)
    with pytest.raises(OpsError, match="quota of user id 7 cannot be read or set"):
        quota.read("/data", 7)
    with pytest.raises(OpsError, match="dmesg"):
        quota.write("/data", 7, Limits())


@pytest.mark.parametrize(("flags", "in_force"), [(0, False), (1, False), (3, True)])
def test_counting_alone_is_no_limit(monkeypatch, flags, in_force):
    kernel(monkeypatch, struct.pack("=bxH", 1, flags))
    assert quota.in_force("/data") is in_force


def test_where_there_are_none_they_are_not_in_force():
    # By the kernel: proc has no quotas, and the other is not there.
    assert not quota.in_force("/proc")
    assert not quota.in_force("/nowhere")
