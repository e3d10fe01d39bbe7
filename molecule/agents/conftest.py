# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of this scenario: a host's declaration, its agents, and a way to converge it again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
# For each host: its declaration, which lasts for all of its tests.
DECLARED: dict[str, dict[str, Any]] = {}


@pytest.fixture
def declared(host):
    """The declaration of each agent; tests change it and converge."""
    name = host.backend.host
    if name not in DECLARED:
        DECLARED[name] = {each["name"]: each for each in host.ansible.get_variables()["hermes_agents"]}
    return DECLARED[name]


@pytest.fixture
def agents(agent, declared):
    """All agents of the host, by name."""
    found = {}
    for name, described in declared.items():
        ports = [described.get(server, {}).get("port", port) for server, port in (("api", 8642), ("webhook", 8644))]
        found[name] = agent(name, *ports)
        found[name].user = described.get("user", found[name].user)
    return found


@pytest.fixture
def playbook(host, declared, tmp_path):
    """A function that returns the command which converges this host to its current declaration."""

    def command(**variables):
        file = tmp_path / "declared.json"
        file.write_text(json.dumps({"hermes_agents": list(declared.values()), **variables}))
        options = ["--inventory", EPHEMERAL / "inventory", "--limit", host.backend.host, "--extra-vars", f"@{file}"]
        return ["ansible-playbook", *options, "alwayson.hermes.site"]

    return command


@pytest.fixture
def converge(playbook):
    """A function that converges this host to its current declaration, and returns the output."""

    def run(**variables):
        done = subprocess.run(playbook(**variables), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def restarted(agents):
    """A function that returns the agents whose process has changed since the start of the test."""
    before = {name: agent.pid for name, agent in agents.items()}
    assert all(before.values()), before
    return lambda: {name for name, agent in agents.items() if agent.pid != before[name]}
