# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts the agents whose secrets changed.

A gateway that is older than the file with its secrets has not read them. So whoever is killed between the file and the
restart leaves nothing behind: the next run restarts that gateway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..agent import env
from ..description.agent import Agent
from ..host.installation import JOURNALS, Installation
from ..secrets import store
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import Account
from ..system.worker import work
from . import gateway, health
from .problems import Health
from .supervisor import State
from .systemd import supervisor_of


def refuse_doubled(agent: Agent, account: Account, values: dict[str, str]) -> None:
    """:raises OpsError: ``.env`` of *agent* has one of the variables, too: Hermes would use that one"""
    names = work(account, "agent.env:names_in", agent.home, where=agent.home)
    if not fits(names, [str]):
        raise OpsError("could not be read", where=agent.home, fix="see what the agent left there")
    env.refuse_elsewhere(names, values, agent.home)


def restart(host: Installation, wanted: Sequence[Agent], say: Callable[[str], object]) -> list[Agent]:
    """Restart the gateways of *wanted*, unless a job is under way that does; returns those that were restarted.

    :raises Refused: a restore is under way
    """
    # Jobs that stop gateways expect them to stay stopped, and start them with the new secrets.
    with host.lock("restore"):
        busy = [job for job in JOURNALS if job != "restore" and host.busy(job)]
        busy += [job for job in JOURNALS if any(host.unfinished(job, agent.name) for agent in wanted)]
        if busy:
            say(f"{busy[0]} is under way or was interrupted; restarts wait for it")
            return []
        supervisor = supervisor_of(host)
        restarted = []
        # One after the other: an agent that does not stop in time delays itself only.
        for agent in wanted:
            try:
                gateway.restart(supervisor, [agent], {agent.name: host.records(agent.name)})
                restarted.append(agent)
            except OpsError as error:
                say(f"agent {agent.name}: {error}")
        return restarted


def judge(host: Installation, restarted: list[Agent], again: list[Agent], say: Callable[[str], object]) -> bool:
    """Record which agents are not healthy since their secrets changed; the secrets before are not kept.

    :param again: others that were not healthy after such a change
    :returns: whether all of them are healthy
    """
    supervisor = supervisor_of(host)
    results = health.wait(restarted, supervisor) if restarted else []
    for result in results:
        say(result)
    states = supervisor.state(again)
    results += [_look(agent, host, states[agent.name]) for agent in again]
    for result in results:
        status = store.status_of(result.agent)
        unwell = 0.0 if result.ok else status.unwell or time.time()
        if unwell != status.unwell:
            store.write_status(result.agent, replace(status, unwell=unwell))
    return all(result.ok for result in results)


def _look(agent: Agent, host: Installation, state: State) -> Health:
    """The health of *agent* now, with the reply that it may owe."""
    account = host.account_of(agent)
    result = health.check(agent, account, state)
    if result.ok:
        _reply, problem = health.prove(agent, account)
        result.problems += [problem] if problem else []
    return result
