# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetches the agents' secrets.

Kept apart from the code that restarts agents: the job that looks every minute rarely needs that, and importing it takes
longer than a look.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Union

from ..description.agent import Agent
from ..host.installation import Installation
from ..secrets import sources, store
from ..system.errors import OpsError
from ..system.files import Account

# Names of the secrets of an agent that changed, or why they could not be fetched.
Fetched = Union[list[str], OpsError]
# Seconds between two attempts at a boot: doubled each time, up to the second one.
_FIRST, _LONGEST = 1.0, 60.0


def fetch(agents: Sequence[Agent], account_of: Callable[[Agent], Account] | None = None) -> dict[str, Fetched]:
    """Fetch the secrets of *agents*, which all have a source. Those of an agent whose source fails stay as they are.

    The caller holds :func:`store.changing`.

    :param account_of: the user of each agent, to look for the same variables in its ``.env`` where a secret changed;
        None: the caller does
    """
    answers = sources.read_all({agent.name: agent.source for agent in agents if agent.source})
    found: dict[str, Fetched] = {}
    for agent in agents:
        answer = answers[agent.name]
        try:
            if isinstance(answer, OpsError):
                raise answer
            if account_of and answer != store.secrets_of(agent.name):
                _rotation().refuse_doubled(agent, account_of(agent), answer)
            found[agent.name] = _keep(agent, answer)
        except OpsError as error:
            _fail(agent, error)
            found[agent.name] = error
    return found


def _keep(agent: Agent, values: dict[str, str]) -> list[str]:
    is_new, before = store.secrets_of(agent.name) is None, store.status_of(agent.name)
    changed = store.keep(agent.name, values)
    source = agent.to_plain()["source"]
    more = tuple(changed) if changed and not is_new else before.changed
    store.write_status(agent.name, store.Status(source=source, fetched=time.time(), changed=more, unwell=before.unwell))
    return changed


def _fail(agent: Agent, error: OpsError) -> None:
    before = store.status_of(agent.name)
    what = f"{error.where}: {error.what}" if error.where else error.what
    since = before.failed or time.time()
    store.write_status(agent.name, replace(before, failed=since, what=what, fix=error.fix or "see the source"))


def rotate(host: Installation, say: Callable[[str], object]) -> bool:
    """Fetch the secrets of all agents again, and restart those whose secrets changed.

    :returns: whether all could be fetched, and every agent that was restarted is healthy
    :raises Refused: somebody else changes secrets or gateways
    """
    agents = [agent for agent in host.agents if agent.source]
    if not agents:
        return True
    restarted: list[Agent] = []
    # Also held by `site.yml` while it converges the agents.
    with store.changing():
        found = fetch(agents, host.account_of)
        for agent in agents:
            said = found[agent.name]
            if isinstance(said, OpsError):
                say(f"agent {agent.name}: {said}")
            elif said:
                say(f"agent {agent.name}: changed: {', '.join(said)}")
        waiting = due(host, agents)
        if waiting:
            restarted = _rotation().restart(host, waiting, say)
    again = [agent for agent in agents if store.status_of(agent.name).unwell and agent not in restarted]
    well = not (restarted or again) or _rotation().judge(host, restarted, again, say)
    return well and not any(isinstance(said, OpsError) for said in found.values())


def _rotation() -> ModuleType:
    """The code that restarts agents, imported once it is needed."""
    from . import rotation

    return rotation


def due(host: Installation, agents: Sequence[Agent]) -> list[Agent]:
    """Those of *agents* whose gateway has to be started with its present secrets.

    It runs and has not read them; or systemd gave its start up, because the unit that fetched them was killed.
    """
    # Sources are of the system's scope, where one manager runs all.
    names = [name for agent in agents for name in (agent.unit, store.unit_of(agent.name))]
    units = host.manager_of(agents[0]).units(names)

    def is_due(agent: Agent) -> bool:
        gateway, path = units[agent.unit], store.path_of(agent.name)
        given_up = gateway.over and gateway.enabled and units[store.unit_of(agent.name)].active == "failed"
        return os.path.exists(path) and (given_up or (gateway.running and gateway.is_older_than(path)))

    return [agent for agent in agents if is_due(agent)]


def wait(name: str, say: Callable[[str], object]) -> None:
    """Fetch the secrets of the agent *name* until it has some, for as long as it takes."""
    delay, told = _FIRST, ""
    while store.secrets_of(name) is None:
        error = _attempt(name)
        if error is None:
            return
        if str(error) != told:
            told = str(error)
            say(f"agent {name}: {error}; trying on")
        # Hosts that boot together must not ask together.
        time.sleep(delay * random.uniform(0.75, 1.25))
        delay = min(2 * delay, _LONGEST)


def _attempt(name: str) -> OpsError | None:
    """Fetch the secrets of the agent *name* once; returns why that failed."""
    try:
        host = Installation.load()
        agent = host.one(name)
        if agent.source is None:
            return None
        with store.changing():
            said = fetch([agent], host.account_of)[name]
    except OpsError as error:
        return error
    return said if isinstance(said, OpsError) else None
