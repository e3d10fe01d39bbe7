# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much users' agents may store: what is refused, planned and set. That the kernel holds them to it is in
tests/kernel."""

from __future__ import annotations

import dataclasses
import os

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import runtime as command
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtimes import Runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes as places
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import (
    runtime_disk,
    runtime_files,
    runtime_plan,
    runtimes,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.runtime_host import Host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.quota import Limits, Usage
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

MIB = 2**20
SMALL, LARGE = Limits(64 * MIB, 4096), Limits(128 * MIB, 8192)


class Quota:
    """The quotas of a file system.

    :ivar limits: user id -> what was set
    """

    def __init__(self, in_force):
        self.on, self.limits, self.used = in_force, {}, {}

    def in_force(self, path):
        return self.on and os.path.isdir(path)

    def read(self, path, uid):
        return Usage(self.used.get(uid, 0), 0, self.limits.get(uid, Limits()))

    def write(self, path, uid, limits):
        self.limits[uid] = limits


@pytest.fixture
def disk(monkeypatch):
    found = Quota(in_force=True)
    for name in ("in_force", "read", "write"):
        monkeypatch.setattr(runtime_disk.quota, name, getattr(found, name))
    return found


@pytest.fixture
def host(tmp_path, monkeypatch, disk):
    monkeypatch.setattr(places, "check_ops", lambda ops_dir: None)
    (tmp_path / "data/users").mkdir(parents=True)
    (tmp_path / "ops").mkdir()
    return declaring(Host(declared("64M"), str(tmp_path / "data"), str(tmp_path / "ops")), "64M")


def declared(disk):
    return Runtimes(image="localhost/hermes-agent:1", secret="0123456789abcdef" * 2, agent={}, disk=disk)


def declaring(host, disk):
    return dataclasses.replace(host, settings=declared(disk))


def enrolled(host, *names):
    with host.users.lock():
        return host.users.enrol(names, 100)


def planned(host):
    return [
        (each.what, each.before, each.after) for each in runtime_disk.plan_limits(host, host.users.all()).differences
    ]


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("5G", Limits(5 * 2**30, 327_680)),
        ("64M", SMALL),
        # Whole MiB, which every file system can count.
        (str(64 * MIB + 12_345), SMALL),
        ("", Limits()),
    ],
)
def test_a_declared_size_limits_files_too(text, limits):
    assert declared(text).disk_limits == limits


@pytest.mark.parametrize("text", ["63M", "0", "5GB", "-1", "10%", "infinity"])
def test_a_size_that_is_none_or_too_small_is_refused(text):
    with pytest.raises(OpsError) as caught:
        declared(text)
    assert (caught.value.where, bool(caught.value.fix)) == ("disk", True)


def test_another_limit_is_no_other_edition():
    """Nobody is restarted for it."""
    assert declared("64M").edition == declared("").edition


def test_without_quotas_a_limit_is_refused_before_anything_is_planned(host, disk):
    disk.on = False
    with pytest.raises(OpsError, match=r"/data/users: its file system has no user quotas.*data_volume_quota: true"):
        runtime_plan.plan_present(host, None)
    assert planned(declaring(host, "")) == []
    runtime_disk.check(declaring(host, ""))


def test_check_mode_of_a_first_run_knows_no_file_system_yet(host, disk):
    # It may be there, as the place of a volume that is not mounted yet.
    disk.on = False
    bare = dataclasses.replace(host, ops_dir=f"{host.data_dir}/ops")
    runtime_disk.check(bare)
    with pytest.raises(OpsError, match="user quotas"):
        runtime_disk.check(host)
    assert runtime_disk.plan_limits(bare, []).differences == []


def test_what_differs_is_planned_and_then_nothing(host, disk):
    _ada, bob = enrolled(host, "ada", "bob")
    host.users.write(dataclasses.replace(bob, off=True))
    disk.limits[700_000] = SMALL
    # Also of one who is off: the data are there.
    assert planned(host) == [("disk of bob", None, "64 MiB, 4096 files")]
    larger = declaring(host, "128M")
    assert planned(larger) == [
        ("disk of ada", "64 MiB, 4096 files", "128 MiB, 8192 files"),
        ("disk of bob", None, "128 MiB, 8192 files"),
    ]
    assert disk.limits == {700_000: SMALL}
    runtime_disk.plan_limits(larger, host.users.all()).apply()
    assert disk.limits == {700_000: LARGE, 700_001: LARGE}
    assert planned(larger) == []


def test_a_limit_that_is_no_longer_declared_is_taken_back(host, disk):
    enrolled(host, "ada")
    disk.limits[700_000] = SMALL
    none = declaring(host, "")
    assert planned(none) == [("disk of ada", "64 MiB, 4096 files", None)]
    runtime_disk.plan_limits(none, host.users.all()).apply()
    assert disk.limits[700_000] == Limits()
    assert planned(none) == []


def test_one_who_was_purged_meanwhile_gets_none(host, disk):
    (ada,) = enrolled(host, "ada")
    plan = runtime_disk.plan_limits(host, host.users.all())
    host.users.forget(ada)
    enrolled(declaring(host, ""), "bob")
    plan.apply()
    assert disk.limits == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_nobody_has_a_directory_before_a_limit(host, disk, monkeypatch):
    (ada,) = enrolled(host, "ada")
    monkeypatch.setattr(runtime_files, "check_trusted", lambda path, fix: None)
    chown, owned = os.chown, []

    def handing_over(path, uid, gid, **more):
        owned.append(dict(disk.limits))
        chown(path, uid, gid, **more)

    monkeypatch.setattr(runtime_files.os, "chown", handing_over)
    runtime_files.make_directory(host, ada)
    assert owned == [{700_000: SMALL}]
    # Quotas went off since: the next user is not made without.
    disk.on = False
    (bob,) = enrolled(host, "bob")
    with pytest.raises(OpsError, match="no user quotas"):
        runtime_files.make_directory(host, bob)
    assert len(owned) == 1


def test_a_purge_takes_it_back_before_the_number_is_free(host, disk, monkeypatch):
    (ada,) = enrolled(host, "ada")
    disk.limits[700_000] = SMALL
    known = []

    def write(path, uid, limits):
        known.append(bool(host.users.find("ada")))
        disk.limits[uid] = limits

    monkeypatch.setattr(runtime_disk.quota, "write", write)
    monkeypatch.setattr(runtimes, "_stop", lambda host, user: None)
    monkeypatch.setattr(runtimes, "run", lambda words, timeout: None)
    runtimes.remove(host, ada, purge=False)
    assert disk.limits[700_000] == SMALL
    runtimes.remove(host, ada, purge=True)
    assert (disk.limits[700_000], known, host.users.all()) == (Limits(), [True], [])


def test_a_report_says_how_full_it_is(host, disk, monkeypatch, capsys):
    monkeypatch.setattr(Manager, "units", lambda self, names: {name: self._unit(name, {}) for name in names})
    (ada,) = enrolled(host, "ada")
    disk.limits[700_000], disk.used[700_000] = SMALL, 60 * MIB
    (found,) = runtimes.report(host, [ada])
    assert found["disk"] == 93
    (unlimited,) = runtimes.report(declaring(host, ""), [ada])
    assert unlimited["disk"] is None
    arguments = type("Arguments", (), {"json": False, "action": "status"})
    command._tell([found, unlimited, {**found, "disk": 89}], arguments)
    assert [line.endswith("(disk 93 % full)") for line in capsys.readouterr().out.splitlines()] == [True, False, False]
