# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What docs/once.md says, done with its own commands and declarations: rename an agent, leave, come back, uninstall.

Runs after test_secrets.py, and leaves a host without anything of ours.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from control import controller

__all__ = ["controller"]

PAGE = (Path(__file__).resolve().parents[3] / "docs/once.md").read_text(encoding="utf-8")
AGENTS = "/var/lib/hermes/agents"
BRIDGE = {
    "name": "bridge",
    "config": {
        "model": {
            "provider": "custom",
            "default": "stub-model",
            "base_url": "http://127.0.0.1:18080/v1",
            "api_key": "${MODEL_API_KEY}",
        }
    },
    "secrets": {"MODEL_API_KEY": "the-model-s-key"},
    "api": {"port": 8643},
}
HARBOUR = {**BRIDGE, "name": "harbour"}
# The agent of test_secrets.py.
NO_DEFAULT = {"name": "default", "state": "absent", "purge": True}
# All that leaves files on a host, and needs no package.
FEATURES = {
    "hermes_version": ">=0.19,<0.20",
    "heartbeat_enabled": True,
    "heartbeat_ping_url": "http://127.0.0.1:9/",
    "backup_rehearsal_enabled": True,
    "auto_update_enabled": True,
    "dashboard_enabled": True,
}


def blocks(section: str, kind: str) -> list[str]:
    """The examples of *kind* in a section of the page, in order."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    found = re.findall(rf"^( *)```{kind}\n(.*?)^ *```", text, re.M | re.S)
    return [textwrap.dedent(example) for _indent, example in found]


def commands(section: str, number: int) -> str:
    """The commands of an example, as a script that ends at the first error."""
    return blocks(section, "console")[number].replace("$ ", "")


@pytest.fixture
def harbour(agent: Any) -> Any:
    return agent("harbour", port=8643)


def test_a_renamed_agent_keeps_what_it_knows_and_made(controller, agent, harbour):
    controller.converge({"hermes_agents": [NO_DEFAULT, BRIDGE]})
    bridge = agent("bridge", port=8643)
    assert bridge.reply("the otter lives in lake nine") == "The model heard: the otter lives in lake nine"
    controller.shell(f"runuser -u hermes-bridge -- sh -c 'echo mine >{AGENTS}/bridge/notes.txt'")

    said = controller.shell(commands("Rename an agent", 0))
    archive = re.search(r"agent bridge: (\S+\.tar\.gz)", said)[1]
    (example,) = blocks("Rename an agent", "yaml")
    old, new = yaml.safe_load(example)["hermes_agents"]
    controller.converge({"hermes_agents": [old, {**HARBOUR, **new}]})
    controller.shell(commands("Rename an agent", 1).replace("ARCHIVE", archive))

    assert "the otter lives in lake nine" in controller.shell("hermes-ops memory --agent harbour otter")
    assert harbour.reply("who are you?") == "The model heard: who are you?"
    assert controller.shell(f"stat --format %U {AGENTS}/harbour/notes.txt") == "hermes-harbour\n"
    assert controller.shell("systemctl is-enabled hermes-gateway@bridge.service", check=False) == "disabled\n"
    assert controller.shell(f"test -f {AGENTS}/bridge/.hermes/state.db && echo kept") == "kept\n"


def test_who_leaves_keeps_hermes_and_may_come_back(controller, harbour, wait_until):
    section = "Leave the collection, and keep Hermes"
    here = {"hermes_agents": [{"name": "bridge", "state": "absent"}, HARBOUR]}
    controller.converge({**here, **yaml.safe_load(blocks(section, "yaml")[0])})
    controller.shell(commands(section, 0))
    left = controller.shell("ls -d /usr/local/bin/hermes* /usr/local/lib/hermes* /etc/hermes* || true")
    assert left == ""
    controller.shell(f"systemctl restart {harbour.unit}")
    wait_until(harbour.is_healthy, "the gateway without us")
    assert harbour.reply("alone?") == "The model heard: alone?"
    assert "No scheduled jobs" in controller.shell(commands(section, 1).replace("bridge", "harbour"))
    # Others may be in systemd's list without a file, because the gateway's unit names them.
    alive = "systemctl list-units --state=active,activating,failed --plain --no-legend 'hermes-*'"
    units = controller.shell(alive).splitlines()
    assert [unit.split()[0] for unit in units] == [harbour.unit]

    controller.converge({**FEATURES, **here})
    for words in ("lake nine", "alone"):
        assert words in controller.shell('hermes-ops memory --agent harbour "$1"', words)
    controller.shell("hermes-ops backup")


def test_an_uninstall_leaves_nothing_of_ours(controller):
    # It fails a minute later, because nobody answers this ping; a failed unit is listed even without its file.
    controller.shell("systemctl start --no-block hermes-heartbeat.service")
    declared = yaml.safe_load(blocks("Uninstall", "yaml")[0])
    controller.converge(declared)
    # The first commands are for a node of a tailnet, which this host is not.
    controller.shell(commands("Uninstall", 1))

    # Except for the releases of the box's image.
    ours = "find / -xdev -path /proc -prune -o -iname '*hermes*' -not -path '/usr/share/hermes-test-releases*' -print"
    assert controller.shell(ours) == ""
    # Programs that change users keep the former file as passwd-.
    assert controller.shell("grep -rli hermes /etc --exclude='*-' || true") == ""
    known = "systemctl list-units --all --plain --no-legend 'hermes*'; systemctl list-unit-files --no-legend 'hermes*'"
    assert controller.shell(known, check=False) == ""
    assert controller.shell("getent passwd | grep -i hermes || true") == ""
