# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that every agent is healthy; except in check mode, wait for it. Report those that could not be converged."""

from __future__ import annotations

from typing import Any

from ..host.records import Records
from ..supervise import health
from ..supervise.systemd import Systemd
from .call import Call, agents_of, manager_of


def work(call: Call) -> dict[str, Any]:
    params = call.params
    errors: dict[str, str] = params["errors"]
    agents = [agent for agent in agents_of(call) if agent.present and agent.name not in errors]
    supervisor = Systemd(manager_of(call))
    if call.check_mode:
        states = supervisor.state(agents)
        results = [health.check(agent, supervisor.account_of(agent), states[agent.name]) for agent in agents]
    else:
        records = {agent.name: Records(params["ops_dir"], agent.name) for agent in agents}
        results = health.wait(agents, supervisor, records)
    healthy = all(result.ok for result in results) and not errors
    result = {"changed": False, "healthy": healthy, "agents": [result.as_dict() for result in results]}
    # Without the logs, which `agents` has: Ansible shows it before the message, in the order of the alphabet.
    unhealthy = [] if call.check_mode else [each.causes_and_fixes for each in results if not each.ok]
    said = [*unhealthy, *(f"agent {name}: {error}" for name, error in errors.items())]
    if said:
        result.update(failed=True, msg="\n".join(said))
    return result
