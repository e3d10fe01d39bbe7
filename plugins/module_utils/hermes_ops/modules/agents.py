# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All agents of a host, their homes and their gateways' units."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..agent import converge, parts, removal
from ..agent.losses import losses
from ..description.agent import Agent, Declared, Placement
from ..description.checks import refuse_doubled
from ..host import disk_watch, groundwork, installation
from ..host.records import STAYS, Records, decision, remembered, undeclared
from ..supervise import gateway
from ..supervise.systemd import Systemd
from ..system.errors import OpsError, as_error
from ..system.files import Account
from ..system.plan import Difference, Plan, diff
from ..system.process import run
from ..system.systemd import Manager
from . import sources
from .call import Call, manager_of, node, unit_settings


def work(call: Call) -> dict[str, Any]:
    agents = [Declared.from_plain(each, f"agents: {each['name']}") for each in call.params["agents"]]
    with sources.changing(call, [declared.agent for declared in agents]):
        return _work(call, agents)


def _work(call: Call, agents: list[Declared]) -> dict[str, Any]:
    watch = plan_watch(call, [declared.agent for declared in agents])
    say_undeclared(call, [declared.agent.name for declared in agents])
    fetched, fetches, errors = sources.fetch(call, [declared.agent for declared in agents])
    # An agent can write what no run can converge. Then its unit is left as it is, and the others do not wait for it.
    homes, diffs, errors = converge_homes(call, agents, fetched, errors)
    diffs = [*fetches, *diffs]
    if len(errors) == len(agents):
        return {"agents": homes, "diff": diffs, "changed": False, **failure(errors)}
    # Before the gateways, because without it none of them is held.
    if not call.check_mode:
        watch.apply()
    plan = converge_units(
        call, [each.agent for each in agents], {name: home["restart"] for name, home in homes.items()}, errors
    )
    errors = {**plan.errors, **plan.failed}
    whole = [declared for declared in agents if declared.agent.name not in errors]
    # After the units: the gateway of an agent that is purged has stopped by now.
    purged, removed, refused = purge(call, whole)
    removed += sources.forget(call, [declared.agent for declared in whole])
    diffs += [*(each.diff(name) for name, each in (("disks", watch), ("units", plan)) if each.changed), *removed]
    return {
        "agents": homes,
        "restarted": plan.restart,
        "units": [declared.agent.unit for declared in whole if declared.agent.present],
        "purged": purged,
        "diff": diffs,
        "changed": bool(diffs),
        **failure({**errors, **refused}),
    }


def failure(errors: dict[str, OpsError]) -> dict[str, Any]:
    """The part of a result that reports *errors* by agent."""
    said = {name: str(error) for name, error in errors.items()}
    if not said:
        return {"errors": said}
    return {"errors": said, "failed": True, "msg": "\n".join(f"agent {name}: {text}" for name, text in said.items())}


def say_undeclared(call: Call, declared: list[str]) -> None:
    """Warn of agents that left the list, and record it for ``hermes-ops check``, until somebody decides about them.

    :param declared: the names of the agents in the list
    """
    ops_dir = call.params["ops_dir"]
    left = {agent.name: agent for agent in undeclared(ops_dir, declared)}
    for agent in left.values():
        call.warn(f"agent {agent.name} left hermes_agents, but not {node()}: {STAYS}. Fix: {decision(agent)}")
    if not call.check_mode:
        for name in remembered(ops_dir):
            Records(ops_dir, name).mark_undeclared(name in left)


# Homes


def converge_homes(
    call: Call, agents: list[Declared], fetched: Mapping[str, Sequence[str]], errors: Mapping[str, OpsError]
) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]], dict[str, OpsError]]:
    """Converge every home. An error with one home does not stop the others.

    :param fetched: agent -> the names of the secrets that it gets from a source
    :param errors: the agents whose homes are left as they are, with the reason
    :returns: the result of each home, by agent; the differences; the errors, by agent
    """
    homes: dict[str, dict[str, Any]] = {}
    errors = dict(errors)
    diffs: list[dict[str, str]] = []
    for declared in agents:
        agent, description = declared.agent, declared.description
        if not agent.present or agent.name in errors:
            continue
        try:
            elsewhere = fetched.get(agent.name, ())
            refuse_doubled(description, elsewhere, "secrets_from", f"{sources.WHERE}: agent {agent.name}")
            account, records = account_of(call, agent), Records(call.params["ops_dir"], agent.name)
            outcome = converge.converge(
                description, agent, account, records, check=call.check_mode, elsewhere=elsewhere
            )
        except Exception as caught:
            errors[agent.name] = as_error(caught)
            continue
        for note in outcome.notes:
            call.warn(note)
        lost = losses(outcome.parts)
        if lost:
            call.warn(f"agent {agent.name} on {node()} loses what is no longer declared: {', '.join(lost)}")
        diffs += diffs_of(agent, outcome)
        homes[agent.name] = {
            "changed": outcome.changed,
            "home": agent.home,
            "restart": outcome.restart,
            **{kind: list(outcome.entries(kind)) for kind in ("drift", "migrated", "left", "generated")},
        }
    return homes, diffs, errors


