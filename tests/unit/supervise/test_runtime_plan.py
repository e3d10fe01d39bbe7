# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is planned for a host with users' agents when something else is declared."""

from __future__ import annotations

import dataclasses
import json
import os
import types

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtimes import Runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes as places
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.runtimes import User
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import editions, runtime_plan
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.rollout import (
    BATCHES,
    FAILED,
    Journal,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.runtime_host import Host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import Difference, Plan
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


def test_another_port_while_there_are_users_is_refused(host, tmp_path, monkeypatch):
    path = tmp_path / "runtimes.json"
    path.write_text(json.dumps(plain(declared())), encoding="utf-8")
    monkeypatch.setattr(runtime_plan.settings, "path_of", lambda job: str(path))
    runtime_plan._check(host, host.users.all())
    other = dataclasses.replace(host, settings=declared(agent={"api": {"port": 9999}}))
    with pytest.raises(OpsError, match=r"agent: api\.port"):
        runtime_plan._check(other, host.users.all())


@pytest.mark.parametrize("user", [None, User("bob", 1, off=True)])
def test_a_canary_that_cannot_be_one_is_refused_before_anything_changes(host, user):
    if user:
        host.users.write(user)
    other = dataclasses.replace(host, settings=declared(canaries=("ada", "bob")))
    with pytest.raises(OpsError, match="canaries: bob: has no runtime here, or is stopped"):
        runtime_plan._check(other, host.users.all())
    # One that this run makes.
    other = dataclasses.replace(host, settings=declared(canaries=("ada", "cy"), users=("cy",)))
    runtime_plan._check(other, host.users.all())


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


@pytest.mark.parametrize(
    ("target", "phase", "ended"),
    [("another", BATCHES, True), ("another", FAILED, False), (declared(2).edition.id, BATCHES, False)],
)
def test_what_is_no_longer_declared_is_not_rolled_out_to_its_end(host, target, phase, ended):
    editions.write_journal(host.ops_dir, Journal(target, phase))
    plan, manager = Plan(), Systemd(ok=True)
    runtime_plan._plan_end_of_another(plan, host, manager)
    plan.apply()
    assert manager.calls == [("stop", places.ROLLOUT)] * ended


def test_without_runtimes_no_record_keeps_a_secret(host, tmp_path, monkeypatch):
    (tmp_path / "runtimes.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(runtime_plan.settings, "path_of", lambda job: str(tmp_path / "runtimes.json"))
    monkeypatch.setattr(places, "present", lambda: True)
    walls = Plan([Difference("walls", "present", None)])
    monkeypatch.setattr(runtime_plan.proxy, "plan_no_proxy", lambda manager: Plan())
    monkeypatch.setattr(runtime_plan.runtime_network, "plan_no_network", lambda manager: walls)
    for name in ("plan_gone", "_stop_all"):
        monkeypatch.setattr(runtime_plan, name, lambda *words: None)
    for name in ("WANTED", "LENT"):
        monkeypatch.setattr(runtime_plan, name, str(tmp_path))
    monkeypatch.setattr(runtime_plan.runtime_units, "UNIT_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(runtime_plan.runtimes, "RUN", str(tmp_path / "run"))
    editions.write_journal(host.ops_dir, Journal("another", FAILED))
    plan = runtime_plan.plan_absent(Systemd(ok=True), host.ops_dir)
    # Check mode says that they go, too.
    assert walls.differences[0] in plan.differences
    plan.apply()
    assert editions.former(host.settings, host.ops_dir) is None
    assert editions.journal(host.ops_dir) is None
    assert not (tmp_path / "runtimes.json").exists()


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


def test_one_that_is_killed_goes_on_and_is_waited_for(host):
    manager = Systemd(ok=False)

    def second():
        if len(manager.calls) == 2:
            editions.prove(host.ops_dir, host.settings.edition)
            manager.ok = True

    manager.leaves = second
    planned(host, manager).apply()
    assert manager.calls == [("start", places.ROLLOUT)] * 2


def test_one_that_did_not_end_is_an_error_and_names_its_log(host):
    with pytest.raises(OpsError, match="journalctl -u hermes-runtimes-rollout"):
        planned(host, Systemd(ok=False)).apply()


# --- what is refused, and what a changed secret ends ------------------------------------------------------------


@pytest.fixture
def bare(tmp_path):
    (tmp_path / "data/ops/runtimes").mkdir(parents=True)
    (tmp_path / "data/users").mkdir()
    return Host(declared(), str(tmp_path / "data"), str(tmp_path / "data/ops"))


class Manager:
    """Remembers what systemd was asked for, beside other events."""

    def __init__(self):
        self.events = []

    def call(self, verb, *units, **options):
        self.events.append(f"{verb} {units[0]}")


def test_a_plugin_that_is_not_there_is_refused(bare, tmp_path):
    one = dataclasses.replace(bare.settings, plugins={"notes": f"{tmp_path}/notes"})
    with pytest.raises(OpsError, match=r"plugins: notes: .*/notes: is no directory of this host"):
        runtime_plan.plan_present(dataclasses.replace(bare, settings=one), Manager())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_data_of_other_numbers_are_refused_with_the_right_one(bare):
    """Also those of a user who is off, and on a host that has no settings yet."""
    _ada, bob = bare.users.enrol(["ada", "bob"], 100)
    bare.users.write(dataclasses.replace(bob, off=True))
    os.mkdir(bob.directory(bare.data_dir))
    os.chown(bob.directory(bare.data_dir), 800_001, 800_001)
    with pytest.raises(OpsError, match="runtimes_first_uid: 800000, as where it was made"):
        runtime_plan.plan_present(bare, Manager())


@pytest.mark.parametrize(
    ("former", "events"),
    [
        (SECRET, ["written"]),
        (None, ["written"]),
        ("another" * 5, ["stop hermes-user@*.service", "written", "stop hermes-user@*.service"]),
    ],
)
def test_agents_with_keys_of_a_former_secret_are_stopped(bare, monkeypatch, tmp_path, former, events):
    path = tmp_path / "secrets.json"
    if former:
        path.write_text(json.dumps({"secret": former}), encoding="utf-8")
    manager = Manager()
    monkeypatch.setattr(runtime_plan, "PROXY_SECRETS", str(path))
    monkeypatch.setattr(runtime_plan, "write", lambda _host, say: manager.events.append("written"))
    runtime_plan._write(bare, manager)
    assert [event for event in manager.events if not event.startswith("reset-failed")] == events


def test_what_could_not_be_written_for_a_user_is_the_run_s_error(bare, monkeypatch, tmp_path):
    monkeypatch.setattr(runtime_plan, "PROXY_SECRETS", str(tmp_path / "secrets.json"))
    monkeypatch.setattr(runtime_plan, "write", lambda _host, say: say("user ada: is odd"))
    with pytest.raises(OpsError, match="user ada: is odd"):
        runtime_plan._write(bare, Manager())
