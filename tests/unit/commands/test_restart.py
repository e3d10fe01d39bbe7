# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops restart``: the agent that is named is started or restarted, and no other."""

from __future__ import annotations

import json
import os

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import restart
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Health, Problem

RUNNING = {"ActiveState": "active", "SubState": "running", "MainPID": "1"}


@pytest.fixture
def host(tmp_path, monkeypatch, systemd):
    """A host with two agents, of which ``work`` is stopped."""
    names = {name: str(tmp_path) for name in ("data_dir", "root", "managed_root")}
    host = Installation({**names, "scope": "system", "ops_dir": str(tmp_path / "ops")})
    for name, state in {"default": RUNNING, "work": {"ActiveState": "failed", "SubState": "failed"}}.items():
        agent = described.agent(name, home=str(tmp_path / name), directory=str(tmp_path))
        host.records(name).write_agent(agent)
        host.records(name).prepare()
        systemd.states[agent.unit] = {"Id": agent.unit, "LoadState": "loaded", **state}
    monkeypatch.setattr(restart.Installation, "load", lambda: host)
    monkeypatch.setattr(restart.os, "geteuid", lambda: 0)
    monkeypatch.setattr(restart.health, "wait", lambda agents, _supervisor: [Health(each.name) for each in agents])
    return host


def test_a_stopped_agent_is_started(host, systemd, capsys):
    assert cli.main(["restart", "work"]) == 0
    unit = "hermes-gateway@work.service"
    assert systemd.verbs == [f"reset-failed {unit}", f"start {unit}"]
    assert capsys.readouterr().out == "agent work: healthy\n"


def test_an_agent_that_runs_is_restarted(host, systemd):
    host.records("default").request_restart(["config: model"])
    assert cli.main(["restart", "default"]) == 0
    assert systemd.verbs == ["restart hermes-gateway@default.service"]
    assert host.records("default").restart_reasons() == []


def test_check_restarts_nothing(host, systemd, capsys):
    assert cli.main(["restart", "--check", "default"]) == 0
    assert cli.main(["restart", "--check", "work"]) == 0
    assert capsys.readouterr().out == "agent default: would be restarted\nagent work: would be started\n"
    assert systemd.verbs == []


@pytest.mark.parametrize(
    ("words", "said"),
    [((), "there are several agents. Fix: name one: default, work"), (("werk",), "known ones: default, work")],
)
def test_the_agent_is_never_guessed(host, systemd, capsys, words, said):
    assert cli.main(["restart", *words]) == 2
    assert said in capsys.readouterr().err
    assert systemd.verbs == []


def test_an_agent_that_stays_unhealthy_is_a_failure(host, monkeypatch, capsys):
    sick = Health("work", [Problem("port_in_use", "port 8642 is taken", "stop it")])
    monkeypatch.setattr(restart.health, "wait", lambda _agents, _supervisor: [sick])
    assert cli.main(["restart", "work"]) == 1
    assert "agent work: port 8642 is taken. Fix: stop it" in capsys.readouterr().out


def test_a_home_that_a_restore_left_incomplete_is_not_started(host, systemd, capsys):
    with open(os.path.join(host.records("work").directory, "restore.json"), "w", encoding="utf-8") as stream:
        json.dump({}, stream)
    assert cli.main(["restart", "work"]) == 2
    assert "hermes-ops restore --recover" in capsys.readouterr().err
    assert systemd.verbs == []


def test_a_job_that_holds_agents_down_is_waited_for(host, systemd, capsys):
    with host.lock("update"):
        assert cli.main(["restart", "work"]) == 3
    assert "an update is running" in capsys.readouterr().err
    assert systemd.verbs == []
