# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is found of users' agents: that their walls or the server before them are gone, and who is ill."""

from __future__ import annotations

import dataclasses
import json

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes as host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.nftables import Table
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import (
    editions,
    health,
    journal,
    runtime_disk,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.rollout import Journal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.runtime_units import AGENT
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.quota import Limits, Usage
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import runtimes


@pytest.mark.parametrize(
    ("lost", "active", "causes"),
    [
        (False, "active", []),
        (True, "active", ["walls_open"]),
        (False, "failed", ["proxy_down"]),
        # Between two tries of systemd.
        (False, "activating", []),
    ],
)
def test_what_is_gone_is_found(tmp_path, monkeypatch, lost, active, causes):
    def units(self, names):
        return {name: dataclasses.replace(self._unit(name, {}), active=active) for name in names}

    monkeypatch.setattr(Table, "lost", lambda self: lost)
    monkeypatch.setattr(Manager, "units", units)
    assert [finding.cause for finding in runtimes.look(str(tmp_path))] == causes


@pytest.mark.parametrize(("phase", "causes"), [("failed", ["rollout_failed"]), ("batches", []), ("back", [])])
def test_a_declaration_that_was_rolled_back_is_found(tmp_path, monkeypatch, phase, causes):
    monkeypatch.setattr(Table, "lost", lambda self: False)
    monkeypatch.setattr(
        Manager,
        "units",
        lambda self, names: {name: dataclasses.replace(self._unit(name, {}), active="active") for name in names},
    )
    editions.write_journal(str(tmp_path), Journal("new", phase, problem="image 2: user ada: it ended"))
    found = runtimes.look(str(tmp_path))
    assert [finding.cause for finding in found] == causes
    assert all("user ada" in finding.what for finding in found)


# --- agents that run -------------------------------------------------------------------------------------------

DECLARED = {"image": "localhost/hermes-agent:1", "secret": "0123456789abcdef" * 2, "agent": {}}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A host with forty users.

    :ivar awake: their numbers whose agents run
    :ivar ill: those whose agents are ill
    """
    (tmp_path / "runtimes.json").write_text(json.dumps(DECLARED), encoding="utf-8")
    monkeypatch.setattr(settings, "DIRECTORY", str(tmp_path))
    names = {name: str(tmp_path) for name in ("data_dir", "root", "managed_root")}
    found = Installation({**names, "scope": "system", "ops_dir": str(tmp_path / "ops")})
    users = host.Users(found.ops_dir)
    with users.lock():
        users.enrol((str(number) for number in range(40)), 100)
    found.users = users.all()
    found.awake, found.ill, found.looked_at, found.entered = set(), set(), [], 1.0

    def awake():
        return [AGENT.format(found.users[number].id) for number in sorted(found.awake)]

    def ask(_self, verb, *_words):
        text = "".join(f"{name} loaded active running Hermes agent\n" for name in awake())
        return Completed((), 0, text if verb == "list-units" else "", "")

    def units(self, names):
        return {
            name: dataclasses.replace(
                self._unit(name, {}), load="loaded", active="active", sub="running", pid=7, entered=found.entered
            )
            if name in awake()
            # systemd still knows when one that has ended was started.
            else dataclasses.replace(self._unit(name, {}), entered=found.entered)
            for name in names
        }

    def check_all(agents, states):
        found.looked_at = [int(agent.user) - 700_000 for agent, _account in agents]
        sick = [health.Problem("no_answer", "its server does not answer", "see its log")]
        return [
            health.Health(agent.name, sick[:] if int(agent.user) - 700_000 in found.ill else [])
            for agent, _account in agents
        ]

    monkeypatch.setattr(Manager, "ask", ask)
    monkeypatch.setattr(Manager, "units", units)
    monkeypatch.setattr(health, "check_all", check_all)
    monkeypatch.setattr(journal, "last_lines", lambda *_arguments, **_options: [])
    return found


def told(found):
    return [(finding.agent, finding.cause, finding.failure) for finding in found]


def test_one_that_runs_and_is_ill_is_found_and_those_that_sleep_cost_nothing(home):
    home.awake, home.ill = {3, 4}, {4, 5}
    found, known, _figures = runtimes.look_at_agents(home, {}, 1000.0)
    assert told(found) == [(home.users[4].agent, "no_answer", True)]
    assert home.looked_at == [3, 4]
    assert known == {home.users[3].agent: 1000.0, home.users[4].agent: -1000.0}


def test_the_users_are_counted(home, monkeypatch, tmp_path):
    monkeypatch.setattr(host, "FAILED", str(tmp_path / "failed"))
    (tmp_path / "failed").mkdir()
    for name in (home.users[7].id, "0" * 32):
        (tmp_path / "failed" / name).touch()
    home.awake = {3, 4}
    assert runtimes.look_at_agents(home, {}, 1000.0)[2] == {"known": 40, "running": 2, "failed": 1}


def test_of_many_each_has_its_turn_and_the_ill_are_looked_at_each_time(home):
    home.awake, home.ill = set(range(40)), {2}
    known, seen = {}, set()
    for turn in range(3):
        found, known, _figures = runtimes.look_at_agents(home, known, 1000.0 + turn)
        assert len(home.looked_at) == runtimes.AT_ONCE
        assert told(found) == [(home.users[2].agent, "no_answer", True)]
        seen |= set(home.looked_at)
    assert seen == set(range(40))


def test_many_that_are_ill_for_ever_hide_nobody(home):
    home.awake, home.ill = set(range(40)), set(range(20))
    known, seen = {}, set()
    for turn in range(8):
        _found, known, _figures = runtimes.look_at_agents(home, known, 1000.0 + turn)
        seen |= set(home.looked_at)
    assert seen == set(range(40))
    home.ill.add(39)
    seen = set()
    for turn in range(8):
        _found, known, _figures = runtimes.look_at_agents(home, known, 2000.0 + turn)
        seen |= set(home.looked_at)
    assert 39 in seen


def test_one_that_goes_to_sleep_meanwhile_is_not_ill(home, monkeypatch):
    home.awake, home.ill = {1}, {1}
    look = health.check_all

    def meanwhile(agents, states):
        home.awake = set()
        return look(agents, states)

    monkeypatch.setattr(health, "check_all", meanwhile)
    assert runtimes.look_at_agents(home, {}, 1000.0)[0] == []


def test_one_that_was_started_again_meanwhile_is_looked_at_the_next_time(home, monkeypatch):
    home.awake, home.ill = {1}, {1}
    look = health.check_all

    def meanwhile(agents, states):
        home.entered = 2.0
        return look(agents, states)

    monkeypatch.setattr(health, "check_all", meanwhile)
    assert runtimes.look_at_agents(home, {}, 1000.0)[0] == []


def test_a_record_that_cannot_be_used_is_a_finding_and_no_end_of_the_check(home):
    home.awake = {1}
    with open(f"{home.ops_dir}/runtimes/{home.users[1].id}.json", "w", encoding="utf-8") as stream:
        stream.write("{")
    assert told(runtimes.look_at_agents(home, {}, 1000.0)[0]) == [(None, "users_unknown", True)]


@pytest.mark.parametrize(
    ("declared", "in_force", "told_of"),
    [
        ("5G", True, [(3, "disk_share", False), (39, "disk_share", False)]),
        ("5G", False, [(None, "disk_unlimited", True)]),
        ("", True, []),
        ("", False, []),
    ],
)
def test_who_has_nearly_filled_their_share_is_found_among_all_that_run(
    home, tmp_path, monkeypatch, declared, in_force, told_of
):
    """Also beyond those whose turn it is, who are not ill for that; and those that cannot be started."""
    (tmp_path / "runtimes.json").write_text(json.dumps({**DECLARED, "disk": declared}), encoding="utf-8")
    used = {700_003: 4.5, 700_004: 4.4, 700_038: 5, 700_039: 5}
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / home.users[39].id).write_text("exit-code 1")
    (tmp_path / "failed" / "somebody").write_text("exit-code 1")
    monkeypatch.setattr(host, "FAILED", str(tmp_path / "failed"))
    monkeypatch.setattr(runtime_disk.quota, "in_force", lambda path: in_force)
    monkeypatch.setattr(
        runtime_disk.quota,
        "read",
        lambda path, uid: Usage(int(used.get(uid, 0) * 2**30), 0, Limits(5 * 2**30, 327_680)),
    )
    home.awake = set(range(38))
    known = {user.agent: 900.0 + user.number for user in reversed(home.users[4:])} | {home.users[3].agent: 999.0}
    found, known, _figures = runtimes.look_at_agents(home, known, 1000.0)
    assert told(found) == [(number and home.users[number].agent, *rest) for number, *rest in told_of]
    assert all(finding.fix for finding in found)
    assert 3 not in home.looked_at
    assert known[home.users[3].agent] == 999.0


@pytest.mark.parametrize("when", ["x", None, [1], 9e9])
def test_what_a_look_remembers_may_be_damaged_or_of_a_fast_clock(home, when):
    home.awake = set(range(40))
    runtimes.look_at_agents(home, {user.agent: 999.0 for user in home.users} | {home.users[39].agent: when}, 1000.0)
    assert 39 in home.looked_at
