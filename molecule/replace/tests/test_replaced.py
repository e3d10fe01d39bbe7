# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host is destroyed in the midst of a reply, twelve times in a row; a fresh one with its volume is the same agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from control import Controller
from inside import inside

ROUNDS = 12
BOX = Path(__file__).resolve().parents[3] / "tests/hosts/box.py"
HOME = "/var/lib/hermes/agents/default/.hermes"
KEY = "the-api-key-of-the-tests-0123456789"
SECRET = "the-secret-of-the-tests"
# What an agent is besides its sessions. The gateway writes the times of the cron jobs.
IDENTITY = ("SOUL.md", "memories/MEMORY.md", "webhook_subscriptions.json")
_CHECK = """
import pathlib, sqlite3, sys
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.db")):
    (word,) = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()
    print(path.name, word)
"""


class Host:
    """A host that can be destroyed, and made anew around its volume."""

    def __init__(self, host: Any, agent: Callable[..., Any]) -> None:
        self.controller = Controller(host)
        self.agent = agent()
        self.model = "http://127.0.0.1:18080/control"

    def say(self, text: str) -> str:
        answer = self.agent.ask(text, key=KEY)
        assert answer.status == 200, answer
        return answer.json["choices"][0]["message"]["content"]

    def tell_model(self, path: str, value: Any) -> None:
        self.controller.shell(
            'curl --silent --fail --request POST --data-binary "$2" "$1" >/dev/null',
            self.model + path,
            json.dumps(value),
        )

    def destroy_in_the_midst_of_a_reply(self) -> None:
        self.tell_model("/faults", [{"hold": True}])
        body = json.dumps({"model": "hermes-agent", "messages": [{"role": "user", "content": "a long question"}]})
        asked = subprocess.Popen(
            [
                *(*inside(self.controller.box), "curl", "--silent", "--header", f"Authorization: Bearer {KEY}"),
                *("--header", "Content-Type: application/json", "--data-binary", body),
                f"{self.agent.url}/v1/chat/completions",
            ],
            stdout=subprocess.DEVNULL,
        )
        self.controller.shell(
            f'until curl --silent {self.model}/requests | grep --quiet "a long question"; do sleep 0.1; done'
        )
        self.destroy()
        assert asked.wait() != 0

    def destroy(self) -> None:
        subprocess.run(["docker", "rm", "--force", "--volumes", self.controller.box], check=True, capture_output=True)

    def make_anew(self, *, volume: bool = True) -> None:
        disk = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "volume"
        image = ["bookworm+0.19.0", *([f"--disk={disk}"] if volume else [])]
        subprocess.run([sys.executable, BOX, "up", self.controller.box, *image], check=True, capture_output=True)
        prepared = self.controller.run(playbook=str(Path(__file__).resolve().parents[1] / "prepare.yml"))
        assert prepared.rc == 0, prepared.output

    def identity(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: self.agent.read(name) for name in IDENTITY}
        found["cron"] = [job["id"] for job in json.loads(self.agent.read("cron/jobs.json"))["jobs"]]
        found["owner"] = self.controller.shell(f"stat --format '%u %U' {HOME}")
        found["volume"] = self.controller.shell("findmnt --noheadings --output UUID /var/lib/hermes")
        return found

    def databases(self) -> list[str]:
        """Each database, and what SQLite says of it."""
        return self.controller.shell('python3 -c "$1" "$2"', _CHECK, HOME).splitlines()


@pytest.fixture
def replaceable(host: Any, agent: Callable[..., Any]) -> Host:
    return Host(host, agent)


def test_twelve_hosts_one_agent(replaceable, wait_until):
    machine = replaceable
    fact = "the operator's boat is called Albatros"
    machine.tell_model(
        "/script", [{"tool": "memory", "arguments": {"action": "add", "target": "memory", "content": fact}}]
    )
    machine.say("remember the name of my boat")
    assert fact in machine.agent.read("memories/MEMORY.md")
    machine.controller.shell("hermes cron create --deliver local '0 6 * * *' 'good morning'")
    before = machine.identity()
    assert len(before["cron"]) == 1
    for number in range(ROUNDS):
        machine.say(f"this is round number {number}, call it zebra{number}")
        machine.destroy_in_the_midst_of_a_reply()
        machine.make_anew()
        machine.controller.converge()
        assert machine.identity() == before
        said = machine.databases()
        assert said
        assert all(line.endswith(" ok") for line in said), said
        # The agent answers, with the secret of the store and with what it was told before.
        assert machine.say("well?") == "The model heard: well?"
        asked = json.loads(machine.controller.shell(f"curl --silent {machine.model}/requests"))
        assert fact in json.dumps(asked[-1]["body"])
        assert asked[-1]["authorization"] == "Bearer the-model-s-key"
        for earlier in range(number + 1):
            assert f"zebra{earlier}" in machine.controller.shell(f"hermes-ops memory --agent default zebra{earlier}")
        found = json.loads(machine.controller.shell("hermes-ops check --json || true"))["findings"]
        # The questions that were cut off are turns without an answer.
        assert not [each for each in found if each["failure"] and each["cause"] != "provider_errors"], found
    # The operator's webhook works where it was.
    assert machine.agent.post("claude-context", SECRET, {"topic": "back"}).status in (200, 202)
    wait_until(lambda: any("back" in reply for reply in machine.agent.webhook_replies()), "the reply to the webhook")
    assert machine.controller.converge().changed == 0


def test_without_its_volume_no_agent_starts(replaceable):
    """A host whose volume is not there is refused before anything is changed on it."""
    machine, controller = replaceable, replaceable.controller
    machine.destroy()
    machine.make_anew(volume=False)
    run = controller.run()
    assert run.rc != 0
    assert "is not there after 5 s. Fix: attach it" in run.text
    assert not controller.shell("ls -A /var/lib/hermes 2>/dev/null || true")
    assert not controller.shell("systemctl list-units --all 'hermes-gateway@*' --no-legend")
    machine.destroy()
    machine.make_anew()
    controller.converge()
    assert machine.say("well?") == "The model heard: well?"
