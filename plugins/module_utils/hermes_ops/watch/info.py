# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on a host: installed, running, declared, drifted."""

from __future__ import annotations

import contextlib
import os
from typing import Any, cast

from ..agent import config, dotenv, webhooks
from ..agent.state import read_state
from ..description.declaration import PROFILES_DIRECTORY
from ..host import audit, jobs, logs
from ..host.installation import JOURNALS, is_busy, is_unfinished
from ..host.records import Records
from ..supervise import dashboard, gateway
from ..supervise.managers import units_of
from ..system import network as ports
from ..system import systemd
from ..system.errors import OpsError
from ..system.files import Owner, acting_as, read_json
from ..system.systemd import Manager, Unit

# What a role can switch on and off, besides the jobs.
FEATURES = {"audit": audit, "dashboard": dashboard, "logrotate": logs}


def gather(*, profiles: list[dict[str, Any]], scope: str, ops_dir: str, root: str) -> dict[str, Any]:
    """Everything :mod:`info` returns; works on a host where nothing of ours exists yet.

    :param profiles: ``gateway`` parts of descriptions made by :func:`declaration.resolve`, or those that the host
        remembers
    """
    owners = {profile["user"]: _owner(profile["user"]) for profile in profiles}
    units = units_of(
        [profile for profile in profiles if owners[profile["user"]]],
        lambda profile: Manager(scope, cast(Owner, owners[profile["user"]])),
    )
    current = gateway.current_release(root)
    return {
        "systemd": systemd.version(),
        "release": _release(root, current) if current else None,
        "releases": _releases(root),
        "profiles": {
            profile["name"]: _profile(
                profile, units.get(profile["unit"]), Records(ops_dir, profile["name"]), root, owners[profile["user"]]
            )
            for profile in profiles
        },
        "shared_users": _shared_users(profiles),
        "undeclared_profiles": _undeclared(profiles, owners),
        "separated": _separated(profiles, ops_dir),
        "port_conflicts": port_conflicts(profiles, [owner for owner in owners.values() if owner]),
        "jobs": sorted([*jobs.present(), *(name for name, feature in FEATURES.items() if feature.present())]),
        "busy": [job for job in JOURNALS if is_busy(ops_dir, job)],
        "unfinished": [job for job in JOURNALS if is_unfinished(ops_dir, job) and not is_busy(ops_dir, job)],
    }


def _owner(user: str) -> Owner | None:
    try:
        return Owner.named(user)
    except OpsError:
        return None


def _shared_users(profiles: list[dict[str, Any]]) -> dict[str, list[str]]:
    """User -> names of the agents that it runs, where these are several: no wall stands between them."""
    agents: dict[str, list[str]] = {}
    for profile in profiles:
        if profile["state"] == "present":
            agents.setdefault(profile["user"], []).append(profile["name"])
    return {user: names for user, names in agents.items() if len(names) > 1}


def _separated(profiles: list[dict[str, Any]], ops_dir: str) -> list[str]:
    """Which declarations still say where an agent was before ``hermes-ops separate``, with what to do about it."""
    found = []
    for profile in profiles:
        was = Records(ops_dir, profile["name"]).separated()
        stale = [key for key in ("home", "user") if was and profile[key] == was[key]]
        if stale and profile["state"] == "present":
            found.append(
                f"agent {profile['name']} was separated from {was['home']} of {was['user']}, and its declared "
                f"{' and '.join(stale)} would lead back there. Fix: remove home and user of this agent in hermes_agents"
            )
    return found


def port_conflicts(profiles: list[dict[str, Any]], owners: list[Owner]) -> list[str]:
    """Declared ports that somebody else holds; a gateway of ours may hold any of them."""
    wanted = {
        profile[key]["port"]: f"profile {profile['name']}: {key}.port {profile[key]['port']}"
        for profile in profiles
        if profile["state"] == "present"
        for key in ("api", "webhook")
        if profile[key]["enabled"]
    }
    known = {profile["name"] for profile in profiles}
    conflicts = []
    for port, pids in sorted(ports.listeners(set(wanted), *owners).items()):
        foreign = ports.outsiders(pids, known)
        if not foreign and pids:
            continue
        left = sorted({ports.gateway_of(pid) or "" for pid in foreign} - {""})
        who, hint = ports.describe(foreign), "stop it, or declare another port"
        if left:
            who += ", no longer declared"
            hint = f"declare {' and '.join(left)} with state: absent, or declare another port"
        elif any("hermes" in word for pid in foreign for word in ports.command_line(pid)):
            hint = "stop the Hermes that was started by hand (hermes gateway stop), or declare another port"
        conflicts.append(f"{wanted[port]} is taken by {who}. Fix: {hint}")
    return conflicts


def _release(root: str, current: str) -> dict[str, Any]:
    stamp = read_json(os.path.join(root, "releases", current, "release.json")) or {}
    return {"id": current, **{key: stamp.get(key) for key in ("version", "method", "commit", "locked")}}


def _releases(root: str) -> list[str]:
    try:
        names = sorted(os.listdir(os.path.join(root, "releases")))
    except FileNotFoundError:
        return []
    return [name for name in names if os.path.exists(os.path.join(root, "releases", name, "release.json"))]


def _undeclared(profiles: list[dict[str, Any]], owners: dict[str, Owner | None]) -> list[str]:
    """The homes of Hermes' own profiles below agents' homes that no agent has for its own."""
    found: set[str] = set()
    for profile in profiles:
        owner, directory = owners[profile["user"]], os.path.join(profile["home"], PROFILES_DIRECTORY)
        if owner is None:
            continue
        with acting_as(owner), contextlib.suppress(OSError):
            found |= {os.path.join(directory, name) for name in os.listdir(directory)}
    return sorted(found - {profile["home"] for profile in profiles})


def _profile(
    profile: dict[str, Any], unit: Unit | None, records: Records, root: str, owner: Owner | None
) -> dict[str, Any]:
    running = bool(unit and unit.running)
    state = read_state(profile["home"], owner) if owner and running else {}
    return {
        "state": profile["state"],
        "user": profile["user"],
        "home": profile["home"],
        "exists": os.path.isdir(profile["home"]),
        "unit": profile["unit"],
        "active": unit.active if unit else "inactive",
        "enabled": bool(unit and unit.enabled),
        "pid": unit.pid if unit else 0,
        "restarts": unit.restarts if unit else 0,
        "running_release": gateway.running_release(unit.pid, root) if unit and running else None,
        "restart_pending": records.restart_reasons(),
        "platforms": {name: value.get("state") for name, value in state.get("platforms", {}).items()},
        "declared_keys": [".".join(keys) for keys, _fingerprint in records.applied(config.RECORD).get("keys", [])],
        "drift": _drift(profile, records, owner) if owner else [],
    }


def _drift(profile: dict[str, Any], records: Records, owner: Owner) -> list[str]:
    """What no longer holds what we wrote: keys of config.yaml, and with what they are, keys of .env and
    subscriptions. A file that cannot be read says so itself."""
    found = []
    for kind, label, file_name in (
        (config, "", config.FILE_NAME),
        (dotenv, "env: ", dotenv.FILE_NAME),
        (webhooks, "webhook: ", webhooks.FILE_NAME),
    ):
        record = records.applied(kind.RECORD)
        path = os.path.join(record.get("managed_dir") or profile["home"], file_name)
        try:
            with acting_as(owner):
                found += [f"{label}{name}" for name in kind.drifted(path, record)]
        except OpsError as error:
            found.append(str(error))
    return found
