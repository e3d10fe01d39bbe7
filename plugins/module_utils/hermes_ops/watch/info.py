# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a host: what is installed, runs, is declared and has drifted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import Any, cast

from ..agent import config, env, webhooks
from ..agent.quote import quoted, quoted_error
from ..agent.state import checked
from ..agent.state import look as look_at_state
from ..description.agent import Agent
from ..description.schema import PROFILES_DIRECTORY
from ..host import audit, jobs, logs, runtimes
from ..host.installation import JOURNALS, is_busy
from ..host.records import Records
from ..release.observe import stamp_of
from ..supervise import dashboard, gateway
from ..supervise.managers import units_of
from ..system import network, systemd
from ..system.errors import OpsError
from ..system.files import Account
from ..system.systemd import Manager, Unit
from ..system.worker import Worker
from . import host_findings

# Each file that we write into a home -> the label of a part of it that was changed by hand.
_KINDS = {config: "", env: "env: ", webhooks: "webhook: "}
# The most names that are taken from an agent.
_MAX_NAMES = 1000
# The features that a role can switch on and off, besides the jobs.
FEATURES = {"audit": audit, "dashboard": dashboard, "logrotate": logs, "runtimes": runtimes}


def gather(*, agents: list[Agent], scope: str, ops_dir: str, root: str) -> dict[str, Any]:
    """Everything that the module ``info`` returns. Works on a host where nothing of ours exists yet.

    :param agents: the agents as they are declared, or as the host remembers them
    """
    accounts = {agent.user: _account(agent.user) for agent in agents}
    units = units_of(
        [agent for agent in agents if accounts[agent.user]],
        lambda agent: Manager(scope, cast(Account, accounts[agent.user])),
    )
    current = gateway.current_release(root)
    seen = _see(agents, accounts, ops_dir, units)
    return {
        "systemd": systemd.version(),
        "release": _release(root, current) if current else None,
        "releases": _releases(root),
        "agents": {
            agent.name: _agent(agent, units.get(agent.unit), Records(ops_dir, agent.name), root, seen.get(agent.name))
            for agent in agents
        },
        "shared_users": _shared_users(agents),
        "undeclared_profiles": _undeclared(agents, seen),
        "separated": _separated(agents, ops_dir),
        "port_conflicts": port_conflicts(
            agents,
            [account for account in accounts.values() if account],
            {agent.name for agent in agents if Records(ops_dir, agent.name).agent()},
        ),
        "jobs": sorted([*jobs.present(), *(name for name, feature in FEATURES.items() if feature.present())]),
        "busy": [job for job in JOURNALS if is_busy(ops_dir, job)],
        "unfinished": _unfinished(ops_dir),
    }


def _unfinished(ops_dir: str) -> list[str]:
    """The jobs that were interrupted, each with the fix."""
    return [str(finding) for finding in host_findings.interrupted_findings(ops_dir)]


def _account(user: str) -> Account | None:
    try:
        return Account.named(user)
    except OpsError:
        return None


def _shared_users(agents: list[Agent]) -> dict[str, list[str]]:
    """User -> names of its agents, for each user with several agents: no wall stands between these agents."""
    users: dict[str, list[str]] = {}
    for agent in agents:
        if agent.present:
            users.setdefault(agent.user, []).append(agent.name)
    return {user: names for user, names in users.items() if len(names) > 1}


def _separated(agents: list[Agent], ops_dir: str) -> list[str]:
    """Declarations that still name an agent's home or user from before ``hermes-ops separate``, each with its fix."""
    found = []
    for agent in agents:
        was = Records(ops_dir, agent.name).separated()
        stale = [key for key in ("home", "user") if was and getattr(agent, key) == getattr(was, key)]
        if was and stale and agent.present:
            found.append(
                f"agent {agent.name} was separated from {was.home} of {was.user}, and its declared "
                f"{' and '.join(stale)} would lead back there. Fix: remove home and user of this agent in hermes_agents"
            )
    return found


