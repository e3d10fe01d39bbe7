# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Searches the output of site.yml at -vvv --diff, and all files of the host, for every secret in use."""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

import pytest
from control import Controller

HOME = "/var/lib/hermes/agents/default/.hermes"
KEPT = "/var/lib/hermes/ops/agents/default/kept"
# The only files that may hold secrets, readable by root and the agent's user only.
PLACES = {f"{place}/{name}" for place in (HOME, KEPT) for name in (".env", "webhook_subscriptions.json")}
LOUD = ("-vvv", "--diff")
# Records every command line that is visible during the runs.
WATCH = """
import glob, time
seen = set()
while True:
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as stream:
                seen.add(stream.read())
        except OSError:
            pass
    with open("/run/command-lines", "wb") as stream:
        stream.write(b"\\n".join(sorted(seen)))
    time.sleep(0.05)
"""


def new_secret(kind: str) -> str:
    """A secret with characters that have to be escaped in several formats."""
    return f"{kind}-{secrets.token_hex(12)}$HOME'\"\\{secrets.token_hex(4)}"


@dataclass
class Story:
    """The secrets that were used, and the outputs of all runs.

    :param used: kind -> secret
    """

    used: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    command_lines: bytes = b""

    def new(self, kind: str) -> str:
        self.used[f"{kind} {len(self.used)}"] = value = new_secret(kind)
        return value

    def agents(self) -> list[dict[str, Any]]:
        """A declaration with a new secret everywhere."""
        return [
            {
                "name": "default",
                "config": {
                    "model": {
                        "provider": "custom",
                        "default": "stub-model",
                        "base_url": "http://127.0.0.1:18080/v1",
                        "api_key": "${MODEL_API_KEY}",
                    }
                },
                "secrets": {"MODEL_API_KEY": self.new("model"), "TELEGRAM_BOT_TOKEN": self.new("bot")},
                "webhooks": [
                    {"name": "declared", "secret": self.new("webhook"), "prompt": "{body}"},
                    {"name": "generated", "prompt": "{body}"},
                ],
                # The bot does not exist, so it cannot connect.
                "health": {"platforms": []},
            }
        ]


def forms(secret: str) -> set[str]:
    """The forms of a secret in a text: plain, escaped, encoded; and its unique middle part."""
    encoded = base64.b64encode(secret.encode()).decode()
    return {
        secret,
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        urllib.parse.quote(secret, safe=""),
        encoded.rstrip("="),
        # Only secrets of new_secret have such a middle part.
        *re.findall(r"-([0-9a-f]{24})\$", secret),
    }


@pytest.fixture
def story(host: Any) -> Story:
    """Every kind of run at full verbosity: first, changed, check mode, failed twice."""
    controller = Controller(host)
    story = Story()
    controller.write("/run/watch.py", WATCH)
    controller.shell("systemd-run --quiet --unit watch python3 /run/watch.py")
    env = {"ANSIBLE_INJECT_FACT_VARS": "false"}

    first = controller.run({"hermes_agents": story.agents()}, *LOUD, env=env)
    assert first.rc == 0, first.output
    agents = story.agents()
    changed = controller.run({"hermes_agents": agents}, *LOUD, env=env)
    assert changed.rc == 0, changed.output
    assert changed.changed
    predicted = controller.run({"hermes_agents": story.agents()}, "--check", *LOUD, env=env)
    assert predicted.rc == 0, predicted.output
    assert predicted.changed

    index = {
        "hermes_version": "0.18.2",
        "install_index_url": "http://127.0.0.1:9/simple",
        "install_index_username": "me",
        "install_index_password": story.new("index"),
    }
    refused = controller.run({"hermes_agents": agents, **index}, *LOUD, env=env)
    assert refused.rc != 0
    assert "cannot be reached" in refused.text

    subscriptions = controller.read(f"{HOME}/webhook_subscriptions.json")
    controller.write(f"{HOME}/webhook_subscriptions.json", subscriptions[:-3])
    failed = controller.run({"hermes_agents": story.agents()}, *LOUD, env=env)
    controller.write(f"{HOME}/webhook_subscriptions.json", subscriptions)
    assert failed.rc != 0
    assert "is not JSON" in failed.text

    story.outputs = {
        "first": first.output,
        "changed": changed.output,
        "predicted": predicted.output,
        "refused": refused.output,
        "failed": failed.output,
    }
    story.used["generated webhook"] = json.loads(subscriptions)["generated"]["secret"]
    (line,) = [line for line in controller.read(f"{HOME}/.env").splitlines() if line.startswith(b"API_SERVER_KEY=")]
    story.used["generated API key"] = line.decode().partition("=")[2]
    controller.shell("systemctl stop watch")
    story.command_lines = controller.read("/run/command-lines")
    return story


def found(story: Story, text: str) -> list[str]:
    """The secrets that are in *text*, shown with their surroundings, because they are made up."""
    hits = []
    for what, secret in story.used.items():
        for form in forms(secret):
            if form in text:
                at = text.index(form)
                hits.append(f"{what}: …{text[max(0, at - 200) : at + len(form) + 20]}…")
                break
    return hits


def search(host: Any, story: Story, user: str) -> set[str]:
    """The files in which *user* can find a secret."""
    patterns = "\n".join(sorted({form for secret in story.used.values() for form in forms(secret)}))
    tops = ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var", "/dev/shm")
    done = subprocess.run(
        [
            *("docker", "exec", "--interactive", "--user", user, host.backend.host),
            *("grep", "--recursive", "--files-with-matches", "--fixed-strings", "--devices=skip", "--file=-", *tops),
        ],
        input=patterns,
        capture_output=True,
        text=True,
        check=False,
    )
    return set(done.stdout.splitlines())


def test_secrets_are_where_they_belong_and_nowhere_else(host, story, agent):
    for name, output in story.outputs.items():
        assert len(output) > 10000, name
        assert not found(story, output), name

    assert b"gateway" in story.command_lines
    assert not found(story, story.command_lines.decode("utf-8", "replace"))

    with host.sudo():
        journal = host.check_output("journalctl --output verbose --no-pager --all")
    assert "hermes-gateway-default" in journal
    assert not found(story, journal)

    units = host.check_output("systemctl show %s", agent().unit) + host.check_output("systemctl cat %s", agent().unit)
    assert "MemoryMax" in units
    assert not found(story, units)

    # Root finds the secrets in their files, another user finds none.
    assert search(host, story, "root") == PLACES
    assert search(host, story, "ops") == set()
