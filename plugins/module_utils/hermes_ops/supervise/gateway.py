# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateways of a host: units as declared, enabled, and running the current release."""

from __future__ import annotations

import glob
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..agent.state import read_state
from ..description.agent import Agent
from ..host import held
from ..host.records import Records
from ..secrets import store
from ..system import network
from ..system.errors import OpsError
from ..system.files import read_text, write_atomic
from ..system.plan import Difference, Plan
from ..system.services import UNIT_MODE, plan_files_gone
from ..system.systemd import DEAD, Manager, Unit
from . import units
from .managers import ManagerOf, grouped, units_of
from .supervisor import Supervisor
from .systemd import Systemd, excused, stop_timeout

# What a release's directory may be called, see release.decide.
_RELEASE = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,99}")


@dataclass
class GatewayPlan(Plan):
    """A plan that also says which gateways to restart.

    :param restart: agent -> reasons; only running gateways are restarted
    :param errors: agent -> why its unit is left as it is
    :param failed: agent -> what could not be done with its unit, once the plan was applied
    """

    restart: dict[str, list[str]] = field(default_factory=dict)
    errors: dict[str, OpsError] = field(default_factory=dict)
    failed: dict[str, OpsError] = field(default_factory=dict)

    def with_each(self, agents: list[Agent], action: Callable[[list[Agent]], object]) -> None:
        """Call *action* with *agents*, without those that have failed before. If it fails, call it for each by itself.

        An agent can prevent what is done with its unit: a user's manager is its own, and so is what a unit starts.
        """
        agents = [agent for agent in agents if agent.name not in self.failed]
        try:
            if agents:
                action(agents)
        except OpsError as error:
            if len(agents) == 1:
                self.failed[agents[0].name] = error
                return
            for agent in agents:
                self.with_each([agent], action)

    def restart_due(self, supervisor: Supervisor, agents: list[Agent], records: dict[str, Records]) -> None:
        """Restart those of *agents* that are due. None is restarted twice, even if another one fails."""
        since, began = time.clock_gettime(time.CLOCK_MONOTONIC), time.time()

        def again(due: list[Agent]) -> None:
            states = supervisor.state(due)
            done = [each for each in due if states[each.name].running and states[each.name].entered >= since]
            supervisor.restart([each for each in due if each not in done])
            for each in due:
                records[each.name].restarted(began)

        self.with_each([agent for agent in agents if agent.name in self.restart], again)


def running_release(pid: int, root: str) -> str | None:
    """The release that a process runs, found from the path of its interpreter; None when it runs none of ours.

    Only what the process says: it can write over its command line, so the result is checked to be a plain name.
    """
    prefix = os.path.join(root, "releases") + os.sep
    for word in network.command_line(pid)[:2]:
        if word.startswith(prefix):
            name = word[len(prefix) :].split(os.sep, 1)[0]
            return name if _RELEASE.fullmatch(name) else None
    return None


def current_release(root: str) -> str | None:
    """The release that ``current`` points to; None when there is none."""
    try:
        return os.path.basename(os.readlink(os.path.join(root, "current")))
    except OSError:
        return None


def plan_files(settings: units.UnitSettings, agents: list[Agent], manager_of: ManagerOf) -> dict[str, str]:
    """Every unit file that should exist: path -> text."""
    files = {settings.template_path: units.render_template(settings)}
    for agent in agents:
        files[settings.drop_in_path(agent.name)] = units.render_drop_in(settings, agent, manager_of(agent).account)
    return files


def restart_reasons(
    agent: Agent,
    unit: Unit,
    requested: list[str],
    changed_files: list[str],
    settings: units.UnitSettings,
    state: dict[str, Any],
) -> list[str]:
    """The reasons to restart a running gateway, so that it runs as declared.

    :param requested: reasons recorded earlier or asked for by the caller
    :param changed_files: unit files that are going to be written
    :param state: Hermes' own state, see :func:`state.read_state`
    """
    if not unit.running:
        return []
    reasons = list(requested)
    reasons += [f"unit: {path}" for path in changed_files if path in _files_of(settings, agent.name)]
    if agent.source and unit.is_older_than(store.path_of(agent.name)):
        reasons.append(f"secrets: {agent.source}")
    now, wanted = running_release(unit.pid, settings.root), current_release(settings.root)
    if now and wanted and now != wanted:
        reasons.append(f"release: {now} -> {wanted}")
    if state.get("pid") == unit.pid:
        # Hermes never retries a fatal platform, even when the cause has gone (0.19.0: a port that was taken at start).
        fatal = [name for name in agent.platforms if _platform(state, name) == "fatal"]
        reasons += [f"platform: {name} is fatal" for name in fatal]
    return reasons


