# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bob's home with two profiles, adopted as it is, is taken apart; people who talk to his agents do not notice."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from killer import killer

__all__ = ["killer"]

HOME = "/home/bob/.hermes"
WORK = f"{HOME}/profiles/work"
AGENTS = "/var/lib/hermes/agents"
HEARD = "The model heard: "


@pytest.fixture
def bob(agent: Callable[..., Any]) -> Any:
    return agent("bob", port=8662)


@pytest.fixture
def work(agent: Callable[..., Any]) -> Any:
    return agent("work", port=8663, webhook_port=8664)


@pytest.fixture
def agents(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The declaration, in which bob's agents have homes and users of their own."""
    variables = Path(request.path).parents[1] / "group_vars/hermes.yml"
    declared = copy.deepcopy(yaml.safe_load(variables.read_text())["hermes_agents"])
    for one in declared:
        if one.get("user") == "bob":
            del one["user"], one["home"]
    return declared


def use(agent: Any, home: str) -> Any:
    """*agent*, as long as it is in bob's home."""
    agent.home, agent.user = home, "bob"
    return agent


def post_and_hear(work: Any, wait_until: Callable[..., Any], text: str) -> None:
    """A call of the webhook that bob set up, with the secret that he gave out, reaches the agent."""
    assert work.post("ci", "the-secret-of-bob-s-ci", {"body": text}).status == 202
    wait_until(lambda: any(text in reply for reply in work.webhook_replies()), f"the agent hears {text}")


def check_as_before(controller: Any, bob: Any, work: Any, wait_until: Callable[..., Any], text: str) -> None:
    """Ports, keys, the webhook and its secret, the cron job: everything that others rely on."""
    for agent, key in ((bob, "of-bob-0123456789abcdef"), (work, "of-work-0123456789abcdef")):
        assert agent.key == key
        assert agent.reply(text) == HEARD + text
    post_and_hear(work, wait_until, text)
    assert "tidy" in controller.shell("hermes -p work cron list")
    assert "tidy" not in controller.shell("hermes -p bob cron list")


def test_both_answer_in_his_home(controller, bob, work, wait_until):
    check_as_before(controller, use(bob, HOME), use(work, WORK), wait_until, "in one house")
    assert json.loads(controller.shell(f"cat {WORK}/cron/jobs.json"))["jobs"][0]["workdir"] == f"{WORK}/workspace"


def test_looking_changes_nothing(controller):
    look = (
        f"find {HOME}/profiles/work/memories {AGENTS} -printf '%p %i %C@\\n' | sort; "
        "cat /etc/hermes-ops/agents/*; id bob"
    )
    before = controller.shell(look)
    found = json.loads(controller.shell("hermes-ops separate --check --json work bob"))
    assert [(one["agent"], one["was"]["home"], one["user"]) for one in found] == [
        ("work", WORK, "hermes-work"),
        ("bob", HOME, "hermes-bob"),
    ]
    assert controller.shell(look) == before


def test_killed_in_the_middle_it_goes_back(controller, killer, bob, work, wait_until):
    before = controller.shell(f"ls {AGENTS}")
    killer.order("os.rename", f"'{AGENTS}/work.new'")
    controller.shell("hermes-ops separate work bob && exit 1 || test $? = 137")
    killer.obeyed()
    run = controller.run()
    assert run.rc != 0
    assert "separate was interrupted on this host. Fix: undo it: hermes-ops separate --recover" in run.text
    controller.shell("hermes-ops separate --recover")
    controller.shell("hermes-ops check --wait")
    check_as_before(controller, use(bob, HOME), use(work, WORK), wait_until, "back again")
    assert controller.shell(f"ls {AGENTS}") == before


def test_killed_when_it_counts_it_is_finished(controller, killer, work):
    killer.order("os.rename", "'work', 'work-")
    controller.shell("hermes-ops separate work && exit 1 || test $? = 137")
    killer.obeyed()
    assert controller.shell(f"test -d {WORK} && echo there") == "there\n"
    controller.shell("hermes-ops separate --recover")
    controller.shell(f"test ! -e {WORK} && test -f /var/lib/hermes/ops/set-aside/work-*/state.db")
    assert work.reply("who are you?") == HEARD + "who are you?"


def test_the_rest_follows_and_all_is_as_before(controller, bob, work, wait_until):
    said = controller.shell("hermes-ops separate bob")
    assert "now remove home and user of bob in hermes_agents, and run site.yml" in said
    controller.shell(f"test ! -e {HOME} && test -d /var/lib/hermes/ops/set-aside/bob-*/memories")
    check_as_before(controller, bob, work, wait_until, "in houses of our own")
    for name in ("bob", "work"):
        sessions = "select content from messages where role = 'user'"
        ask = f"import sqlite3; print([*sqlite3.connect('{AGENTS}/{name}/.hermes/state.db').execute(\"{sessions}\")])"
        messages = controller.shell('python3 -c "$1"', ask)
        for text in ("in one house", "back again", "in houses of our own"):
            assert text in messages
    (job,) = json.loads(controller.shell(f"cat {AGENTS}/work/.hermes/cron/jobs.json"))["jobs"]
    assert job["workdir"] == f"{AGENTS}/work/.hermes/workspace"


def test_each_is_its_own_user_and_sees_nothing_of_the_other(controller, bob, work):
    for agent in (bob, work):
        assert controller.shell(f"ps -o user:32= -p {agent.pid}").strip() == agent.user
        owners = controller.shell(f"find {agent.home} -printf '%u\\n' | sort -u").split()
        assert owners == [agent.user]
    assert controller.shell(f"runuser -u hermes-work -- ls {bob.home} 2>/dev/null || echo no") == "no\n"


def test_the_old_declaration_is_refused_and_the_new_one_changes_nothing(controller, agents, bob, work):
    before = controller.manifest()
    run = controller.run()
    assert run.rc != 0
    for name, home in (("bob", HOME), ("work", WORK)):
        assert (
            f"agent {name} was separated from {home} of bob, and its declared home and user would lead back there. "
            "Fix: remove home and user of this agent in hermes_agents" in run.text
        )
    assert controller.manifest() == before
    run = controller.run({"hermes_agents": agents}, "--diff")
    assert (run.rc, run.changed) == (0, 0), run.output
    assert controller.manifest() == before
