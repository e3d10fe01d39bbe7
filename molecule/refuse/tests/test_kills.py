# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A converge killed at any point leaves each file old or new, never in between; the next run continues from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

HOME = "/var/lib/hermes/agents/default/.hermes"
OPS = "/var/lib/hermes/ops/agents/default"
# A change in every part of an agent.
CHANGED = {
    "name": "default",
    "config": {
        "model": {
            "provider": "custom",
            "default": "stub-model",
            "base_url": "http://127.0.0.1:18080/v1",
            "api_key": "${MODEL_API_KEY}",
        },
        "agent": {"max_turns": 42},
    },
    "settings": {"A_SETTING_OF_THE_TESTS": "on"},
    "secrets": {"MODEL_API_KEY": "the-model-s-key"},
    "limits": {"memory": "2000M"},
    "webhooks": [{"name": "claude-context", "secret": "the-secret-of-the-tests", "prompt": "changed"}],
}


@pytest.fixture
def killed(controller: Any, agent: Any, killer: Any, wait_until: Callable[..., Any]) -> Callable[..., None]:
    """A function that runs site.yml and kills it at the first *event* with *words* in its arguments."""

    def run(event: str, words: str, variables: dict[str, Any]) -> None:
        killer.order(event, words)
        run = controller.run(variables)
        assert run.rc != 0
        killer.obeyed(run.output)
        wait_until(agent().is_healthy, "the gateway, which may have been restarted at last")
        assert agent().reply("well?") == "The model heard: well?"

    return run


# The actions of the run, in order, before which it is killed. Every write is a rename.
POINTS = {
    "remember that config.yaml asks for a restart": ("os.rename", f"'{OPS}/restart.json'"),
    "write config.yaml": ("os.rename", f"'{HOME}/config.yaml'"),
    "write .env": ("os.rename", f"'{HOME}/.env'"),
    "write the webhooks": ("os.rename", f"'{HOME}/webhook_subscriptions.json'"),
    "remember what is in config.yaml": ("os.rename", f"'{OPS}/applied/config.json'"),
    "remember what is in .env": ("os.rename", f"'{OPS}/applied/env.json'"),
    "write the unit": ("os.rename", "hermes-gateway@default.service.d/agent.conf'"),
    "tell systemd": ("subprocess.Popen", "'daemon-reload'"),
    "restart the gateway": ("subprocess.Popen", "'restart'"),
    "forget why it was restarted": ("os.remove", f"'{OPS}/restart.json'"),
}


def test_killed_at_every_point(controller, agent, killed):
    files = ("config.yaml", ".env", "webhook_subscriptions.json")
    old = {name: agent().read(name) for name in files}
    pid = agent().pid
    seen = {name: [] for name in files}
    for point in POINTS:
        killed(*POINTS[point], {"hermes_agents": [CHANGED]})
        for name in files:
            seen[name].append(agent().read(name))
        assert agent().pid == pid or point == "forget why it was restarted"

    controller.converge({"hermes_agents": [CHANGED]})
    new = {name: agent().read(name) for name in files}
    for name in files:
        # A file is old until it is written, and new from then on.
        assert set(seen[name]) == {old[name], new[name]}
        assert seen[name] == sorted(seen[name], key=[old[name], new[name]].index)
    assert yaml.safe_load(new["config.yaml"])["agent"]["max_turns"] == 42
    assert "A_SETTING_OF_THE_TESTS=on" in new[".env"]
    # The gateway runs with the change.
    assert agent().pid != pid
    limit = controller.shell(f"systemctl show --property MemoryMax --value {agent().unit}").strip()
    assert int(limit) == 2000 * 1024**2
    assert agent().reply("well?") == "The model heard: well?"
    # Temporary files of killed runs are gone: they may have held secrets.
    assert not controller.shell("find /var/lib/hermes /etc/systemd -name '.*.hermes-ops'")
    assert controller.converge({"hermes_agents": [CHANGED]}).changed == 0


def test_killed_while_a_release_is_built(controller, agent, killed):
    new = {"hermes_version": "0.18.2", "hermes_agents": [CHANGED]}
    pid, current = agent().pid, controller.shell("readlink /opt/hermes/current")
    for event, words in (
        ("subprocess.Popen", "'pip', 'install'"),
        ("os.rename", ".partial', '/opt/hermes/releases/"),
        ("os.rename", "'/opt/hermes/.current', '/opt/hermes/current'"),
    ):
        killed(event, words, new)
        assert agent().pid == pid
        assert controller.shell("readlink /opt/hermes/current") == current
    controller.converge(new)
    assert agent().pid != pid
    assert "0.18.2" in controller.shell("readlink /opt/hermes/current")
    releases = controller.shell("ls -A /opt/hermes/releases").split()
    assert len(releases) == 2
    assert not [name for name in releases if name.endswith((".partial", ".work", ".removed"))]
    assert agent().reply("well?") == "The model heard: well?"


def test_the_next_good_run_puts_all_back(controller, agent):
    controller.converge()
    assert controller.converge().changed == 0
    assert "max_turns" not in agent().read("config.yaml")
    assert "A_SETTING_OF_THE_TESTS" not in agent().read(".env")
    assert "0.19.0" in controller.shell("readlink /opt/hermes/current")
