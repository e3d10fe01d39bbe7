# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on a host: installed, running, declared, drifted."""

from __future__ import annotations

import os
from typing import Any

from ..agent import config, dotenv, webhooks
from ..agent.quote import quoted, quoted_error
from ..agent.state import checked
from ..agent.state import look as look_at_state
from ..host import audit, jobs, logs
from ..host.installation import JOURNALS, is_busy, is_unfinished
from ..host.records import Records
from ..supervise import dashboard, gateway
from ..system import network, systemd
from ..system.errors import OpsError
from ..system.files import Owner, read_json
from ..system.systemd import Manager, Unit
from ..system.worker import Worker, work

# What we write into a home -> what is put before the name of its part that was changed by hand.
_KINDS = {config: "", dotenv: "env: ", webhooks: "webhook: "}
# Of names that an agent chose.
_MAX_NAMES = 1000
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
    seen = _see(profiles, owner, ops_dir, units) if owner else {}
    return {
        "systemd": systemd.version(),
        "user": owner.name if owner else None,
        "release": _release(root, current) if current else None,
        "releases": _releases(root),
        "profiles": {
            profile["name"]: _profile(
                profile, units.get(profile["unit"]), Records(ops_dir, profile["name"]), root, seen.get(profile["name"])
            )
            for profile in profiles
        },
        "undeclared_profiles": _undeclared(hermes_home, profiles, owner),
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
    for port, pids in sorted(network.listeners(set(wanted), owner).items()):
        foreign = network.outsiders(pids, known)
        if not foreign and pids:
            continue
        left = sorted({network.gateway_of(pid) or "" for pid in foreign} - {""})
        who, hint = network.describe(foreign), "stop it, or declare another port"
        if left:
            who += ", no longer declared"
            hint = f"declare {' and '.join(left)} with state: absent, or declare another port"
        elif any("hermes" in word for pid in foreign for word in network.command_line(pid)):
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


def _undeclared(hermes_home: str, profiles: list[dict[str, Any]], owner: Owner | None) -> list[str]:
    directory = os.path.join(hermes_home, "profiles")
    if owner is None or not os.path.isdir(directory):
        return []
    try:
        names = work(owner, "watch.info:names_in", directory, where=directory)
    except OpsError:
        return []
    known = {profile["name"] for profile in profiles}
    return sorted({quoted(name, 64) for name in names if isinstance(name, str)} - known)


def names_in(directory: str) -> list[str]:
    """In a worker: what lies in *directory*."""
    return sorted(os.listdir(directory))[:_MAX_NAMES]


def _see(
    profiles: list[dict[str, Any]], owner: Owner, ops_dir: str, units: dict[str, Unit]
) -> dict[str, dict[str, Any]]:
    """What workers see in the homes, side by side: ``state`` and ``drift`` of each profile."""
    workers = {}
    for profile in profiles:
        records, unit = Records(ops_dir, profile["name"]), units.get(profile["unit"])
        applied = {kind.RECORD: records.applied(kind.RECORD) for kind in _KINDS}
        wanted = (profile["home"], bool(unit and unit.running), applied)
        workers[profile["name"]] = Worker(owner, "watch.info:look", wanted, where=profile["home"])
    found = {}
    for name, worker in workers.items():
        try:
            answer = worker.result()
        except OpsError as error:
            answer = {"drift": [str(quoted_error(error))]}
        answer = answer if isinstance(answer, dict) else {}
        drift = answer.get("drift")
        found[name] = {
            "state": checked(answer.get("state")),
            "drift": [quoted(text) for text in (drift if isinstance(drift, list) else [])[:_MAX_NAMES]],
        }
    return found


def look(home: str, running: bool, applied: dict[str, Any]) -> dict[str, Any]:
    """In a worker: what the gateway says of itself where it runs, and what no longer holds what we wrote.

    :param applied: of each kind, see :meth:`Records.applied`
    """
    return {"state": checked(look_at_state(home)) if running else None, "drift": _drift(home, applied)}


def _profile(
    profile: dict[str, Any], unit: Unit | None, records: Records, root: str, seen: dict[str, Any] | None
) -> dict[str, Any]:
    running = bool(unit and unit.running)
    state = seen["state"] if seen else {}
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
        "drift": seen["drift"] if seen else [],
    }


def _drift(home: str, applied: dict[str, Any]) -> list[str]:
    """What no longer holds what we wrote: keys of config.yaml, and with what they are, keys of .env and
    subscriptions. A file that cannot be read says so itself."""
    found = []
    for kind, label in _KINDS.items():
        record = applied[kind.RECORD]
        path = os.path.join(record.get("managed_dir") or home, kind.FILE_NAME)
        try:
            found += [f"{label}{name}" for name in kind.drifted(path, record)]
        except OpsError as error:
            found.append(str(error))
    return found
