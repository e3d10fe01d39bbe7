# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of README's "Your own box in five minutes" run as they stand, for a user who has nothing yet."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PASSWORD = "the vault's password"


@pytest.fixture(scope="module")
def section() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split("## Your own box in five minutes\n")[1].split("\n## ")[0]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_commands_run_as_they_stand_and_the_declaration_arrives(section, user):
    commands = [line[2:] for block in re.findall(r"```console\n(.*?)```", section, re.S) for line in block.splitlines()]
    inventory, variables, secrets = re.findall(r"```yaml\n(.*?)```", section, re.S)
    install = commands[:3]
    create, play = commands[3:5]
    user.directory = ROOT
    for command in install:
        user.types(command)
    assert user.directory == user.home / "agents"
    (user.directory / "hosts.yml").write_text(inventory)
    (user.directory / "group_vars/hermes/main.yml").write_text(variables)
    (user.home / "secrets.yml").write_text(secrets)
    editor = Path(user.environment["EDITOR"])
    editor.write_text(f'#!/bin/sh\ncat {user.home}/secrets.yml >"$1"\n')
    editor.chmod(0o755)
    user.types(create, ("New Vault password", PASSWORD), ("Confirm New Vault password", PASSWORD))
    assert "sk-or" not in (user.directory / "group_vars/hermes/vault.yml").read_text()
    # The host of the example does not exist: all but the connection to it.
    tasks = user.types(f"{play} --list-tasks", ("Vault password", PASSWORD))
    assert "Every agent is healthy" in tasks
    (user.home / "password").write_text(PASSWORD)
    words = ("--inventory", "hosts.yml", "--vault-password-file", str(user.home / "password"))
    found = json.loads(user.asks("ansible-inventory", *words, "--host", "agent.example.org"))
    assert found["hermes_agents"][0]["config"]["model"]["provider"] == "openrouter"
    assert found["vault_openrouter_api_key"].startswith("sk-or-")
