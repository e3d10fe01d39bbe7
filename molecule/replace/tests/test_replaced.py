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
from tailnet import Tailnet

testinfra_hosts = ["ansible://replace-bookworm"]

ROUNDS = 12
# The host's name in the tailnet, and the operator's node in it.
NODE, TAILNET = "replace-bookworm", Tailnet("replace-operator")
# A converge after which no login to the tailnet is possible.
KEYLESS = {"tailscale_auth_key": ""}
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

    def __init__(self, host: Any, agent: Callable[..., Any], wait_until: Callable[..., Any]) -> None:
        self.controller = Controller(host)
        self.agent = agent()
        self.wait_until = wait_until
        self.model = "http://127.0.0.1:18080/control"
        self.webhook = f"http://{TAILNET.address(NODE)}:8644"

    def say(self, text: str) -> str:
        answer = self.agent.ask(text, key=KEY)
        assert answer.status == 200, answer
        return answer.json["choices"][0]["message"]["content"]

    def asked(self, text: str) -> list[dict[str, Any]]:
        """The requests with which the agent asked this host's model about *text*."""
        requests = json.loads(self.controller.shell(f"curl --silent {self.model}/requests"))
        return [each for each in requests if each["body"]["messages"][-1]["content"] == text]

    def tell_model(self, path: str, value: Any) -> None:
        self.controller.shell(
            'curl --silent --fail --request POST --data-binary "$2" "$1" >/dev/null',
            self.model + path,
            json.dumps(value),
        )

    def hears(self, topic: str) -> None:
        """The agent gets what the operator posts to it, with the secret and at the address of old."""
        url = f"{self.webhook}/webhooks/claude-context"
        self.wait_until(lambda: "accepted" in TAILNET.post(url, SECRET, {"body": topic}), "the webhook in the tailnet")
        self.wait_until(lambda: any(topic in reply for reply in self.agent.webhook_replies()), "the reply to it")

    def remembers(self, word: str) -> bool:
        """Whether a conversation with *word* is found."""
        return word in self.controller.shell(f"hermes-ops memory --agent default {word}")

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
        image = ["bookworm+0.19.0", "--docker=--device=/dev/net/tun", *([f"--disk={disk}"] if volume else [])]
        subprocess.run([sys.executable, BOX, "up", self.controller.box, *image], check=True, capture_output=True)
        prepared = self.controller.run(playbook=str(Path(__file__).resolve().parents[1] / "prepare.yml"))
        assert prepared.rc == 0, prepared.output

    def identity(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: self.agent.read(name) for name in IDENTITY}
        found["cron"] = [job["id"] for job in json.loads(self.agent.read("cron/jobs.json"))["jobs"]]
        found["owner"] = self.controller.shell(f"stat --format '%u %U' {HOME}")
        found["volume"] = self.controller.shell("findmnt --noheadings --output UUID /var/lib/hermes")
        found["nodes"] = TAILNET.nodes()
        return found

    def databases(self) -> list[str]:
        """Each database, and what SQLite says of it."""
        return self.controller.shell('python3 -c "$1" "$2"', _CHECK, HOME).splitlines()


@pytest.fixture
def replaceable(host: Any, agent: Callable[..., Any], wait_until: Callable[..., Any]) -> Host:
    return Host(host, agent, wait_until)


def test_twelve_hosts_one_agent(replaceable):
    machine = replaceable
    fact = "the operator's boat is called Albatros"
    machine.tell_model(
        "/script", [{"tool": "memory", "arguments": {"action": "add", "target": "memory", "content": fact}}]
    )
    machine.say("remember the name of my boat")
    assert fact in machine.agent.read("memories/MEMORY.md")
    machine.controller.shell("hermes cron create --deliver local '0 6 * * *' 'good morning'")
    # From here on, nodes need no key: this server asks for it at every registration, also of a known node.
    TAILNET.administer("key?key=")
    before = machine.identity()
    assert len(before["cron"]) == 1
    assert [node["tags"] for node in before["nodes"].values() if node["name"] == NODE] == [["tag:hermes"]]
    for number in range(ROUNDS):
        machine.say(f"this is round number {number}, call it zebra{number}")
        machine.destroy_in_the_midst_of_a_reply()
        machine.make_anew()
        machine.controller.converge(KEYLESS)
        assert machine.identity() == before
        said = machine.databases()
        assert said
        assert all(line.endswith(" ok") for line in said), said
        machine.hears(f"topic{number}")
        # The agent answers, with the secret of the store and with what it was told before.
        assert machine.say("well?") == "The model heard: well?"
        asked = machine.asked("well?")
        assert fact in json.dumps(asked[-1]["body"])
        assert asked[-1]["authorization"] == "Bearer the-model-s-key"
        assert machine.remembers(f"zebra{number}")
        found = json.loads(machine.controller.shell("hermes-ops check --json || true"))["findings"]
        # The questions that were cut off are turns without an answer.
        assert not [each for each in found if each["failure"] and each["cause"] != "provider_errors"], found
    assert all(machine.remembers(f"zebra{number}") for number in range(ROUNDS))
    assert machine.controller.converge(KEYLESS).changed == 0


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
    controller.converge(KEYLESS)
    assert machine.say("well?") == "The model heard: well?"
