# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health and updates on a supervisor that is not systemd."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import replace
from types import SimpleNamespace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import (
    health,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Problem
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.supervisor import State
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import agents
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.settings import Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import findings


class Containers:
    """A supervisor whose gateways are numbers: 0 is down, -1 is held for want of space, any other one is a process.

    :ivar pids: by agent
    :ivar words: the content of its log
    """

    def __init__(self, **pids: int) -> None:
        self.pids = pids
        self.words = ["INFO waiting"]
        self.told: list[str] = []

    def account_of(self, agent):
        return Account.current()

    def state(self, agents):
        return {agent.name: self._state(self.pids[agent.name]) for agent in agents}

    def _state(self, pid):
        entered = time.clock_gettime(time.CLOCK_MONOTONIC) - 60
        if pid < 0:
            why = Problem("no_space", "its disk is nearly full", "free space", True)
            return State(False, False, True, False, 0, 0.0, 0, 0, why, "podman logs", "podman restart", held=True)
        up = State(True, False, False, False, pid, entered, 0, 0, None, "podman logs", "podman restart")
        gone = Problem("not_running", "the container has ended", "podman start")
        return up if pid else replace(up, running=False, ended=True, stopped=True, pid=0, entered=0.0, problem=gone)

    def start(self, agents):
        self._tell("start", agents, 42)

    def stop(self, agents):
        self._tell("stop", agents, 0)

    def restart(self, agents):
        self._tell("restart", agents, 43)

    def _tell(self, verb, agents, pid):
        for agent in agents:
            self.told.append(f"{verb} {agent.name}")
            self.pids[agent.name] = pid

    def log(self, agent, *, before):
        return self.words


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """An agent whose state file names the process 42. A call of systemd fails the test."""

    def refuse(*arguments, **_options):
        pytest.fail(f"asked systemd: {arguments}")

    monkeypatch.setattr(Manager, "call", refuse)
    monkeypatch.setattr(Manager, "units", refuse)
    state = {"pid": 42, "gateway_state": "running", "platforms": {}}
    (tmp_path / "gateway_state.json").write_text(json.dumps(state))
    return described.agent(home=str(tmp_path), health={"timeout": 0})


def test_health(agent):
    (found,) = health.wait([agent], Containers(default=42))
    assert found.ok


def test_why_it_does_not_run(agent):
    supervisor = Containers(default=0)
    supervisor.words = ["Refusing to start: binding to 0.0.0.0 requires API_SERVER_KEY"]
    (found,) = health.wait([agent], supervisor)
    assert found.causes == ["refused_bind", "not_running"]
    assert found.log == supervisor.words
    (finding, _other) = findings.health_findings(found, supervisor.state([agent])["default"], None)
    assert finding.failure


@pytest.fixture
def update(agent, tmp_path, monkeypatch):
    """The agents of an update, on a host with one. Only sleeping takes time."""
    clock = [0.0]
    sleep = functools.partial(list.append, clock)
    monkeypatch.setattr(agents, "time", SimpleNamespace(monotonic=lambda: sum(clock), sleep=sleep))
    host = SimpleNamespace(
        agents=[agent],
        root=str(tmp_path),
        account_of=lambda _agent: Account.current(),
        manager_of=None,
        records=lambda _name: SimpleNamespace(restarted=lambda _since: None, refuse_moved=lambda: None),
    )
    made = agents.Agents(host, Settings(release=Request(version=">=0.18"), stable_seconds=3), [].append)
    made.supervisor = Containers(default=42)
    return made


def test_an_update_starts_and_verifies(update, agent):
    before = update.before()
    assert before == {"default": []}
    update.supervisor.stop([agent])
    assert update.running() == []
    update.start([agent], "new")
    update.verify([agent], "new", before)
    assert update.supervisor.told == ["stop default", "start default"]


def test_an_update_sees_that_it_is_worse(update, agent, monkeypatch):
    monkeypatch.setattr(agents.gateway, "running_release", lambda _pid, _root: "old")
    with pytest.raises(OpsError, match="runs old, not new"):
        update.verify([agent], "new", {})
    # A gateway was started before the switch, so it has to be restarted.
    update.start([agent], "new")
    assert update.supervisor.told == ["start default", "restart default"]


def test_an_update_that_fills_the_disk_goes_back(update):
    """Nobody stopped the gateway, and nobody knows how it is on the new release."""
    update.supervisor.pids["default"] = -1
    with pytest.raises(OpsError, match="its disk is nearly full"):
        update.verify([*update.host.agents], "new", {"default": []})
    # The way back needs no more than that it may start when there is room.
    update.verify([*update.host.agents], "old", {"default": []}, briefly=True)
    assert update.running() == []