def _platform(state: dict[str, Any], name: str) -> Any:
    return state.get("platforms", {}).get(name, {}).get("state")


def _files_of(settings: units.UnitSettings, agent: str) -> tuple[str, str]:
    return settings.template_path, settings.drop_in_path(agent)


def plan_gateways(
    settings: units.UnitSettings,
    agents: list[Agent],
    manager_of: ManagerOf,
    records: dict[str, Records],
    requested: Mapping[str, list[str]] | None = None,
    errors: Mapping[str, OpsError] | None = None,
) -> GatewayPlan:
    """Compare the host with *agents*, and plan the difference. The plan's actions restart no gateway; call
    :meth:`GatewayPlan.restart_due` for that.

    :param records: records of *agents*, and of all other agents that the host remembers
    :param requested: agent -> reasons for a restart that are not in the records, because check mode writes none
    :param errors: agent -> why its unit is to be left as it is
    """
    plan = GatewayPlan()
    states = units_of(agents, manager_of)
    _plan_other_scope(plan, settings, agents, manager_of, records)
    # A user's manager is its agent's to hold up, which must not keep the others from being converged.
    silent = {agent.name: _silent(states[agent.unit]) for agent in agents if states[agent.unit].unknown}
    plan.errors = {**silent, **(errors or {})}
    agents = [agent for agent in agents if agent.name not in plan.errors]
    states = {agent.unit: states[agent.unit] for agent in agents}
    present = [agent for agent in agents if agent.present]
    absent = [agent for agent in agents if not agent.present]

    files = plan_files(settings, present, manager_of)
    changed = [path for path, text in files.items() if _differs(path, text)]
    for agent in present:
        unit, name = states[agent.unit], agent.name
        state = read_state(agent.home, manager_of(agent).account) if unit.running else {}
        asked = list(dict.fromkeys([*records[name].restart_reasons(), *(requested or {}).get(name, [])]))
        reasons = restart_reasons(agent, unit, asked, changed, settings, state)
        if reasons:
            plan.restart[name] = reasons
            # Recorded before the files change, so that the restart is not lost when we are killed in between.
            plan.actions.append(lambda name=name, reasons=reasons: _request(records[name], reasons))
    for name in plan.errors if settings.template_path in changed else ():
        # All units share the template.
        plan.actions.append(lambda name=name: _request(records[name], [f"unit: {settings.template_path}"]))
    for path in changed:
        plan.add(Difference(path, read_text(path), files[path]), lambda path=path: _write(path, files[path]))

    _plan_absent(plan, settings, manager_of, absent, states)
    if plan.changed or any(unit.stale for unit in states.values()):
        for manager, members in grouped(agents, manager_of):
            plan.actions.append(lambda manager=manager, members=members: _reload(plan, manager, members))
    _plan_present(plan, manager_of, present, states, records)
    for name, reasons in plan.restart.items():
        plan.differences.append(Difference(f"hermes-gateway@{name}.service restart", None, "; ".join(reasons)))
    return plan


def _silent(unit: Unit) -> OpsError:
    """Why a unit can be neither changed nor looked at."""
    return OpsError(
        f"the manager of {unit.user} {unit.unknown}",
        where=unit.name,
        fix=f"see what that user runs; loginctl terminate-user {unit.user} ends all of it",
    )


def _plan_absent(
    plan: GatewayPlan, settings: units.UnitSettings, manager_of: ManagerOf, agents: list[Agent], states: dict[str, Unit]
) -> None:
    for agent in agents:
        unit = states[agent.unit]
        if not unit.dead or unit.enabled:
            plan.add(
                Difference(unit.name, f"{unit.active}, {_enabled(unit)}", "stopped, disabled"),
                lambda agent=agent: plan.with_each([agent], lambda _agents: _disable(manager_of(agent), agent)),
            )
        plan_files_gone(plan, [settings.drop_in_path(agent.name)])


def _plan_present(
    plan: GatewayPlan,
    manager_of: ManagerOf,
    agents: list[Agent],
    states: dict[str, Unit],
    records: dict[str, Records],
) -> None:
    for agent in agents:
        try:
            records[agent.name].refuse_moved()
        except OpsError as error:
            # Its home and its files are converged, so that it can be moved back.
            plan.failed[agent.name] = OpsError(error.what, fix=error.fix)
    agents = [agent for agent in agents if agent.name not in plan.failed]
    for agent in agents:
        if not states[agent.unit].enabled:
            plan.add(
                Difference(agent.unit, "disabled", "enabled"),
                lambda agent=agent: plan.with_each(
                    [agent], lambda _agents: manager_of(agent).call("enable", "--no-reload", agent.unit)
                ),
            )
    # A unit in auto-restart is not running either: it may wait for minutes before its next start.
    dead = (*DEAD, "auto-restart")
    stopped = [p for p in agents if states[p.unit].active in dead or states[p.unit].sub in dead]
    # Those that are held are started when there is room again.
    for agent in stopped:
        plan.actions.append(lambda agent=agent: held.ask(agent.name))
    stopped = [agent for agent in stopped if held.read(agent.name) is None]
    for agent in stopped:
        unit = states[agent.unit]
        plan.differences.append(Difference(f"{unit.name} state", f"{unit.active} ({unit.sub})", "active"))
    if stopped:
        supervisor = Systemd(manager_of)
        plan.actions.append(lambda: plan.with_each(stopped, lambda agents: start(supervisor, agents, records)))


