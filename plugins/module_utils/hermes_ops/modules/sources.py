# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the module agents about sources of secrets: fetched before the homes, forgotten after the units."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from ..description import sources
from ..description.agent import Agent
from ..secrets import store, units
from ..supervise import fetching
from ..system.errors import OpsError
from ..system.plan import HIDDEN, Difference, Plan, diff
from ..system.systemd import Manager
from .call import Call

WHERE = "hermes_agents"


@contextlib.contextmanager
def changing(call: Call, agents: Sequence[Agent]) -> Iterator[None]:
    """Keep the job that fetches secrets again from restarting the same gateways; nothing on a host without sources."""
    if call.check_mode or not (_with_source(agents) or store.agents()):
        yield
        return
    # That job holds the lock while it restarts one gateway after the other.
    with store.changing(timeout=units.TIMEOUT):
        yield


def _with_source(agents: Sequence[Agent]) -> list[Agent]:
    return [agent for agent in agents if agent.present and agent.source]


def fetch(
    call: Call, agents: Sequence[Agent]
) -> tuple[Mapping[str, Sequence[str]], list[dict[str, str]], dict[str, OpsError]]:
    """Fetch the secrets of the agents that have none of their declared source yet; the timer does the rest.

    So a run changes nothing for an agent whose source is away: it has its secrets.

    :returns: the names of the secrets, by agent; the differences; the errors, by agent
    """
    wanted = _with_source(agents)
    if wanted:
        # A host whose role secrets did not run has no unit that fetches them at the next boot.
        enabled = call.check_mode or os.path.exists(units.PATH)
        sources.check_host(wanted, call.params["scope"], enabled, WHERE)
    missing = [agent for agent in wanted if not _is_fetched(agent)]
    found = {} if call.check_mode else fetching.fetch(missing)
    errors = {name: said for name, said in found.items() if isinstance(said, OpsError)}
    fetched = {agent.name: sorted(store.secrets_of(agent.name) or {}) for agent in wanted}
    diffs = [
        diff([Difference(str(agent.source), None, HIDDEN)], f"{agent.name}: secrets")
        for agent in missing
        if agent.name not in errors
    ]
    return fetched, diffs, errors


def _is_fetched(agent: Agent) -> bool:
    is_same = store.status_of(agent.name).source == agent.to_plain()["source"]
    return is_same and store.secrets_of(agent.name) is not None


def forget(call: Call, agents: Sequence[Agent]) -> list[dict[str, str]]:
    """Remove what was fetched for those of *agents* that have no source any more; returns the differences."""
    gone = [agent.name for agent in agents if agent.name in store.agents() and not (agent.present and agent.source)]
    if not gone:
        return []
    plan, manager = Plan(), Manager.of_host()
    for name in gone:
        unit = store.unit_of(name)
        # It may still try, and a unit that failed would stay in systemd's list. Before the file goes, by which a run
        # that follows a kill finds it.
        for verb in ("stop", "reset-failed"):
            plan.actions.append(lambda unit=unit, verb=verb: manager.call(verb, unit, check=False))
        plan.add(Difference(store.path_of(name), "present", None), lambda name=name: store.forget(name))
    if not call.check_mode:
        plan.apply()
    return [plan.diff("secrets")]
