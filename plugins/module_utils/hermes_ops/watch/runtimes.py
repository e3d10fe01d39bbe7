# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about users' agents, on a host that has runtimes: what all of them need, and those that run.

One that sleeps is not looked at. One that cannot be started has a unit that failed, and perhaps no space.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..description.agent import Agent
from ..host.installation import Installation
from ..host.runtime_walls import TABLE
from ..supervise import editions, health, journal, proxy, runtime_agents, runtime_disk
from ..supervise.rollout import FAILED, failed
from ..supervise.runtime_host import Host
from ..system.errors import OpsError
from ..system.systemd import Manager
from ..system.text import number
from .findings import Finding, health_findings

# Agents that one look looks at, side by side: each of them can use up the time of its worker.
AT_ONCE = 16
_ROOM = "have it remove files, or declare a larger runtimes_disk: docs/runtimes.md, The disk"


def look(ops_dir: str) -> list[Finding]:
    """Look at a host with runtimes.

    :param ops_dir: directory of the records
    """
    found = _rollout(ops_dir)
    if TABLE.lost():
        what = "users' agents may reach each other, and addresses of this host and its networks"
        found.append(Finding("walls_open", what, f"load their rules: systemctl restart {TABLE.unit}"))
    unit = Manager.of_host().units([proxy.NAME])[proxy.NAME]
    if unit.dead:
        what = f"{proxy.NAME} is {unit.active}, so nobody reaches the agents of users"
        found.append(
            Finding("proxy_down", what, f"see why: journalctl -u {proxy.NAME}; then converge the host: site.yml")
        )
    return found


def look_at_agents(
    host: Installation, known: Mapping[str, Any], now: float
) -> tuple[list[Finding], dict[str, float], dict[str, int]]:
    """Look at :data:`AT_ONCE` of the agents that run: first those that were ill, so that what was found stays found
    until it is mended, then those that were not looked at for longest. Any user can have an agent that is ill for ever,
    so these get half of the places, and hide nobody.

    :param known: what the previous look returned
    :returns: the findings; agent -> when it was looked at (seconds since 1970), negative: it was ill, 0.0: never; and
        how many users there are (``known``), whose agents run (``running``) or could not be started the last time
        (``failed``)
    """
    try:
        users = Host.of(host)
        agents = runtime_agents.running(users)
        # One whose space is used up cannot be started, either.
        failed = runtime_agents.not_started(users)
        disks = _disks(users, [*agents, *failed])
        figures = {"known": len(users.users.ids()), "running": len(agents), "failed": len(failed)}
        before = {agent.name: number(known.get(agent.name)) or 0.0 for agent in agents}
        # A time in the future comes from a clock that was fast.
        looked = {name: when if abs(when) <= now else 0.0 for name, when in before.items()}
        # Stable: the same ones each time.
        agents = sorted(agents, key=lambda agent: looked[agent.name] >= 0)
        first = min(AT_ONCE // 2, sum(when < 0 for when in looked.values()))
        others = sorted(agents[first:], key=lambda agent: abs(looked[agent.name]))
        agents = [*agents[:first], *others][:AT_ONCE]
        found = _problems(runtime_agents.Containers(users), agents) if agents else []
    except OpsError as error:
        return [Finding("users_unknown", f"the agents of users: {error.where}: {error.what}", error.fix or "")], {}, {}
    ill = {finding.agent for finding in found}
    return found + disks, {**looked, **{agent.name: -now if agent.name in ill else now for agent in agents}}, figures


def _problems(supervisor: runtime_agents.Containers, agents: list[Agent]) -> list[Finding]:
    states = supervisor.state(agents)
    agents = [agent for agent in agents if states[agent.name].running]
    results = health.check_all([(agent, supervisor.account_of(agent)) for agent in agents], states)
    wrong = [(agent, result) for agent, result in zip(agents, results) if not result.ok]
    if not wrong:
        return []
    # One that went to sleep while it was looked at has no problem.
    later = supervisor.state([agent for agent, _result in wrong])
    found = []
    for agent, result in wrong:
        state = states[agent.name]
        if later[agent.name].running and later[agent.name].entered == state.entered:
            journal.explain(agent, supervisor, result)
            found += health_findings(result, state, None)
    return found


def _disks(host: Host, agents: list[Agent]) -> list[Finding]:
    """What there is to say of the space of *agents*. It is the kernel that counts it."""
    try:
        runtime_disk.check(host)
    except OpsError as error:
        return [Finding("disk_unlimited", f"{error.where}: {error.what}", error.fix or "")]
    found = []
    for agent in agents if host.settings.disk else ():
        percent = runtime_disk.usage(host, int(agent.user)).percent
        if percent >= runtime_disk.NEARLY_FULL:
            # Its user did that, and harms no other.
            what = f"it uses {percent} % of the space or files that runtimes_disk allows it"
            found.append(Finding("disk_share", what, _ROOM, failure=False, agent=agent.name))
    return found


def _rollout(ops_dir: str) -> list[Finding]:
    try:
        kept = editions.journal(ops_dir)
    except OpsError as error:
        return [Finding("rollout_failed", error.what, error.fix or "converge the host: site.yml")]
    if kept is None or kept.phase != FAILED:
        return []
    return [Finding("rollout_failed", f"users' agents keep the former declaration: {kept.problem}", failed(kept).fix)]
