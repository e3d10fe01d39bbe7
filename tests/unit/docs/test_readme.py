# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of README's "Your own box in five minutes" run as they stand, for a user who has nothing yet."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PASSWORD = "the vault's password"


@pytest.fixture(scope="module")
def section() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split("## Your own box in five minutes\n")[1].split("\n## ")[0]


class User:
    """A user with an empty home and the programs of this environment.

    :ivar directory: the present directory of the user's shell
    """

    def __init__(self, home: Path) -> None:
        self.home, self.directory = home, ROOT
        self.editor = home / "editor"
        known = ("LANG", "LC_ALL", "PATH", "SSL_CERT_FILE")
        self.environment = {
            **{name: os.environ[name] for name in known if name in os.environ},
            "HOME": str(home),
            "EDITOR": str(self.editor),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }

    def types(self, command: str) -> str:
        """Run *command* in the user's shell at a terminal, and type the password when it asks for one.

        It writes to the user's home what it would write to /tmp.

        :returns: what it said
        """
        command = command.replace("/tmp", f"{self.home}/tmp")
        pid, terminal = pty.fork()
        if not pid:
            os.chdir(self.directory)
            os.execve("/bin/bash", ["bash", "-c", f'{command} && echo "now in $PWD"'], self.environment)
        said, asked = "", 0
        while True:
            try:
                said += os.read(terminal, 65536).decode(errors="replace")
            except OSError:
                # How a terminal ends on Linux.
                break
            while asked < said.count("assword:"):
                os.write(terminal, f"{PASSWORD}\n".encode())
                asked += 1
        os.close(terminal)
        _pid, status = os.waitpid(pid, 0)
        assert status == 0, said
        self.directory = Path(re.findall(r"now in (.+?)\r?\n", said)[-1])
        return said

    def asks(self, *command: str) -> str:
        return subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, check=True
        ).stdout


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_commands_run_as_they_stand_and_the_declaration_arrives(section, tmp_path):
    user = User(tmp_path / "user")
    (user.home / "tmp").mkdir(parents=True)
    commands = [line[2:] for block in re.findall(r"```console\n(.*?)```", section, re.S) for line in block.splitlines()]
    inventory, variables, secrets = re.findall(r"```yaml\n(.*?)```", section, re.S)
    install = commands[:3]
    create, play = commands[3:5]
    for command in install:
        user.types(command)
    assert user.directory == user.home / "agents"
    (user.directory / "hosts.yml").write_text(inventory)
    (user.directory / "group_vars/hermes/main.yml").write_text(variables)
    (user.home / "secrets.yml").write_text(secrets)
    user.editor.write_text(f'#!/bin/sh\ncat {user.home}/secrets.yml >"$1"\n')
    user.editor.chmod(0o755)
    user.types(create)
    assert "sk-or" not in (user.directory / "group_vars/hermes/vault.yml").read_text()
    # The host of the example does not exist: all but the connection to it.
    tasks = user.types(f"{play} --list-tasks")
    assert "Every agent is healthy" in tasks
    (user.home / "password").write_text(PASSWORD)
    words = ("--inventory", "hosts.yml", "--vault-password-file", str(user.home / "password"))
    found = json.loads(user.asks("ansible-inventory", *words, "--host", "agent.example.org"))
    assert found["hermes_agents"][0]["config"]["model"]["provider"] == "openrouter"
    assert found["vault_openrouter_api_key"].startswith("sk-or-")
