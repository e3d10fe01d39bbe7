# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves between a host's own agent and that of a user: one of the two runs, whatever happens, and nothing is lost."""

from __future__ import annotations

import dataclasses
import os
import sqlite3

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import making, moving, restore
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import runtime
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes as places
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Moved
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import (
    gateway,
    health,
    runtime_agents,
    runtimes,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.runtime_host import Host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager
from user_host import ada, call, host, make_home, units

__all__ = ["ada", "host", "units"]


class Gateway:
    """systemd with the unit of the host's own agent, which must never run beside that of the user on the same data.

    :ivar enabled: whether a boot starts it
    """

    scope = "system"

    def __init__(self, users, home):
        self.account = Account.current()
        self.users, self.home = users, home
        self.active = self.enabled = True

    def units(self, names):
        real = Manager("system", self.account)
        unit = [real._unit(name, {}) for name in names]
        state = {"load": "loaded", "active": "active" if self.active else "inactive"}
        state |= {"sub": "running", "pid": 8} if self.active else {}
        return {each.name: dataclasses.replace(each, **state) for each in unit}

    def call(self, verb, *_words, **_options):
        if verb in ("disable", "enable"):
            self.enabled = verb == "enable"
        if verb in ("disable", "stop"):
            self.active = False
        if verb == "start":
            assert "agent" not in self.users.active or not self.are_one()
            self.active = True

    def are_one(self):
        return knows(self.home) == knows(self.users.home)


@pytest.fixture
def own(host, units, tmp_path, monkeypatch):
    """The gateway of the host's agent ``default``. An agent is ill while its home has a file ``sick``."""
    found = Gateway(units, tmp_path / "home")
    woken = units.call_in

    def wake(*arguments):
        assert not found.active or not found.are_one()
        return woken(*arguments)

    def look(agents, supervisor, *_records):
        (agent,) = agents
        result = health.Health(agent.name)
        problem = supervisor.state(agents)[agent.name].problem
        sick = health.Problem("sick", "it is sick", "heal it")
        ill = os.path.exists(os.path.join(agent.home, "sick"))
        result.problems += [*([problem] if problem else []), *([sick] if ill else [])]
        return [result]

    monkeypatch.setattr(runtimes, "_answers", wake)
    monkeypatch.setattr(health, "wait", look)
    monkeypatch.setattr(Installation, "manager_of", lambda _host, _agent: found)
    return found


def knows(home):
    """What a home remembers, in its memory and its sessions."""
    with sqlite3.connect(home / "state.db") as database:
        said = [text for (text,) in database.execute("SELECT text FROM said")]
    database.close()
    return (home / "memories/MEMORY.md").read_text(encoding="utf-8"), *said


def learn(home, text):
    (home / "memories/MEMORY.md").write_text(text, encoding="utf-8")
    with sqlite3.connect(home / "state.db") as database:
        database.execute("INSERT INTO said VALUES (?)", (text,))
    database.close()


def is_refused(host, name):
    agent = runtime_agents.one(host, name)
    with pytest.raises(OpsError, match=r"has moved to|is moving to"):
        gateway.start(runtime_agents.supervisor_for(host, name), [agent], {name: host.records(name)})
    return True


@pytest.mark.parametrize("awake", [True, False])
def test_there_and_back_with_what_was_learnt_meanwhile(host, ada, units, own, tmp_path, monkeypatch, awake):
    home = tmp_path / "home"
    (home / "cron").mkdir()
    (home / "cron/jobs.json").write_text("[]", encoding="utf-8")
    (home / "notes.of-its-own").write_text("kept", encoding="utf-8")
    (home / ".env").write_text("API_SERVER_KEY=the-host-s\n", encoding="utf-8")
    (units.home / ".env").write_text("API_SERVER_KEY=the-user-s\n", encoding="utf-8")
    units.active |= {"agent"} if awake else set()
    assert call(monkeypatch, "move", "ada", "--from", "default") == 0
    assert knows(units.home) == ("declared", "declared")
    assert (units.home / "notes.of-its-own").read_text(encoding="utf-8") == "kept"
    assert (units.home / "cron/jobs.json").exists()
    # What belongs to the place stays there.
    assert (units.home / ".env").read_text(encoding="utf-8") == "API_SERVER_KEY=the-user-s\n"
    assert "agent" in units.active
    assert not own.active
    assert not own.enabled
    assert is_refused(host, "default")
    # What either had is still there.
    assert knows(home) == ("declared", "declared")
    (aside,) = os.listdir(os.path.join(host.ops_dir, "set-aside"))
    assert aside.startswith(f"{ada.agent}-")

    learn(units.home, "learnt in the container")
    assert call(monkeypatch, "move", "ada", "--to", "default") == 0
    assert knows(home) == ("learnt in the container", "declared", "learnt in the container")
    assert (home / ".env").read_text(encoding="utf-8") == "API_SERVER_KEY=the-host-s\n"
    assert own.active
    assert own.enabled
    assert units.active == set()
    assert places.Users(host.ops_dir).get("ada").off
    # An application may ask for it at any time.
    with pytest.raises(OpsError, match=r"has moved to default.*runtime move"):
        runtimes.ensure(Host.of(host), "ada")
    assert places.Users(host.ops_dir).get("ada").off
    assert is_refused(host, ada.agent)

    learn(home, "learnt on the host")
    assert call(monkeypatch, "move", "ada", "--from", "default") == 0
    assert knows(units.home)[0] == "learnt on the host"


@pytest.mark.parametrize("runs", [True, False])
def test_one_that_is_not_healthy_there_is_back_as_it_was(host, ada, units, own, tmp_path, monkeypatch, runs):
    own.active = runs
    (tmp_path / "home/sick").touch()
    with pytest.raises(OpsError, match=r"not healthy on the backup"):
        call(monkeypatch, "move", "ada", "--from", "default")
    # The user's agent has what it had; only one that ran is started again.
    assert knows(units.home) == ("ada", "ada")
    assert (own.active, own.enabled) == (runs, True)
    assert host.records("default").moved() is None


def test_one_that_is_not_healthy_back_on_the_host_stays_the_user_s(host, ada, units, own, tmp_path, monkeypatch):
    assert call(monkeypatch, "move", "ada", "--from", "default") == 0
    (units.home / "sick").touch()
    with pytest.raises(OpsError, match=r"not healthy on the backup"):
        call(monkeypatch, "move", "ada", "--to", "default")
    assert not own.active
    assert not own.enabled
    assert is_refused(host, "default")
    assert not places.Users(host.ops_dir).get("ada").off
    assert "agent" in units.active


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["_retire", "create", "_employ", "_extract", "_exchange", "_start", "_keep"])
def test_killed_anywhere_one_of_them_can_run_and_the_next_call_finishes_it(
    host, ada, units, own, tmp_path, monkeypatch, where
):
    place = {"create": making, "_retire": moving, "_employ": moving}.get(where, restore.Restore)

    def kill(*_arguments, **_options):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(place, where, kill)
        patched.setattr(restore.Restore, "_undo", kill)
        # Nor does the one that was killed undo its move.
        patched.setattr(moving, "_give_up", kill)
        with pytest.raises(Killed):
            call(monkeypatch, "move", "ada", "--from", "default")
    assert is_refused(host, "default")
    assert call(monkeypatch, "move", "ada", "--from", "default") == 0
    assert knows(units.home) == ("declared", "declared")
    assert not own.active
    assert host.records("default").moved() == Moved(ada.agent, True)
    assert not host.unfinished("restore")


