# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module health: whom it looks at, and how it fails."""

from __future__ import annotations

import json

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Health, Problem
from ansible_collections.alwayson.hermes.plugins.modules import health as module

ERROR = "/home/bob/.hermes/config.yaml:1: is not YAML. Fix: repair it"


@pytest.fixture
def run(run_module, tmp_path, monkeypatch):
    """A function that runs the module for three agents, of which eve has no answer."""

    def wait(agents, *_more):
        found = {agent.name: Health(agent.name) for agent in agents}
        if "eve" in found:
            found["eve"].problems.append(Problem("no_answer", "it does not answer", "see the log"))
        return list(found.values())

    monkeypatch.setattr(health, "wait", wait)
    agents = [described.agent(name).to_plain() for name in ("bob", "default", "eve")]
    return lambda **given: json.loads(run_module(module, {"agents": agents, "ops_dir": str(tmp_path), **given}))


def test_an_agent_that_could_not_be_converged_is_reported_last_and_not_looked_at(run):
    result = run(errors={"bob": ERROR})
    assert [each["agent"] for each in result["agents"]] == ["default", "eve"]
    assert result["failed"]
    assert result["msg"].splitlines() == [
        "agent eve: it does not answer. Fix: see the log",
        f"agent bob: {ERROR}",
    ]


def test_without_health_checks_it_is_reported_all_the_same(run):
    for check_mode in (True, False):
        result = run(agents=[], errors={"bob": ERROR}, _ansible_check_mode=check_mode)
        assert (result["failed"], result["healthy"], result["msg"]) == (True, False, f"agent bob: {ERROR}")