def port_conflicts(agents: list[Agent], accounts: list[Account], remembered: Collection[str] = ()) -> list[str]:
    """Declared ports that are taken. A port that the gateway of one of *agents* holds is not taken.

    What an agent does with a port must not keep the whole host from being converged; health reports it for the agent
    that declares the port (:func:`health.taken_ports`). So a listener of an agent's user is no conflict if it is hidden
    (the kernel still names the user of its socket), or if the host remembers both that agent and the one that declares
    the port.

    :param accounts: the users of *agents*
    :param remembered: names of those that the host has been converged with. A Hermes of another one may have to be
        stopped before it can be adopted
    """
    wanted = {
        server.port: f"agent {agent.name}: {key}.port {server.port}"
        for agent in agents
        if agent.present
        for key, server in agent.servers.items()
    }
    known = {agent.name for agent in agents}
    users = {account.uid for account in accounts}
    old = [agent for agent in agents if agent.name in remembered]
    settled = {account.uid for account in accounts if account.name in {agent.user for agent in old}}
    known_ports = {server.port for agent in old for server in agent.servers.values()}
    conflicts = []
    for port, listener in sorted(network.look_at_listeners(set(wanted), *accounts).items()):
        foreign, strangers = network.outsiders(listener.pids, known), listener.uids - users
        if not foreign and (listener.pids or not strangers):
            continue
        if port in known_ports and listener.uids <= settled:
            continue
        left = sorted({network.gateway_of(pid) or "" for pid in foreign} - {""})
        who, hint = network.describe(foreign, strangers), "stop it, or declare another port"
        if left:
            who += ", no longer declared"
            hint = f"declare {' and '.join(left)} with state: absent, or declare another port"
        elif any("hermes" in word for pid in foreign for word in network.command_line(pid)):
            hint = "stop the Hermes that was started by hand (hermes gateway stop), or declare another port"
        conflicts.append(f"{wanted[port]} is taken by {who}. Fix: {hint}")
    return conflicts


def _release(root: str, current: str) -> dict[str, Any]:
    stamp = stamp_of(root, current)
    return {"id": current, **{key: stamp.get(key) for key in ("version", "method", "commit", "locked")}}


def _releases(root: str) -> list[str]:
    try:
        names = sorted(os.listdir(os.path.join(root, "releases")))
    except FileNotFoundError:
        return []
    return [name for name in names if os.path.exists(os.path.join(root, "releases", name, "release.json"))]


def _undeclared(agents: list[Agent], seen: dict[str, dict[str, Any]]) -> list[str]:
    """The homes of Hermes' own profiles, below agents' homes, that are no declared agent's home."""
    found = {
        os.path.join(agent.home, PROFILES_DIRECTORY, name)
        for agent in agents
        for name in seen.get(agent.name, {}).get("profiles", ())
    }
    return sorted(found - {agent.home for agent in agents})


def _see(
    agents: list[Agent], accounts: dict[str, Account | None], ops_dir: str, units: dict[str, Unit]
) -> dict[str, dict[str, Any]]:
    """``state``, ``drift`` and ``profiles`` of each agent whose user exists, as workers see them in the homes.

    The workers run side by side. A worker that dies is reported as drift of its agent.
    """
    workers = {}
    for agent in agents:
        account = accounts[agent.user]
        if account is None:
            continue
        records, unit = Records(ops_dir, agent.name), units.get(agent.unit)
        applied = {kind.RECORD: records.applied(kind.RECORD) for kind in _KINDS}
        wanted = (agent.home, bool(unit and unit.running), applied)
        workers[agent.name] = Worker(account, "watch.info:look", wanted, where=agent.home)
    found = {}
    for name, worker in workers.items():
        try:
            answer = worker.result()
        except OpsError as error:
            answer = {"drift": [str(quoted_error(error))]}
        answer = answer if isinstance(answer, dict) else {}
        found[name] = {
            "state": checked(answer.get("state")),
            "drift": [quoted(text) for text in _list(answer.get("drift"))],
            "profiles": sorted({quoted(text, 64) for text in _list(answer.get("profiles"))} - {""}),
        }
    return found


def _list(value: Any) -> list[Any]:
    return value[:_MAX_NAMES] if isinstance(value, list) else []


def look(home: str, running: bool, applied: dict[str, Any]) -> dict[str, Any]:
    """In a worker: the gateway's own report, the drift, and the names of Hermes' own profiles below *home*.

    :param running: whether the gateway runs; the report of a stopped gateway is out of date
    :param applied: the record of each kind, see :meth:`Records.applied`
    """
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(os.path.join(home, PROFILES_DIRECTORY)))[:_MAX_NAMES]
    return {
        "state": checked(look_at_state(home)) if running else None,
        "drift": _drift(home, applied),
        "profiles": names,
    }


def _agent(agent: Agent, unit: Unit | None, records: Records, root: str, seen: dict[str, Any] | None) -> dict[str, Any]:
    running = bool(unit and unit.running)
    state = seen["state"] if seen else {}
    return {
        "state": agent.state,
        "user": agent.user,
        "home": agent.home,
        "exists": os.path.isdir(agent.home),
        "unit": agent.unit,
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
    """The names of declared parts that were changed by hand: keys of config.yaml, and with a label keys of .env and
    webhooks. A file that cannot be read is listed with the reason."""
    found = []
    for kind, label in _KINDS.items():
        record = applied[kind.RECORD]
        path = os.path.join(record.get("managed_dir") or home, kind.FILE_NAME)
        try:
            found += [f"{label}{name}" for name in kind.drifted(path, record)]
        except OpsError as error:
            found.append(str(error))
    return found
