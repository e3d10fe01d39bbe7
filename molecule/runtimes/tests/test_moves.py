# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's own agent becomes that of a user, and the host's again, with all that it knows."""

from __future__ import annotations

import json
import secrets

import pytest

testinfra_hosts = ["ansible://hermes"]

# A job that is not due while tests run.
JOB = {"name": "yearly", "schedule": "2099-01-01T00:00:00Z", "prompt": "say nothing"}


@pytest.fixture
def gina(user, controller):
    """A user without a runtime; afterwards the host's agent is at home again."""
    found = user("gina@example.org")
    yield found
    found.command("remove", "--purge")
    # Of a test that failed in between.
    controller.shell("rm -f /var/lib/hermes/ops/agents/default/moved.json")
    controller.converge()


def learn(controller, home, token):
    """Have an agent know *token* by heart, and in files of its own."""
    script = 'cd "$1"; mkdir -p skills/moved notes; for name in memories/MEMORY.md skills/moved/SKILL.md notes/own; do '
    script += 'echo "$2" >>$name; done; chown --recursive --reference . memories skills/moved notes'
    controller.shell(script, home, token)


def knows(controller, home, token):
    """Where *token* is in a home."""
    found = controller.shell('cd "$1"; grep --recursive --text --files-with-matches "$2" . || true', home, token)
    return {name.removeprefix("./").removesuffix("-wal") for name in found.splitlines() if "/logs/" not in name}


def test_there_and_back_nothing_is_lost(gina, agent, controller):
    own = agent()
    host_home, user_home = own.home, f"{gina.data}/.hermes"
    key = own.key
    first, second = secrets.token_hex(8), secrets.token_hex(8)
    assert own.reply(f"say {first}") == f"The model heard: say {first}"
    learn(controller, host_home, first)
    everywhere = {"state.db", "memories/MEMORY.md", "skills/moved/SKILL.md", "notes/own"}

    gina.command("move", "--from", "default")
    assert everywhere <= knows(controller, user_home, first)
    assert everywhere <= knows(controller, host_home, first)
    assert gina.reply("hello") == "The model heard: hello"
    assert not own.is_healthy()
    assert controller.shell(f"systemctl is-enabled {own.unit} || true").strip() == "disabled"

    # Nobody starts it where it was.
    assert "has moved to user-" in controller.shell("hermes-ops restart default 2>&1 || true")
    run = controller.run()
    assert run.rc != 0
    assert f"agent default: has moved to user-{gina.id}" in run.text
    assert not own.is_healthy()

    # What it learns there comes back.
    assert gina.reply(f"say {second}") == f"The model heard: say {second}"
    answer = gina.call("/api/jobs", JOB)
    assert answer.status == 200, answer
    learn(controller, user_home, second)
    gina.command("move", "--to", "default")
    for token in (first, second):
        assert everywhere <= knows(controller, host_home, token)
    assert answer.json["job"]["id"] in own.read("cron/jobs.json")
    assert "yearly" in controller.shell("hermes -p default cron list")
    assert own.reply("hello") == "The model heard: hello"
    assert own.key == key
    assert gina.call().status == 404
    assert "has moved to default" in controller.shell('hermes-ops runtime ensure -- "$1" 2>&1 || true', gina.name)
    controller.converge()
    assert own.reply("hello again") == "The model heard: hello again"


@pytest.mark.parametrize("seconds", [2, 5])
def test_a_move_that_was_killed_is_finished_by_the_next_call(gina, agent, controller, wait_until, seconds):
    own, token = agent(), secrets.token_hex(8)
    gina.command("ensure")
    learn(controller, own.home, token)
    move = "hermes-ops runtime move --from default --"
    controller.shell(f'timeout --signal=KILL {seconds} {move} "$1" || true', gina.name)
    left = json.loads(controller.shell("cat /var/lib/hermes/ops/agents/default/moved.json 2>/dev/null || echo null"))
    assert left is None or left["to"] == f"user-{gina.id}"
    gina.command("move", "--from", "default")
    assert "notes/own" in knows(controller, f"{gina.data}/.hermes", token)
    assert gina.answers()
    assert not own.is_healthy()
    gina.command("move", "--to", "default")
    wait_until(own.is_healthy, "the host's agent answers")