def test_a_call_that_finishes_another_s_move_and_fails_starts_neither_twice(
    host, ada, units, own, tmp_path, monkeypatch
):
    host.records("default").write_moved(Moved(ada.agent, False))
    (tmp_path / "home/sick").touch()
    with pytest.raises(OpsError, match=r"default stays stopped, since user-.* may have what it knows"):
        call(monkeypatch, "move", "ada", "--from", "default")
    assert not own.active
    assert is_refused(host, "default")


def test_while_the_other_cannot_get_back_what_it_had_none_is_started(host, ada, units, own, tmp_path, monkeypatch):
    (tmp_path / "home/sick").touch()

    def fail(*_arguments):
        raise OpsError("cannot be put back")

    with monkeypatch.context() as patched:
        patched.setattr(restore.Restore, "_put_back", fail)
        with pytest.raises(OpsError, match=r"cannot be put back; default stays stopped"):
            call(monkeypatch, "move", "ada", "--from", "default")
    assert not own.active
    assert units.active == set()
    assert is_refused(host, "default")
    (tmp_path / "home/sick").unlink()
    assert call(monkeypatch, "move", "ada", "--from", "default") == 0
    assert knows(units.home) == ("declared", "declared")


def test_a_move_that_was_made_is_not_made_again(host, ada, units, own, monkeypatch, capsys):
    assert call(monkeypatch, "move", "ada", "--from", "default") == 0
    learn(units.home, "newer")
    assert call(monkeypatch, "move", "ada", "--from", "default") == 0
    assert f"default had moved to {ada.agent} before" in capsys.readouterr().out
    assert knows(units.home)[0] == "newer"


def test_what_would_be_moved_is_said_and_nothing_is_changed(host, ada, units, own, monkeypatch, capsys):
    assert call(monkeypatch, "move", "ada", "--from", "default", "--check") == 0
    assert f"default would move to {ada.agent}" in capsys.readouterr().out
    assert host.records("default").moved() is None
    assert call(monkeypatch, "move", "bob", "--from", "default", "--check") == 0
    assert "would give user bob a runtime" in capsys.readouterr().out
    assert call(monkeypatch, "move", "ada", "--from", "default") == 0
    with pytest.raises(OpsError, match=f"has moved to {ada.agent}"):
        call(monkeypatch, "move", "bob", "--from", "default", "--check")


def test_whoever_has_moved_is_taken_only_from_where_it_is(host, ada, units, own, tmp_path, monkeypatch):
    bob = places.Users(host.ops_dir).get("bob")
    make_home(tmp_path / "users" / bob.id / ".hermes", "bob")
    assert call(monkeypatch, "move", "ada", "--from", "default") == 0
    for way in ("--from", "--to"):
        with pytest.raises(OpsError, match=f"has moved to {ada.agent}"):
            call(monkeypatch, "move", "bob", way, "default")
    assert knows(tmp_path / "users" / bob.id / ".hermes") == ("bob", "bob")


def test_a_user_without_a_runtime_gets_one(host, ada, units, own, tmp_path, monkeypatch):
    made = []

    def ensure(_host, name):
        made.append(name)
        raise OpsError("no container here")

    monkeypatch.setattr(runtime.runtimes, "ensure", ensure)
    for name in ("bob", "nobody yet"):
        with pytest.raises(OpsError, match="no container here"):
            call(monkeypatch, "move", name, "--from", "default")
        # Before anything is stopped.
        assert own.active
        with pytest.raises(OpsError, match=r"has no home yet|has no runtime here"):
            call(monkeypatch, "move", name, "--to", "default")
    assert made == ["bob", "nobody yet"]


def test_only_agents_of_the_host_can_be_named(host, ada, units, own, monkeypatch):
    with pytest.raises(OpsError, match=r"no such agent here.*use one of: default"):
        call(monkeypatch, "move", "ada", "--from", ada.agent)
