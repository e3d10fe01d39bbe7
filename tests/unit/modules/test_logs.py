# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose logs the module logs rotates."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Agent
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records, Separated
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules.call import Call
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules.logs import rotated
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account


def agent(name: str, **declared) -> Agent:
    words = {"name": name, "api": {"enabled": False}, **declared}
    found = declaration.resolve([words], host="box", data_dir="/data", managed_root="/managed")[name].agent
    return replace(found, user=Account.current().name)


@pytest.fixture
def names(tmp_path):
    """A function that says whose logs are rotated, when these agents are declared."""

    def ask(*agents: Agent, days: int | None = None) -> list[str]:
        given = {"agents": [each.to_plain() for each in agents], "ops_dir": str(tmp_path), "days": days}
        return [each.name for each in rotated(Call(given))]

    return ask


def test_in_an_adopted_home_logs_are_rotated_once_that_is_declared(names, tmp_path):
    adopted = agent("hers", home="/home/ada/.hermes")
    separated = Records(str(tmp_path), "apart")
    separated.prepare()
    separated.write_separated(Separated("/home/ada/.hermes", "ada", "/aside"))
    agents = [agent("default"), adopted, agent("apart"), agent("gone", state="absent")]
    assert names(*agents) == ["default"]
    assert names(*agents, days=14) == ["default", "hers", "apart"]


def test_the_logs_of_an_agent_that_left_the_list_are_rotated_until_it_is_declared_absent(names, tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "AGENTS", str(tmp_path / "published"))
    left, strange = agent("left"), replace(agent("strange"), user="no-such-user")
    for each in (left, strange):
        Records(str(tmp_path), each.name).write_agent(each)
    Records(str(tmp_path), "broken").prepare()
    Records(str(tmp_path), "broken").write_applied("gateway", {"name": "broken"})
    assert names(agent("default")) == ["default", "left"]
    assert names(agent("default"), left) == ["default", "left"]
    assert names(agent("default"), agent("left", state="absent")) == ["default"]
    Records(str(tmp_path), "left").write_agent(agent("left", state="absent"))
    assert names(agent("default")) == ["default"]
