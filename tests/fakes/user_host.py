# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with an agent of its own and two users, and a systemd that runs the agent of one of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sqlite3

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup.settings import Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import backup, runtime
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import restore as command_restore
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import guard, settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes as places
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.observe import STAMP
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import (
    health,
    runtime_files,
    runtimes,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.runtime_host import Host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

DECLARED = {"image": "localhost/hermes-agent:1", "secret": "0123456789abcdef" * 2, "agent": {}}


@pytest.fixture
def host(tmp_path, monkeypatch, inline):
    """A host with a declared agent and two users, of whom only the first was ever woken."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/runtimes.json").write_text(json.dumps(DECLARED), encoding="utf-8")
    monkeypatch.setattr(settings, "DIRECTORY", str(tmp_path / "etc"))
    (described.release(str(tmp_path)) / STAMP).write_text('{"version": "0.19.0"}', encoding="utf-8")
    names = {name: str(tmp_path) for name in ("data_dir", "root", "managed_root")}
    host = Installation({**names, "scope": "system", "ops_dir": str(tmp_path / "ops")})
    make_home(tmp_path / "home", "declared")
    host.records("default").write_agent(described.agent(home=str(tmp_path / "home"), directory=str(tmp_path)))
    users = places.Users(host.ops_dir)
    with users.lock():
        ada, _bob = users.enrol(["ada", "bob"], 100)
    make_home(tmp_path / "users" / ada.id / ".hermes", "ada")
    monkeypatch.setattr(backup, "installation", lambda: host)
    monkeypatch.setattr(backup, "declared", lambda: Settings(keep=1))
    monkeypatch.setattr(Installation, "load", lambda: host)
    return host


def make_home(home, text):
    (home / "memories").mkdir(parents=True)
    (home / "memories/MEMORY.md").write_text(text, encoding="utf-8")
    with sqlite3.connect(home / "state.db") as database:
        database.execute("CREATE TABLE said (text)")
        database.execute("INSERT INTO said VALUES (?)", (text,))
    database.close()


@pytest.fixture
def ada(host):
    return places.Users(host.ops_dir).get("ada")


class Units:
    """systemd with the units of one user, whose agent is woken by :meth:`call_in`, and is ill while ``sick`` exists.

    :ivar orders: what it was told, and what was done to the home meanwhile
    """

    def __init__(self, home):
        self.home = home
        self.active = {"socket"}
        self.orders = []

    def units(self, names):
        real = Manager("system", Account.current())
        return {name: self._unit(real, name, name.rpartition(".")[2]) for name in names}

    def _unit(self, real, name, kind):
        kind = "agent" if name.startswith("hermes-user-agent@") else kind
        up = kind in self.active
        unit = dataclasses.replace(real._unit(name, {}), load="loaded", active="active" if up else "inactive")
        return dataclasses.replace(unit, sub="running", pid=7) if up else unit

    def call(self, verb, *names, **_options):
        if verb == "stop" and any(name.startswith("hermes-user-agent@") for name in names):
            self.active.clear()
            self.orders.append("stop")

    def complete(self, _host, users):
        if users:
            self.active.add("socket")
            self.orders.append("listen")

    def call_in(self, *_arguments):
        self.orders.append(f"wake on {(self.home / 'memories/MEMORY.md').read_text(encoding='utf-8')}")
        if "socket" in self.active:
            self.active.add("agent")
        return True

    def look(self, agents, supervisor, *_records):
        (agent,) = agents
        result = health.Health(agent.name)
        problem = supervisor.state(agents)[agent.name].problem
        sick = health.Problem("sick", "it is sick", "heal it")
        result.problems += [*([problem] if problem else []), *([sick] if (self.home / "sick").exists() else [])]
        return [result]


@pytest.fixture
def units(host, ada, tmp_path, monkeypatch):
    found = Units(tmp_path / "users" / ada.id / ".hermes")
    monkeypatch.setattr(Host, "manager", found)
    monkeypatch.setattr(runtimes, "_complete", found.complete)
    monkeypatch.setattr(runtimes, "is_complete", lambda _host, _user: "socket" in found.active)
    monkeypatch.setattr(runtimes, "_answers", found.call_in)
    monkeypatch.setattr(runtimes.resting, "forget_wake", lambda *_arguments: found.orders.append("no wake"))
    monkeypatch.setattr(runtime_files, "WANTED", str(tmp_path / "wanted"))
    monkeypatch.setattr(places, "FAILED", str(tmp_path / "failed"))
    monkeypatch.setattr(health, "wait", found.look)
    monkeypatch.setattr(health, "check", lambda agent, *_arguments: health.Health(agent.name))
    monkeypatch.setattr(guard, "UNIT_DIRECTORY", str(tmp_path / "units"))
    # The worker is this process.
    own = Account.current()
    monkeypatch.setattr(Account, "of", classmethod(lambda _cls, _user: own))
    return found


def call(monkeypatch, *words):
    monkeypatch.setattr(runtime.os, "geteuid", lambda: 0)
    monkeypatch.setattr(command_restore.signal, "signal", lambda *_arguments: None)
    parser = argparse.ArgumentParser()
    runtime.arguments(parser)
    return runtime.work(parser.parse_args(words))
