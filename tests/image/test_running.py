# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents that run in the image, each from a description and secrets that a platform mounts."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from containers import KEY, Container, docker, until

HOME = "/opt/data/.hermes"
ANSWER = "The model heard: hello"
DECLARED: dict[str, Any] = {
    "settings": {"MODE": "quiet"},
    "webhooks": [{"name": "hook", "prompt": "p"}],
    "soul": "Be brief.",
    "memory": "She likes tea.",
}
# What converging is about, with its owner, mode, time and content.
SNAPSHOT = """
import json, os
found = {}
for name in ("config.yaml", ".env", "SOUL.md", "memories/MEMORY.md", "webhook_subscriptions.json"):
    with open(os.path.join("/opt/data/.hermes", name)) as stream:
        status = os.fstat(stream.fileno())
        found[name] = [status.st_uid, status.st_mode & 0o777, status.st_mtime_ns, stream.read()]
print(json.dumps(found))
"""


def snapshot(agent: Container) -> dict[str, Any]:
    return json.loads(agent.execute("python3", "-c", SNAPSHOT))


@pytest.mark.parametrize(
    "user",
    [
        pytest.param("", id="as the image says"),
        # As OpenShift does it: an id of a range, and the group 0.
        pytest.param("54321:0", id="in group 0"),
        pytest.param("700001:700001", id="without any name"),
    ],
)
def test_any_user_runs_it_without_any_right(agent, user):
    agent.user = user
    if user == "700001:700001":
        agent.own()
    agent.start()
    assert agent.reply("hello") == ANSWER
    status = dict(re.findall(r"^(\w+):\t(.*)$", agent.execute("cat", "/proc/1/status"), re.MULTILINE))
    uid, gid = (user or "10000:10000").split(":")
    assert (status["Uid"].split(), status["Gid"].split()) == ([uid] * 4, [gid] * 4)
    assert (int(status["CapPrm"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    # The init and the gateway: nothing of ours stays.
    assert len(docker("top", agent.name).stdout.splitlines()[1:]) == 2
    assert agent.stop() == 0


def test_a_start_compiles_nothing(agent):
    agent.start(PYTHONVERBOSE="1")
    assert agent.reply("hello") == ANSWER
    log = agent.log()
    assert re.search(r"^# code object from '/opt/hermes/\S+\.pyc'$", log, re.MULTILINE)
    assert re.findall(r"^# code object from (/\S+\.py)$", log, re.MULTILINE) == []


def test_a_later_start_adds_what_is_missing_and_changes_nothing_else(agent):
    agent.declare(**DECLARED)
    agent.start()
    before = snapshot(agent)
    assert all((uid, mode) == (10000, 0o600) for uid, mode, _time, _content in before.values())
    assert agent.stop() == 0

    agent.start()
    assert snapshot(agent) == before
    agent.execute("sh", "-c", f"cd {HOME} && rm SOUL.md && echo Coffee. >memories/MEMORY.md")
    assert agent.stop() == 0

    agent.start()
    after = snapshot(agent)
    assert after["SOUL.md"][3] == before["SOUL.md"][3]
    assert after["memories/MEMORY.md"][3] == "Coffee.\n"
    for name in ("SOUL.md", "memories/MEMORY.md"):
        del before[name], after[name]
    assert after == before


def test_secrets_are_handed_to_the_gateway_and_written_nowhere(agent):
    agent.hand_in("FILE_TOKEN", "first-4711")
    agent.start(ENVIRONMENT_TOKEN="second-4711")
    # The key with which the agent lets in is one, too.
    assert agent.reply("hello") == ANSWER
    pid = agent.execute("sh", "-c", "grep -lz '^gateway' /proc/[0-9]*/cmdline | tail -n 1 | cut -d/ -f3").strip()
    variables = agent.execute("cat", f"/proc/{pid}/environ").split("\0")
    assert {"FILE_TOKEN=first-4711", "ENVIRONMENT_TOKEN=second-4711", f"API_SERVER_KEY={KEY}"} <= set(variables)
    found = ("grep", "--recursive", "--files-with-matches", "--extended-regexp", f"first-4711|second-4711|{KEY}")
    assert agent.execute(*found, "/opt/data", "/tmp", check=False) == ""
    assert not re.search(rf"4711|{KEY}", agent.log())


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_a_signal_is_a_clean_stop(agent, signal):
    agent.start()
    docker("kill", f"--signal={signal}", agent.name)
    assert docker("wait", agent.name).stdout == "0\n"
    assert agent.state()["gateway_state"] == "stopped"


def test_a_reply_in_progress_is_finished_before_the_stop(agent):
    agent.start()
    before = len(agent.tell_model("requests"))
    agent.tell_model("faults", [{"delay": 3}])
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(agent.reply, "hello")
        until(lambda: len(agent.tell_model("requests")) > before, "the model is asked")
        assert agent.stop() == 0
        assert reply.result() == ANSWER


def test_files_that_root_left_behind_are_taken_over(agent):
    agent.declare(**DECLARED)
    agent.start()
    before = snapshot(agent)
    agent.stop()
    agent.on_volume("chown", "0:0", f"{HOME}/.env", f"{HOME}/config.yaml", f"{HOME}/SOUL.md")
    agent.start()
    assert agent.reply("hello") == ANSWER
    after = snapshot(agent)
    assert {name: (uid, text) for name, (uid, _mode, _time, text) in after.items()} == {
        name: (uid, text) for name, (uid, _mode, _time, text) in before.items()
    }


def test_a_wrong_description_ends_with_one_error_and_touches_nothing(agent):
    agent.declare(unknown=1)
    agent.refused("unknown")


def test_it_is_asked_and_backed_up_beside_its_gateway(agent):
    agent.declare(**DECLARED)
    agent.start()
    agent.execute("sh", "-c", f"echo The zebra likes hay. >{HOME}/memories/MEMORY.md")
    assert "The zebra likes hay." in agent.execute("hermes-ops", "agent", "memory", "zebra")
    for command in ("backup", "debug"):
        written = f"hermes-ops agent {command} >/tmp/written && od -An -N2 -tx1 /tmp/written"
        assert agent.execute("sh", "-c", written).split() == ["1f", "8b"]
