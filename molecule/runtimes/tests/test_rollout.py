# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A changed declaration reaches the agents that run, and a bad one stops at its canary; meanwhile they are called."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from control import Controller, Run
from users import URL, User, key_of

testinfra_hosts = ["ansible://hermes"]

UNIT = "hermes-runtimes-rollout.service"
BAD = "localhost/hermes-test-image:bad"
IMAGE = "localhost/hermes-test-image:slim"
# A finding of check.
KEPT = "users' agents keep the former declaration"
CHANGED = ["Users have their agents"]


class Callers:
    """Programs in the box that call users' agents all the time."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.users: list[User] = []

    def call(self, *users: User) -> None:
        for user in users:
            self.users.append(user)
            call = (
                f"curl --silent --output /dev/null --max-time 120 --write-out '%{{http_code}}\\n' {URL}/u/{user.name}"
            )
            loop = (
                f"while :; do {call}/health --header 'Authorization: Bearer {key_of(user.name)}'"
                f" >>/run/calls-{user.id}; sleep 0.1; done"
            )
            self.controller.shell(f'systemd-run --quiet --unit=calls-{user.id} sh -c "$1"', loop)

    def answers(self, user: User) -> list[str]:
        return self.controller.shell(f"cat /run/calls-{user.id} 2>/dev/null || true").split()

    def end(self) -> None:
        for user in self.users:
            self.controller.shell(f"systemctl stop calls-{user.id} || true; rm -f /run/calls-{user.id}")


@pytest.fixture
def callers(controller: Controller) -> Iterator[Callers]:
    found = Callers(controller)
    yield found
    found.end()


@pytest.fixture
def declare(controller: Controller) -> Iterator[Callable[..., Future[Run]]]:
    """A function that converges the host with other variables, beside the test."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda **variables: pool.submit(controller.run, variables)


@pytest.fixture
def awake(ada: User, wait_until: Callable[..., Any]) -> Callable[..., None]:
    """A function that returns when the agents of users run, all at the same time."""

    def wake(*users: User) -> None:
        wait_until(lambda: all(user.answers() for user in users) and all(user.runs for user in users), "all are awake")

    return wake


def edition(user: User) -> str:
    """The one with which the user's agent was started; empty: it does not run."""
    form = '{{ index .Config.Labels "hermes.edition" }}'
    return user.shell(f"podman inspect --format '{form}' {user.container} 2>/dev/null || true").strip()


def soul(user: User) -> str:
    """What the agent that runs now was given."""
    return user.inside("cat", "/opt/data/.hermes/SOUL.md").strip()


def log(controller: Controller) -> str:
    """What rollouts said since boot."""
    return controller.shell(f"journalctl --sync; journalctl --boot --quiet --output=cat --unit={UNIT}")


def test_a_changed_description_reaches_all_and_no_call_fails(ada, bob, user, asleep, callers, awake, declare):
    gina = user("gina@example.org")
    gina.command("ensure")
    asleep(gina)
    awake(ada, bob)
    before, starts = edition(ada), {each: each.starts() for each in (ada, bob, gina)}
    assert edition(bob) == before
    callers.call(ada, bob)
    assert declare(users_soul="Be kind.").result().changes == CHANGED
    assert [soul(each) for each in (ada, bob)] == ["Be kind."] * 2
    assert edition(ada) == edition(bob) != before
    assert {each: each.starts() - starts[each] for each in (ada, bob)} == {ada: 1, bob: 1}
    for each in (ada, bob):
        answers = callers.answers(each)
        assert set(answers) == {"200"}, answers
        # As many as show that calls came all the time.
        assert len(answers) > 20
    # One that sleeps is not woken for it, but it was a canary if all others were at work.
    assert soul(gina) == "Be kind."
    assert gina.starts() == starts[gina] + 1
    assert declare(users_soul="Be kind.").result().changes == []
    # What nobody uses any more is gone.
    assert ada.shell("ls /run/hermes-runtimes/shared").split() == [edition(ada)]
    assert ada.shell(f"ls /run/hermes-runtimes/users/{ada.id}/secrets").split() == [edition(ada)]
    gina.command("remove", "--purge")


