# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent answers, and keeps answering."""

from __future__ import annotations

import secrets

WEBHOOK = "claude-context"
WEBHOOK_SECRET = "the-secret-of-the-tests"


def test_the_kit_that_converged_the_host_is_root_s_and_nothing_else_was_kept(host):
    with host.sudo():
        directory = "/usr/local/lib/hermes-ops"
        (version,) = host.file(directory).listdir()
        assert version in host.check_output("/usr/local/bin/hermes-ops --version")
        # Root runs the kit, and workers import it as the agents' users, so these may read it but change nothing.
        assert host.check_output(f"find {directory} ! -user root -o -perm /022 -o ! -perm -004") == ""
        assert host.check_output("find /root/.ansible /tmp /run -name 'hermes-ops*.zip' 2>/dev/null") == ""


def test_it_answers_a_chat(agent):
    token = secrets.token_hex(4)
    assert agent().reply(f"say {token}") == f"The model heard: say {token}"


def test_it_refuses_a_chat_with_a_wrong_key(agent):
    assert agent().ask("hello", key="x" * 40).status == 401


def test_the_key_of_the_model_reaches_it(agent, model):
    agent().reply("hello")
    assert {request["authorization"] for request in model.requests()} == {"Bearer the-model-s-key"}


def test_it_acts_on_a_signed_webhook(agent, wait_until):
    token = secrets.token_hex(4)
    assert agent().post(WEBHOOK, WEBHOOK_SECRET, {"topic": "tests", "body": token}).status == 202
    expected = f"The model heard: Incoming context (topic: tests):\n\n{token}"
    wait_until(lambda: expected in "".join(agent().webhook_replies()), "a reply to the webhook")


def test_it_refuses_a_webhook_with_a_wrong_signature(agent):
    assert agent().post(WEBHOOK, "another secret", {"topic": "tests", "body": "x"}).status == 401


def test_its_terminal_works_in_the_sandbox(agent, model):
    model.script({"tool": "terminal", "arguments": {"command": "id --user --name"}})
    assert '"output": "hermes-default"' in agent().reply("who are you?")


def test_it_survives_a_reboot(agent, reboot, wait_until):
    reboot()
    wait_until(lambda: agent().is_healthy(), "the gateway after the reboot")
    assert agent().reply("still there?") == "The model heard: still there?"


def test_it_comes_back_after_a_kill(host, agent, wait_until):
    before = agent().pid
    with host.sudo():
        host.run_expect([0], f"kill -9 {before}")
    wait_until(lambda: agent().is_healthy() and agent().pid != before, "a new process that is healthy")
    assert agent().reply("still there?") == "The model heard: still there?"


def test_it_comes_back_after_leaving_with_status_0(host, agent, wait_until):
    # A clean exit that nobody asked for once meant 62 hours of downtime.
    before = agent().pid
    with host.sudo():
        host.run_expect([0], f"kill -INT {before}")
    wait_until(lambda: agent().is_healthy() and agent().pid not in (0, before), "a new process that is healthy")
    assert agent().reply("still there?") == "The model heard: still there?"
