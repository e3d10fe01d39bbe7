# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limit the size of logs and journal, or leave them alone."""

from __future__ import annotations

from typing import Any

from ..host import logs
from ..system.files import Account
from ..system.systemd import Manager
from .call import Call, agents_of


def work(call: Call) -> dict[str, Any]:
    params = call.params
    manager = Manager("system", Account.current())
    if params["state"] == "absent":
        plan = logs.plan_no_logs(manager)
    else:
        settings = logs.Settings(
            days=params["days"],
            max_size=params["max_size"],
            paths=tuple(params["paths"]),
            journal_max_use=params["journal_max_use"],
            journal_days=params["journal_days"],
        )
        present = [agent for agent in agents_of(call) if agent.present]
        homes = [logs.Home(agent.name, agent.home, agent.user, logs.group_of(agent.user)) for agent in present]
        plan = logs.plan_logs(settings, homes, manager)
    return {**call.done(plan, "logs"), "configs": logs.CONFIG.format("*")}
