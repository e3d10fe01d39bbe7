# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person reads at the end of site.yml: which gateways were restarted, and why an agent is not healthy."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import described
import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules import health as work
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Health, Problem
from ansible_collections.alwayson.hermes.plugins.modules import health

TOP = Path(__file__).resolve().parents[3]
(HANDLER,) = yaml.safe_load((TOP / "roles/agents/handlers/main.yml").read_text())
(CONVERGE,) = yaml.safe_load((TOP / "roles/agents/tasks/converge.yml").read_text())
REASON = "config: platforms.webhook.extra.port"


@pytest.mark.parametrize(
    ("restarted", "options", "lines"),
    [
        ({}, [], []),
        (
            {"default": [REASON, "env: API_SERVER_KEY"], "work": ["the unit changed"]},
            [],
            [
                f"zeus: agent default was restarted: {REASON}, env: API_SERVER_KEY",
                "zeus: agent work was restarted: the unit changed",
            ],
        ),
        ({"default": [REASON]}, ["--check"], [f"zeus: agent default would be restarted: {REASON}"]),
    ],
)
def test_restarted_gateways_are_said_with_their_reasons(restarted, options, lines, tmp_path):
    facts = {CONVERGE["register"]: {"restarted": restarted}}
    converge = {"ansible.builtin.set_fact": facts, "changed_when": True, "notify": CONVERGE["notify"]}
    play = {"hosts": "zeus", "gather_facts": False, "tasks": [converge], "handlers": [HANDLER]}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local")}
    done = subprocess.run(
        ["ansible-playbook", "-i", "zeus,", "play.yml", *options],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line.strip(" ,")) for line in done.stdout.splitlines() if '"zeus: agent' in line] == lines
    assert ("skipping: [zeus]" in done.stdout) == (not lines)


def test_site_says_restarts_before_it_looks_at_health_and_also_if_it_fails_before():
    (play,) = yaml.safe_load((TOP / "playbooks/site.yml").read_text())
    names = [task["name"] for task in play["tasks"]]
    assert names[-2:] == ["The restarts", "Their health"]
    assert play["tasks"][-2]["ansible.builtin.meta"] == "flush_handlers"
    assert play["force_handlers"]


def test_a_failed_health_check_ends_with_cause_and_fix_after_the_log(run_module, monkeypatch, tmp_path):
    sick = Health("work", [Problem("port_in_use", "port 8700 is taken", "stop that process")], log=["line one"])
    monkeypatch.setattr(work.health, "wait", lambda *_arguments: [Health("default"), sick])
    agents = [described.agent(home=str(tmp_path)).to_plain()]
    said = run_module(health, {"agents": agents, "ops_dir": str(tmp_path / "ops")})
    answer = json.loads(said)
    assert answer["failed"]
    assert answer["msg"] == "agent work: port 8700 is taken. Fix: stop that process"
    assert said.count("line one") == 1
    # Ansible shows a result in the order of the alphabet, without these.
    shown = sorted(set(answer) - {"invocation", "warnings"})
    assert shown == ["agents", "changed", "failed", "healthy", "msg"]
    assert str(sick) == f"  | line one\n{answer['msg']}"
