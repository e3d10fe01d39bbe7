# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is planned for a host with users' agents when something else is declared."""

from __future__ import annotations

import json
import types

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtimes import Runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes as places
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.runtimes import User
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import editions, runtime_plan
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.rollout import FAILED, Journal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.runtimes import Host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import Plan
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.typed import plain

SECRET = "0123456789abcdef0123456789abcdef"


def declared(number=1, **more):
    return Runtimes(image=f"localhost/hermes-agent:{number}", secret=SECRET, agent=more.pop("agent", {}), **more)


@pytest.fixture
def host(tmp_path, monkeypatch):
    for module in (editions, places):
        monkeypatch.setattr(module, "check_ops", lambda ops_dir: None)
    found = Host(declared(2), str(tmp_path / "data"), str(tmp_path))
    (tmp_path / "runtimes").mkdir()
    found.users.write(User("ada", 0))
    editions.prove(found.ops_dir, declared().edition)
    return found


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"network": "10.99.0.0/16"}, "network"),
        ({"first_uid": 800_000}, "first_uid"),
        ({"agent": {"api": {"port": 9999}}}, "port of the API"),
    ],
)
def test_what_cannot_change_while_there_are_users_is_refused(host, tmp_path, monkeypatch, more, where):
    path = tmp_path / "runtimes.json"
    path.write_text(json.dumps(plain(declared())), encoding="utf-8")
    monkeypatch.setattr(runtime_plan.settings, "path_of", lambda job: str(path))
    runtime_plan._refuse_moved(host, str(path))
    with pytest.raises(OpsError, match=where):
        runtime_plan._refuse_moved(Host(declared(**more), host.data_dir, host.ops_dir), str(path))


class Systemd:
    """The result of a start, and what it leaves."""

    def __init__(self, ok, leaves=lambda: None):
        self.ok, self.leaves, self.calls = ok, leaves, []

    def call(self, *words, **more):
        self.calls.append(words)
        self.leaves()
        return types.SimpleNamespace(ok=self.ok)


def planned(host, manager):
    plan = Plan()
    runtime_plan._plan_rollout(plan, host, manager)
    return plan


def test_a_changed_image_is_rolled_out_by_the_unit(host):
    manager = Systemd(ok=True, leaves=lambda: editions.prove(host.ops_dir, host.settings.edition))
    plan = planned(host, manager)
    assert [(each.what, each.after) for each in plan.differences] == [
        ("rollout to users' agents", "image localhost/hermes-agent:2")
    ]
    assert manager.calls == []
    plan.apply()
    assert manager.calls == [("start", places.ROLLOUT)]


def test_one_that_was_under_way_is_followed_by_another(host):
    manager = Systemd(ok=True)
    planned(host, manager).apply()
    assert len(manager.calls) == 2


def test_nothing_is_planned_when_all_have_it(host):
    editions.prove(host.ops_dir, host.settings.edition)
    assert not planned(host, Systemd(ok=True)).changed


def test_why_it_was_rolled_back_is_the_error(host):
    def fail():
        editions.write_journal(
            host.ops_dir, Journal(host.settings.edition.id, FAILED, problem="image 2: user ada: it ended")
        )

    with pytest.raises(OpsError, match="user ada: it ended"):
        planned(host, Systemd(ok=False, leaves=fail)).apply()


def test_one_that_failed_is_tried_again_only_if_somebody_asks(host):
    kept = Journal(host.settings.edition.id, FAILED, problem="image 2: user ada: it ended")
    editions.write_journal(host.ops_dir, kept)
    with pytest.raises(OpsError, match="user ada"):
        runtime_plan.roll_out(host, Systemd(ok=False))
    runtime_plan.roll_out(host, Systemd(ok=True), again=True)
    assert editions.journal(host.ops_dir) is None


def test_one_that_did_not_end_is_an_error_and_names_its_log(host):
    with pytest.raises(OpsError, match="journalctl -u hermes-runtimes-rollout"):
        planned(host, Systemd(ok=False)).apply()
