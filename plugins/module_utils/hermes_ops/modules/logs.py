# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limit the size of logs and journal, or leave them alone."""

from __future__ import annotations

from typing import Any

from ..description.agent import Agent
from ..host import events, logs
from ..host.records import Records, undeclared
from ..system.errors import OpsError
from ..system.files import Account
from ..system.systemd import Manager
from .call import Call, agents_of


def work(call: Call) -> dict[str, Any]:
    params = call.params
    manager = Manager.of_host()
    if params["state"] == "absent":
        plan = logs.plan_no_logs(manager)
    else:
        settings = logs.Settings(
            days=events.DAYS if params["days"] is None else params["days"],
            max_size=params["max_size"],
            paths=tuple(params["paths"]),
            journal_max_use=params["journal_max_use"],
            journal_days=params["journal_days"],
        )
        homes = [logs.Home(agent.name, agent.home, agent.user, logs.group_of(agent.user)) for agent in rotated(call)]
        plan = logs.plan_logs(settings, homes, manager)
    return {**call.done(plan, "logs"), "configs": logs.CONFIG.format("*")}


def rotated(call: Call) -> list[Agent]:
    """The agents whose logs are rotated.

    In an adopted home that removes what its owner kept, so it has to be declared. An agent that is no longer declared
    runs on and writes logs, until it is declared absent.
    """
    params, declared = call.params, agents_of(call)
    left = undeclared(params["ops_dir"], [agent.name for agent in declared])
    running = [agent for agent in declared if agent.present] + [agent for agent in left if _exists(agent.user)]
    if params["days"] is not None:
        return running
    return [agent for agent in running if not Records(params["ops_dir"], agent.name).adopted(agent)]


def _exists(user: str) -> bool:
    """Whether there is such a user; logrotate refuses a configuration that names another one."""
    try:
        Account.named(user)
    except OpsError:
        return False
    return True
