# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on a host: installed, running, declared, drifted."""

from __future__ import annotations

import os
from typing import Any

from ..agent import config, env, webhooks
from ..agent.state import read_state
from ..host import audit, jobs, logs
from ..host.installation import JOURNALS, is_busy, is_unfinished
from ..host.records import Records
from ..supervise import dashboard, gateway
from ..system import network as ports
from ..system import systemd
from ..system.errors import OpsError
from ..system.files import Owner, acting_as, read_json
from ..system.systemd import Manager, Unit

# What a role can switch on and off, besides the jobs.
FEATURES = {"audit": audit, "dashboard": dashboard, "logrotate": logs}


def gather(
    *, profiles: list[dict[str, Any]], scope: str, user: str, hermes_home: str, ops_dir: str, root: str
) -> dict[str, Any]:
    """Everything :mod:`info` returns; works on a host where nothing of ours exists yet.

    :param profiles: ``gateway`` parts of descriptions made by :func:`declaration.resolve`, or those that the host
        remembers
    """
    try:
        owner = Owner.named(user)
    except OpsError:
        owner = None
    units: dict[str, Unit] = {}
    if owner:
        units = Manager(scope, owner).units(profile["unit"] for profile in profiles)
    current = gateway.current_release(root)
    return {
        "systemd": systemd.version(),
        "user": owner.name if owner else None,
        "release": _release(root, current) if current else None,
        "releases": _releases(root),
        "profiles": {
            profile["name"]: _profile(
                profile, units.get(profile["unit"]), Records(ops_dir, profile["name"]), root, owner
            )
            for profile in profiles
        },
        "undeclared_profiles": _undeclared(hermes_home, profiles),
        "port_conflicts": port_conflicts(profiles, owner),
        "jobs": sorted([*jobs.present(), *(name for name, feature in FEATURES.items() if feature.present())]),
        "busy": [job for job in JOURNALS if is_busy(ops_dir, job)],
        "unfinished": [job for job in JOURNALS if is_unfinished(ops_dir, job) and not is_busy(ops_dir, job)],
    }


def port_conflicts(profiles: list[dict[str, Any]], owner: Owner | None) -> list[str]:
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
    for port, pids in sorted(ports.listeners(set(wanted), owner).items()):
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


def _undeclared(hermes_home: str, profiles: list[dict[str, Any]]) -> list[str]:
    known = {profile["name"] for profile in profiles}
    try:
        return sorted(set(os.listdir(os.path.join(hermes_home, "profiles"))) - known)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _profile(
    profile: dict[str, Any], unit: Unit | None, records: Records, root: str, owner: Owner | None
) -> dict[str, Any]:
    running = bool(unit and unit.running)
    state = read_state(profile["home"], owner) if owner and running else {}
    return {
        "state": profile["state"],
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
        (env, "env: ", env.FILE_NAME),
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
