# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All agents of a host, their homes and their gateways' units."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

from ..agent import converge, parts, removal
from ..description.schema import PROFILES_DIRECTORY
from ..host import groundwork, installation
from ..host.records import Records, remembered
from ..supervise import gateway
from ..system.errors import OpsError, as_error
from ..system.files import Owner
from ..system.plan import Difference, Plan, diff
from ..system.process import run
from .call import Call, manager_of, units_host


def work(call: Call) -> dict[str, Any]:
    homes = converge_homes(call)
    if homes.get("failed"):
        return homes
    plan = converge_units(call, {name: home["restart"] for name, home in homes["agents"].items()})
    # After the units: a gateway that is to go has ended by now.
    purged = purge(call)
    diffs = [*homes["diff"], *([plan.diff("units")] if plan.changed else []), *purged["diff"]]
    return {
        **homes,
        "restarted": plan.restart,
        "units": [agent["gateway"]["unit"] for agent in agents_that_are(call, "present")],
        **purged,
        "diff": diffs,
        "changed": bool(diffs),
    }


def agents_that_are(call: Call, state: str) -> list[dict[str, Any]]:
    return [agent for agent in call.params["agents"] if agent["state"] == state]


def failure(errors: dict[str, OpsError]) -> dict[str, Any]:
    """The part of a result that says what went wrong, by agent; empty when nothing did."""
    if not errors:
        return {}
    return {"failed": True, "msg": "\n".join(f"profile {name}: {error}" for name, error in errors.items())}


# Homes


def converge_homes(call: Call) -> dict[str, Any]:
    """Every home is made what is declared, whatever is wrong with another one."""
    homes: dict[str, dict[str, Any]] = {}
    errors: dict[str, OpsError] = {}
    diffs: list[dict[str, str]] = []
    for agent in agents_that_are(call, "present"):
        try:
            outcome = converge.converge(
                agent["home"],
                home_owner_of(call, agent),
                Records(call.params["ops_dir"], agent["name"]),
                declared(agent),
                check=call.check_mode,
            )
        except Exception as caught:
            errors[agent["name"]] = as_error(caught)
            continue
        for note in outcome.notes:
            call.warn(note)
        diffs += diffs_of(agent, outcome)
        homes[agent["name"]] = {
            "changed": outcome.changed,
            "home": agent["home"],
            "restart": outcome.restart,
            **{kind: list(entries(outcome, kind)) for kind in ("drift", "migrated", "left", "generated")},
        }
    return {"changed": bool(diffs), "agents": homes, "diff": diffs, **failure(errors)}


def home_owner_of(call: Call, agent: dict[str, Any]) -> Owner:
    """The user as whom the module looks at the home of *agent*, and in which it changes it.

    In check mode on a host where that user is only planned there is either no home, or one that is adopted: then its
    present user looks at it.
    """
    try:
        return Owner.named(agent["gateway"]["user"])
    except OpsError:
        if call.check_mode:
            return converge.reader(agent["home"])
        raise


def declared(agent: dict[str, Any]) -> converge.AgentHome:
    settings = {name: as_text(value) for name, value in agent["settings"].items()}
    return converge.AgentHome(
        # Of Hermes' profiles in an adopted home each may be another agent's.
        home=converge.Home(agent["soul"], agent["user_profile"], agent["memory"], (PROFILES_DIRECTORY,)),
        config=converge.Config(agent["config"], managed_dir_of(agent)),
        env=converge.Env(settings, agent["secrets"], tuple(agent["generate"])),
        webhooks=converge.Webhooks(tuple(agent["webhooks"]), agent["webhooks_purge"]),
    )


def managed_dir_of(agent: dict[str, Any]) -> str | None:
    return agent["gateway"]["managed_dir"] if agent["gateway"]["config_scope"] == "managed" else None


def as_text(value: Any) -> Any:
    """A setting's value as it stands in the file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


def entries(outcome: converge.Outcome, kind: str) -> Iterator[dict[str, Any]]:
    """What the parts of a home say of *kind*: those of config.yaml with values, the others with names only."""
    for name, file in parts.FILES.items():
        for entry in getattr(outcome.parts[name], kind):
            yield {"file": file, **(entry if isinstance(entry, dict) else {"key": entry})}


def diffs_of(agent: dict[str, Any], outcome: converge.Outcome) -> Iterator[dict[str, str]]:
    for name, part in outcome.parts.items():
        directory = managed_dir_of(agent) if name == "config" else None
        path = os.path.join(directory or agent["home"], parts.FILES.get(name, ""))
        if part.differences:
            yield diff(part.differences, f"{agent['name']}: {path}")


# Units


def converge_units(call: Call, restart: dict[str, list[str]]) -> gateway.GatewayPlan:
    """Units are as declared, and the gateways that need it are restarted.

    :param restart: why the homes ask for it, by agent
    """
    params = call.params
    profiles = [agent["gateway"] for agent in params["agents"]]
    manager = manager_of(call)
    host = units_host(call, verbose=params["verbose"])
    names = dict.fromkeys([*(profile["name"] for profile in profiles), *remembered(params["ops_dir"])])
    records = {name: Records(params["ops_dir"], name) for name in names}
    plan = gateway.plan_gateways(host, profiles, manager, records, restart)
    # After the units: what ran under such a manager is stopped by then.
    for user in groundwork.needless_linger(profiles, params["scope"]):
        path = os.path.join(groundwork.LINGER, user)
        plan.add(
            Difference(path, "present", None), lambda user=user: run(["loginctl", "disable-linger", user], timeout=60)
        )
    if not call.check_mode:
        plan.apply()
        for profile in profiles:
            gateway.remember(records[profile["name"]], profile)
            installation.publish(profile)
        gateway.restart(manager, profiles, records, list(plan.restart))
    return plan


# Agents that are purged


def purge(call: Call) -> dict[str, Any]:
    """Agents that are to be purged are removed, each one whatever is wrong with another."""
    purged: list[str] = []
    errors: dict[str, OpsError] = {}
    diffs: list[dict[str, str]] = []
    for agent in agents_that_are(call, "absent"):
        if not agent["purge"]:
            continue
        try:
            plan = plan_purge(call, agent)
            if not call.check_mode:
                plan.apply()
        except Exception as caught:
            errors[agent["name"]] = as_error(caught)
            continue
        if plan.changed:
            purged.append(agent["name"])
            diffs.append(plan.diff(f"{agent['name']}: purged"))
    return {"purged": purged, "diff": diffs, **failure(errors)}


def plan_purge(call: Call, agent: dict[str, Any]) -> Plan:
    home = agent["home"]
    # Of an agent that never was, neither data nor user are there.
    there = [path for path in (home, agent["gateway"]["directory"]) if os.path.lexists(path)]
    owner = home_owner_of(call, agent) if there else Owner.current()
    pid = removal.running(home, owner)
    if pid and not call.check_mode:
        raise OpsError(f"a gateway (pid {pid}) runs on it", where=home, fix="stop it first")
    removal.refuse_profiles(home, owner)
    plan = Plan()
    for path in there:
        plan.add(Difference(path, "present", None), lambda path=path: removal.remove(path, owner))
    records = Records(call.params["ops_dir"], agent["name"])
    if records.exist():
        plan.add(Difference(records.directory, "present", None), records.remove)
    managed = agent["gateway"]["managed_dir"]
    if os.path.isdir(managed):
        plan.add(Difference(managed, "present", None), lambda: shutil.rmtree(managed))
    return plan