def start(supervisor: Supervisor, agents: list[Agent], records: dict[str, Records]) -> None:
    """Start the gateways of *agents*, then clear their recorded reasons for a restart.

    :raises OpsError: one cannot be started, or has moved elsewhere
    """
    for agent in agents:
        records[agent.name].refuse_moved()
    began = time.time()
    supervisor.start(agents)
    for agent in agents:
        records[agent.name].restarted(began)


def restart(supervisor: Supervisor, agents: list[Agent], records: dict[str, Records]) -> None:
    """Restart the gateways of *agents*, and only then clear their recorded reasons.

    :raises OpsError: as :func:`start`
    """
    for agent in agents:
        records[agent.name].refuse_moved()
    began = time.time()
    supervisor.restart(agents)
    for agent in agents:
        records[agent.name].restarted(began)


def _plan_other_scope(
    plan: GatewayPlan,
    settings: units.UnitSettings,
    agents: list[Agent],
    manager_of: ManagerOf,
    records: dict[str, Records],
) -> None:
    """Remove the units of the other scope, left there when ``gateway_scope`` was changed."""
    other = replace(settings, scope="user" if settings.scope == "system" else "system")
    if not os.path.exists(other.template_path):
        return
    # Instances of agents that are no longer declared use the template, too.
    drop_ins = glob.glob(other.drop_in_path("*"))
    names = {os.path.basename(os.path.dirname(path))[len("hermes-gateway@") : -len(".service.d")] for path in drop_ins}
    known = {name: agent for name, record in records.items() if (agent := record.agent())}
    known.update((agent.name, agent) for agent in agents)
    members = [known[name] for name in sorted(names | {agent.name for agent in agents}) if name in known]

    def manager_before(agent: Agent) -> Manager:
        return Manager(other.scope, manager_of(agent).account)

    found = units_of(members, manager_before)
    for agent in members:
        unit, manager = found[agent.unit], manager_before(agent)
        if unit.enabled or unit.active not in DEAD:
            plan.add(
                Difference(f"{unit.name} ({other.scope} scope)", f"{unit.active}, {_enabled(unit)}", None),
                lambda agent=agent, manager=manager: plan.with_each([agent], lambda _agents: leave(manager, agent)),
            )
    plan_files_gone(plan, [*(other.drop_in_path(name) for name in sorted(names)), other.template_path])
    for manager, _group in grouped(members, manager_before):
        plan.actions.append(lambda manager=manager: _reload_before(manager))


def _differs(path: str, text: str) -> bool:
    return read_text(path) != text or stat.S_IMODE(os.stat(path).st_mode) != UNIT_MODE


def _disable(manager: Manager, agent: Agent) -> None:
    manager.call("disable", "--now", agent.unit, timeout=stop_timeout([agent]))


def leave(manager: Manager, agent: Agent) -> None:
    """Stop and disable the gateway of *agent* in a manager that is to run it no longer."""
    # What a user's manager may still want to start has no unit any more.
    with excused(manager, end=True):
        _disable(manager, agent)


def _reload_before(manager: Manager) -> None:
    with excused(manager):
        if manager.reachable:
            manager.call("daemon-reload")


def _enabled(unit: Unit) -> str:
    return "enabled" if unit.enabled else "disabled"


def _request(records: Records, reasons: list[str]) -> None:
    records.prepare()
    with records.lock():
        records.request_restart(reasons)


def _write(path: str, text: str) -> None:
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        os.makedirs(directory)
        os.chmod(directory, 0o755)
    write_atomic(path, text, mode=UNIT_MODE)


def _reload(plan: GatewayPlan, manager: Manager, members: list[Agent]) -> None:
    try:
        if not manager.reachable:
            # Lingering was enabled, but the user's manager has not been started since.
            Manager("system", manager.account).call("start", f"user@{manager.account.uid}.service")
        manager.call("daemon-reload")
    except OpsError as error:
        if manager.scope == "system":
            raise
        plan.failed.update((agent.name, error) for agent in members)