def test_a_turn_in_work_is_waited_for(ada, bob, model, callers, awake, declare, wait_until):
    token = secrets.token_hex(4)
    awake(ada, bob)
    callers.call(bob)
    before = edition(ada)
    model.tell("POST", "/faults", [{"hold": True}])
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(ada.reply, f"say {token}")
        wait_until(lambda: model.tell("GET", "/requests"), "the model is asked")
        run = declare(users_soul="Be patient.")
        wait_until(lambda: edition(bob) not in ("", before), "the others have it", seconds=180)
        assert edition(ada) == before
        assert not run.done()
        model.tell("POST", "/release", {})
        assert said.result() == f"The model heard: say {token}"
    assert run.result().changes == CHANGED
    assert soul(ada) == "Be patient."


@pytest.fixture
def bad_image(controller: Controller) -> Iterator[str]:
    """An image whose agent ends at once."""
    controller.shell(
        f"podman create --quiet --name=bad {IMAGE} >/dev/null;"
        f"podman commit --quiet --change='ENTRYPOINT [\"/bin/false\"]' bad {BAD} >/dev/null 2>&1;"
        "podman rm bad >/dev/null"
    )
    yield BAD
    controller.shell(f"podman rmi --force {BAD} >/dev/null")


def test_a_bad_image_stops_at_the_canary_and_goes_back(ada, bob, user, bad_image, callers, awake, declare):
    canary = user("canary@example.org")
    canary.command("ensure")
    awake(ada, bob, canary)
    before, starts = edition(ada), {each: each.starts() for each in (ada, bob)}
    callers.call(ada, bob)
    changed = {"runtimes_image": bad_image, "runtimes_canaries": [canary.name]}
    run = declare(**changed).result()
    assert run.rc != 0
    assert f"user {canary.name}" in run.text
    assert "was rolled back" in run.text
    assert "hermes-ops runtime rollout --again" in run.text
    # Nobody else met it, and nobody's call failed.
    assert [edition(each) for each in (ada, bob)] == [before] * 2
    assert {each: each.starts() for each in (ada, bob)} == starts
    assert set(callers.answers(ada) + callers.answers(bob)) == {"200"}
    assert canary.answers()
    assert edition(canary) == before
    # It is told until something else is declared, and not tried again by itself.
    assert KEPT in ada.shell("hermes-ops check || true")
    again = declare(**changed).result()
    assert again.rc != 0
    assert "was rolled back" in again.text
    assert canary.answers()
    assert edition(canary) == before
    assert declare().result().rc == 0
    assert KEPT not in ada.shell("hermes-ops check || true")
    canary.command("remove", "--purge")


@pytest.mark.parametrize("word", ["restarting", "batches"])
def test_killed_it_goes_on_and_no_call_fails(ada, bob, word, callers, awake, declare, wait_until):
    awake(ada, bob)
    callers.call(ada, bob)
    seen, before = log(ada.controller).count(word), edition(ada)
    run = declare(users_soul=f"Be quick: {word}.")
    wait_until(lambda: log(ada.controller).count(word) > seen, "it is under way", seconds=120)
    ada.shell(f"systemctl kill --signal=KILL {UNIT}")
    # systemd starts it again, and the playbook waits for that.
    assert run.result().changes == CHANGED
    assert before != edition(ada) == edition(bob)
    assert set(callers.answers(ada) + callers.answers(bob)) == {"200"}
    assert soul(ada) == soul(bob) == f"Be quick: {word}."
    assert "going on, after an interruption" in log(ada.controller)
    assert declare(users_soul=f"Be quick: {word}.").result().changes == []
