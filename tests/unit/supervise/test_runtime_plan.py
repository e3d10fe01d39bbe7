# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before a host with runtimes is changed, and what a changed secret ends."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtimes import Runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import runtime_plan
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.runtimes import Host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def host(tmp_path):
    (tmp_path / "data/ops/runtimes").mkdir(parents=True)
    (tmp_path / "data/users").mkdir()
    declared = Runtimes("localhost/x:1", SECRET, {"config": {"model": {"provider": "custom"}}})
    return Host(declared, str(tmp_path / "data"), str(tmp_path / "data/ops"))


class Manager:
    """Remembers what systemd was asked for, beside other events."""

    def __init__(self):
        self.events = []

    def call(self, verb, *units, **options):
        self.events.append(f"{verb} {units[0]}")


def test_a_plugin_that_is_not_there_is_refused(host, tmp_path):
    one = dataclasses.replace(host.settings, plugins={"notes": f"{tmp_path}/notes"})
    with pytest.raises(OpsError, match=r"plugins: notes: .*/notes: is no directory of this host"):
        runtime_plan.plan_present(dataclasses.replace(host, settings=one), Manager())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_data_of_other_numbers_are_refused_with_the_right_one(host):
    """Also those of a user who is off, and on a host that has no settings yet."""
    _ada, bob = host.users.enrol(["ada", "bob"], 100)
    host.users.write(dataclasses.replace(bob, off=True))
    os.mkdir(bob.directory(host.data_dir))
    os.chown(bob.directory(host.data_dir), 800_001, 800_001)
    with pytest.raises(OpsError, match="runtimes_first_uid: 800000, as where it was made"):
        runtime_plan.plan_present(host, Manager())


@pytest.mark.parametrize(
    ("former", "events"),
    [
        (SECRET, ["written"]),
        (None, ["written"]),
        ("another" * 5, ["stop hermes-user@*.service", "written", "stop hermes-user@*.service"]),
    ],
)
def test_agents_with_keys_of_a_former_secret_are_stopped(host, monkeypatch, tmp_path, former, events):
    path = tmp_path / "secrets.json"
    if former:
        path.write_text(json.dumps({"secret": former}), encoding="utf-8")
    manager = Manager()
    monkeypatch.setattr(runtime_plan, "PROXY_SECRETS", str(path))
    monkeypatch.setattr(runtime_plan, "write", lambda host, say: manager.events.append("written"))
    runtime_plan._write(host, manager)
    assert [event for event in manager.events if not event.startswith("reset-failed")] == events


def test_what_could_not_be_written_for_a_user_is_the_run_s_error(host, monkeypatch, tmp_path):
    monkeypatch.setattr(runtime_plan, "PROXY_SECRETS", str(tmp_path / "secrets.json"))
    monkeypatch.setattr(runtime_plan, "write", lambda host, say: say("user ada: is odd"))
    with pytest.raises(OpsError, match="user ada: is odd"):
        runtime_plan._write(host, Manager())
