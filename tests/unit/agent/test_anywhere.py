# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home is converged by any user, on a machine with neither systemd nor a user database, as in a container."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

# Converges an agent from a description in JSON, as the user that it runs as. Then asks for the health of that agent.
PROGRAM = '''
import json, os, sys
sys.path.insert(0, sys.argv[1])
from hermes_ops.agent import converge
from hermes_ops.description import declaration
from hermes_ops.description.agent import Agent, Placement, Sandbox, Server
from hermes_ops.host.records import Records
from hermes_ops.supervise import health
from hermes_ops.supervise.problems import Problem
from hermes_ops.supervise.supervisor import State
from hermes_ops.system.errors import OpsError
from hermes_ops.system.files import Account

top, check = sys.argv[2], sys.argv[3] == "check"
account = Account.current()
found = {"uid": account.uid, "users": os.path.exists("/etc/passwd"), "systemd": os.path.exists("/run/systemd")}


class Container:
    """A supervisor whose gateway has ended."""

    def account_of(self, agent):
        return account

    def state(self, agents):
        problem = Problem("not_running", "the container has ended", "start it", True)
        return {agent.name: State(False, False, True, True, 0, 0.0, 0, 0, problem, "", "") for agent in agents}

    def log(self, agent, *, before):
        return ["the last line"]


try:
    description = declaration.describe(json.load(sys.stdin), "the description")
    placement = Placement(
        name=description.name,
        user=account.name,
        home=f"{top}/data/.hermes",
        directory=f"{top}/data",
        unit="",
        sandbox=Sandbox(False, (), ()),
        config_scope="home",
        managed_dir="",
        api=Server(True, "127.0.0.1", 8642),
        webhook=Server(True, "127.0.0.1", 8644),
    )
    records = Records(f"{top}/data/ops", description.name)
    outcome = converge.converge(description, placement, account, records, check=check)
    agent = Agent.of(description, placement, state="present", source=None)
    (seen,) = health.wait([agent], Container())
    found.update(changed=outcome.changed, restart=outcome.restart, causes=seen.causes, log=seen.log)
except OpsError as error:
    found["error"] = [error.where, error.what, error.fix]
print(json.dumps(found))
'''
DECLARED: dict[str, Any] = {
    "name": "ada",
    "config": {"model": {"default": "a/b"}},
    "settings": {"MODE": "quiet"},
    "secrets": {"MY_TOKEN": "top-secret"},
    "webhooks": [{"name": "hook", "prompt": "p"}],
    "soul": "Be brief.",
    "memory": "She likes tea.",
    "drain": 7,
    "health": {"timeout": 0},
}
Converge = Callable[..., dict[str, Any]]


@pytest.fixture
def top(public: Path, contained: Any) -> Path:
    """A directory of that user, in one that it may only pass through."""
    path = public / "volume"
    path.mkdir()
    contained.give(path)
    public.chmod(0o711)
    return path


@pytest.fixture
def converge(top: Path, contained: Any) -> Converge:
    """A function that converges the home below *top*, and returns what PROGRAM found."""

    def run(declared: Any, *, check: bool = False) -> dict[str, Any]:
        argv = [sys.executable, "-B", "-c", PROGRAM, contained.kit, top, "check" if check else "apply"]
        done = contained.run(argv, given=json.dumps(declared))
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        if os.geteuid() == 0:
            assert (found["uid"], found["users"], found["systemd"]) == (contained.uid, False, False)
        return found

    return run


def snapshot(top: Path) -> dict[str, Any]:
    """Everything below *top*, with its owner, mode, time and content."""
    found: dict[str, Any] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(path)] = (status.st_uid, status.st_mode, status.st_mtime_ns, content)
    return found


def test_a_container_converges_its_own_home(top, converge):
    checked = converge(DECLARED, check=True)
    assert checked["changed"]
    assert snapshot(top) == {}

    first = converge(DECLARED)
    assert first["changed"]
    assert first["restart"] == checked["restart"]
    home = top / "data/.hermes"
    config = yaml.safe_load((home / "config.yaml").read_text())
    assert config["model"] == {"default": "a/b"}
    assert config["agent"] == {"restart_drain_timeout": 7}
    assert config["platforms"]["webhook"]["extra"] == {"host": "127.0.0.1", "port": 8644}
    env = (home / ".env").read_text()
    assert "MODE=quiet\n" in env
    assert "MY_TOKEN=top-secret\n" in env
    assert "API_SERVER_KEY=" in env
    assert "hook" in json.loads((home / "webhook_subscriptions.json").read_text())
    assert (home / "SOUL.md").read_text().strip() == "Be brief."
    assert (home / "memories/MEMORY.md").read_text().strip() == "She likes tea."
    before = snapshot(top)
    assert all(not mode & 0o077 for path, (_uid, mode, _time, _content) in before.items() if path.startswith(str(home)))

    for check in (True, False):
        again = converge(DECLARED, check=check)
        assert (again["changed"], again["restart"]) == (False, [])
        assert snapshot(top) == before
    # Its health is what its supervisor says.
    assert again["causes"] == ["not_running"]
    assert again["log"] == ["the last line"]

    # What the agent wrote stays, and what is declared comes back.
    (home / "memories/MEMORY.md").write_text("She prefers coffee.")
    (home / "config.yaml").write_text("theirs: 1\n")
    assert converge(DECLARED)["changed"]
    assert (home / "memories/MEMORY.md").read_text() == "She prefers coffee."
    config = yaml.safe_load((home / "config.yaml").read_text())
    assert (config["theirs"], config["model"]) == (1, {"default": "a/b"})


@pytest.mark.parametrize(
    ("wrong", "where", "what"),
    [
        ([], "the description", "is not a mapping"),
        ({**DECLARED, "sole": "x"}, "the description", "unknown key sole"),
        ({**DECLARED, "drain": "7"}, "the description: drain", "must be a whole number"),
        ({**DECLARED, "settings": {"A_TOKEN": "x"}}, "the description: settings.A_TOKEN", "is a secret"),
        ({**DECLARED, "webhooks": ["hook"]}, "the description: webhooks[1]", "must be a mapping with a name"),
        ({**DECLARED, "health": {"webhook": "other"}}, "the description: health.webhook", "not declared"),
    ],
)
def test_a_wrong_description_is_one_error_and_touches_nothing(wrong, where, what, top, converge):
    found = converge(wrong)
    assert found["error"][0] == where
    assert what in found["error"][1]
    assert found["error"][2]
    assert snapshot(top) == {}


def test_a_home_that_cannot_be_converged_is_one_error_and_stays(top, converge):
    converge(DECLARED)
    config = top / "data/.hermes/config.yaml"
    config.write_text("- a\n")
    before = snapshot(top)
    for check in (True, False):
        found = converge({**DECLARED, "soul": "Be verbose."}, check=check)
        assert found["error"][0] == f"{config}:1"
        assert snapshot(top) == before