def account_of(call: Call, agent: Placement) -> Account:
    """The user as whom the module reads and changes the home of *agent*.

    In check mode the declared user may not exist yet. Then there is either no home, or an adopted one, which is
    read as its present user.
    """
    try:
        return Account.named(agent.user)
    except OpsError:
        if call.check_mode:
            return reader(agent.home)
        raise


def reader(path: str) -> Account:
    """The user that reads the home at *path* while the agent's user does not exist yet.

    :returns: the owner of the home; ``nobody`` when that is root, or when there is no home
    """
    try:
        status = os.lstat(path)
        if status.st_uid:
            return Account(str(status.st_uid), status.st_uid, status.st_gid, path)
    except OSError:
        pass
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account("nobody", 65534, 65534, "/")
    return Account("nobody", nobody.pw_uid, nobody.pw_gid, "/")


def diffs_of(agent: Placement, outcome: converge.Outcome) -> Iterator[dict[str, str]]:
    for name, part in outcome.parts.items():
        directory = agent.managed if name == "config" else None
        path = os.path.join(directory or agent.home, parts.FILES.get(name, ""))
        if part.differences:
            yield diff(part.differences, f"{agent.name}: {path}")


# Units


def plan_watch(call: Call, agents: list[Agent]) -> Plan:
    """Compare the watch over the agents' disks with what is declared. Without any agent, there is nothing to watch."""
    params, manager = call.params, Manager.of_host()
    if params["min_free_mb"] and any(agent.present for agent in agents):
        return disk_watch.plan_present(params["min_free_mb"], manager)
    return disk_watch.plan_absent(params["ops_dir"], manager)


def converge_units(
    call: Call, agents: list[Agent], restart: dict[str, list[str]], errors: dict[str, OpsError]
) -> gateway.GatewayPlan:
    """Converge the units, and restart the gateways that need it.

    :param restart: the homes' reasons for a restart, by agent
    :param errors: the agents whose units are left as they are, with the reason
    """
    params = call.params
    manager = manager_of(call)
    settings = unit_settings(call, verbose=params["verbose"])
    names = dict.fromkeys([*(agent.name for agent in agents), *remembered(params["ops_dir"])])
    records = {name: Records(params["ops_dir"], name) for name in names}
    plan = gateway.plan_gateways(settings, agents, manager, records, restart, errors)
    # After the units: gateways that ran under such a manager are stopped by then.
    for user in groundwork.needless_linger(agents, params["scope"]):
        path, words = os.path.join(groundwork.LINGER, user), ["loginctl", "disable-linger", user]
        plan.add(Difference(path, "present", None), lambda words=words: run(words, timeout=60))
    if not call.check_mode:
        plan.apply()
        for agent in agents:
            # One that could not be stopped is not forgotten.
            if agent.name not in plan.errors and (agent.present or agent.name not in plan.failed):
                records[agent.name].write_agent(agent)
                installation.publish(agent)
        plan.restart_due(Systemd(manager), agents, records)
    return plan


# Purge


def purge(call: Call, agents: list[Declared]) -> tuple[list[str], list[dict[str, str]], dict[str, OpsError]]:
    """Remove the agents to be purged. An error with one agent does not stop the others.

    :returns: the names of those that were purged; the differences; the errors, by agent
    """
    purged: list[str] = []
    errors: dict[str, OpsError] = {}
    diffs: list[dict[str, str]] = []
    for declared in agents:
        agent = declared.agent
        if agent.present or not declared.purge:
            continue
        try:
            plan = plan_purge(call, agent)
            if not call.check_mode:
                plan.apply()
        except Exception as caught:
            errors[agent.name] = as_error(caught)
            continue
        if plan.changed:
            purged.append(agent.name)
            diffs.append(plan.diff(f"{agent.name}: purged"))
    return purged, diffs, errors


def plan_purge(call: Call, agent: Placement) -> Plan:
    home = agent.home
    # An agent that never existed has neither data nor a user.
    there = [path for path in (home, agent.directory) if os.path.lexists(path)]
    account = account_of(call, agent) if there else Account.current()
    pid = removal.running(home, account)
    if pid and not call.check_mode:
        raise OpsError(f"a gateway (pid {pid}) runs on it", where=home, fix="stop it first")
    removal.refuse_profiles(home, account)
    plan = Plan()
    for path in there:
        plan.add(Difference(path, "present", None), lambda path=path: removal.remove(path, account))
    records = Records(call.params["ops_dir"], agent.name)
    if records.exist():
        plan.add(Difference(records.directory, "present", None), records.remove)
    managed = agent.managed_dir
    if os.path.isdir(managed):
        plan.add(Difference(managed, "present", None), lambda: shutil.rmtree(managed))
    return plan
