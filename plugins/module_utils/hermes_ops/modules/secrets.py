# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch secrets from their sources, and keep agents from the metadata service; or neither."""

from __future__ import annotations

from typing import Any

from ..description.agent import Agent
from ..host import jobs, metadata
from ..host.accounts import number_of_user
from ..host.records import undeclared
from ..secrets import settings, store, units
from ..system.errors import OpsError
from ..system.systemd import Manager
from .call import Call, agents_of


def work(call: Call) -> dict[str, Any]:
    params = call.params
    manager = Manager.of_host()
    if params["state"] == "absent":
        _refuse_needed(call)
        plan = units.plan_absent().join(metadata.TABLE.plan_absent(manager)).join(store.plan_absent())
    else:
        # The wall first, so that no agent runs without it.
        plan = metadata.plan_present(walled(call), manager)
        plan.join(units.plan_present(params["interval"], params["ops_dir"], params["data_dir"], manager))
    return {**call.done(plan, "secrets"), "timer": jobs.JOBS[settings.JOB].timer}


def walled(call: Call) -> list[int]:
    """The users that are kept from the metadata service: those of all agents that have not opened the door to it."""
    agents = _staying(call)
    uids = [number_of_user(agent.user) for agent in agents if "metadata" not in agent.sandbox.open]
    # In check mode, a user may not exist yet.
    return [uid for uid in uids if uid is not None]


def _staying(call: Call) -> list[Agent]:
    """The agents of the host. One that is no longer declared runs on, until it is declared absent."""
    declared = agents_of(call)
    agents = [agent for agent in declared if agent.present]
    return agents + undeclared(call.params["ops_dir"], [agent.name for agent in declared])


def _refuse_needed(call: Call) -> None:
    """:raises OpsError: the unit of an agent requires what would go, so that it could not start again"""
    names = sorted(agent.name for agent in _staying(call) if agent.source)
    if names:
        raise OpsError(
            f"is false, and the host still has agents with secrets_from: {', '.join(names)}",
            where="secrets_enabled",
            fix="declare each of them in hermes_agents, without secrets_from or with state: absent; "
            "or declare secrets_enabled: true",
        )
