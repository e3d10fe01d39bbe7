# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dashboard of a host: Hermes' web interface to one agent, in a unit like those of the gateways."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace

from ..agent.quote import quoted
from ..description.agent import Agent
from ..description.schema import DEFAULT_PROFILE
from ..system import network
from ..system.errors import OpsError
from ..system.files import Account
from ..system.plan import Difference, Plan
from ..system.process import last_line, run_head
from ..system.services import plan_active, plan_files_gone
from ..system.systemd import Manager, Unit
from . import units
from .gateway import current_release, running_release
from .journal import JOURNAL_BYTES
from .managers import ManagerOf, grouped
from .systemd import excused

# Addresses on which Hermes requires no login (0.18.2 and 0.19.0 hermes_cli/web_server.py: _LOOPBACK_HOST_VALUES).
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Sets of variables, each of which configures a login (0.18.2 and 0.19.0 plugins/dashboard_auth/). Without a complete
# set, the dashboard does not start on an address that others can reach.
LOGINS = (
    ("HERMES_DASHBOARD_BASIC_AUTH_USERNAME", "HERMES_DASHBOARD_BASIC_AUTH_PASSWORD_HASH"),
    ("HERMES_DASHBOARD_BASIC_AUTH_USERNAME", "HERMES_DASHBOARD_BASIC_AUTH_PASSWORD"),
    ("HERMES_DASHBOARD_OIDC_ISSUER", "HERMES_DASHBOARD_OIDC_CLIENT_ID"),
    ("HERMES_DASHBOARD_OAUTH_CLIENT_ID",),
)
START_SECONDS = 60.0


def check_address(address: str, port: int, agents: list[Agent], environment: list[str]) -> Agent:
    """Check that the dashboard may be served at *address* and *port*.

    :param environment: names of the variables that are declared for the agent that it shows
    :returns: the agent that the dashboard shows: the only one, or the one named ``default``
    :raises OpsError: there is no such agent, the port is declared for something else, or others could reach the
        address without a login
    """
    present = [agent for agent in agents if agent.present]
    shown = present if len(present) == 1 else [agent for agent in present if agent.name == DEFAULT_PROFILE]
    if not shown:
        raise OpsError(
            "there is more than one agent, and the dashboard shows the one named default, which is not declared",
            where="dashboard",
            fix="declare an agent named default; it may be without api and webhook",
        )
    if not 1024 <= port <= 65535:
        raise OpsError(f"is {port}", where="dashboard_port", fix="declare one from 1024 to 65535")
    for one in present:
        for key, server in one.servers.items():
            if server.port == port:
                raise OpsError(
                    f"is {port}, as is {key}.port of agent {one.name}",
                    where="dashboard_port",
                    fix="declare another port for one of them",
                )
    if not re.fullmatch(r"[\w.:-]+", address, re.ASCII):
        raise OpsError(f"is {address!r}", where="dashboard_host", fix="declare an address such as 127.0.0.1")
    if address not in LOOPBACK and not any(set(login) <= set(environment) for login in LOGINS):
        raise OpsError(
            f"{address} can be reached from the network, and nothing asks for a login",
            where="dashboard_host",
            fix=f"declare {LOGINS[0][0]} and {LOGINS[0][1]} in secrets of the agent {shown[0].name}, "
            "or bind 127.0.0.1 and come through an SSH tunnel",
        )
    return shown[0]


def plan_dashboard(
    settings: units.UnitSettings,
    agents: list[Agent],
    manager_of: ManagerOf,
    address: str,
    port: int,
    environment: list[str],
) -> Plan:
    """Plan a dashboard that is served at *address*; parameters as in :func:`check_address`.

    If the plan changes anything, its last action waits until the dashboard is served.
    """
    shown = check_address(address, port, agents, environment)
    plan = Plan()
    manager = manager_of(shown)
    account = manager.account
    _plan_other_scope(plan, settings, agents, manager_of)
    unit = manager.units([units.DASHBOARD_NAME])[units.DASHBOARD_NAME]
    served = network.look_at_listeners({port}, account).get(port)
    if served is not None and not _is_ours(unit, account, served):
        raise OpsError(
            f"{port} is taken by {network.describe(served.pids, served.uids)}",
            where="dashboard_port",
            fix="stop it, or declare another port",
        )
    reasons = []
    now, wanted = running_release(unit.pid, settings.root) if unit.running else None, current_release(settings.root)
    if now and wanted and now != wanted:
        reasons.append(f"release: {now} -> {wanted}")
    plan_active(
        plan,
        manager,
        units.DASHBOARD_NAME,
        unit_files={settings.dashboard_path: units.render_dashboard(settings, shown, account, address, port)},
        # Holds the dashboard's login.
        reads=[os.path.join(shown.home, ".env")],
        reasons=reasons,
    )
    if plan.changed:
        plan.actions.append(lambda: _wait(manager, port, account))
    return plan


def plan_no_dashboard(settings: units.UnitSettings, agents: list[Agent], manager_of: ManagerOf) -> Plan:
    """Plan a host without a dashboard, in either scope."""
    plan = Plan()
    for scope in units.UNIT_DIRECTORIES:
        _plan_gone(plan, replace(settings, scope=scope), agents, manager_of)
    return plan


def present() -> bool:
    """Whether the unit exists on the host, in any scope."""
    return any(os.path.lexists(os.path.join(path, units.DASHBOARD_NAME)) for path in units.UNIT_DIRECTORIES.values())


def _plan_other_scope(plan: Plan, settings: units.UnitSettings, agents: list[Agent], manager_of: ManagerOf) -> None:
    """Remove the unit of the other scope, left there when ``gateway_scope`` was changed."""
    _plan_gone(plan, replace(settings, scope="user" if settings.scope == "system" else "system"), agents, manager_of)


def _plan_gone(plan: Plan, settings: units.UnitSettings, agents: list[Agent], manager_of: ManagerOf) -> None:
    """Remove the unit of one scope, whichever agents' managers run it.

    In user scope this may be that of an agent which the dashboard showed before. A user's manager belongs to its agent,
    so what one says about the unit proves nothing about the others, and a silent one is ended.
    """
    if not os.path.lexists(settings.dashboard_path):
        return
    groups = grouped(agents, lambda agent: Manager(settings.scope, manager_of(agent).account))
    managers = [manager for manager, _members in groups]
    found = [(manager, _unit_in(manager)) for manager in managers]
    for manager, unit in found:
        if unit.enabled or not unit.dead:
            plan.add(Difference(unit.name, unit.active, "stopped, disabled"), lambda manager=manager: _leave(manager))
    plan_files_gone(plan, [settings.dashboard_path])
    for manager in managers:
        plan.actions.append(lambda manager=manager: _forget(manager))


def _unit_in(manager: Manager) -> Unit:
    try:
        return manager.units([units.DASHBOARD_NAME])[units.DASHBOARD_NAME]
    except OpsError as error:
        if manager.scope == "system":
            raise
        return manager.unknown(units.DASHBOARD_NAME, error.what)


def _leave(manager: Manager) -> None:
    # What a user's manager may still want to start has no unit any more.
    with excused(manager, end=True):
        manager.call("disable", "--now", units.DASHBOARD_NAME)


def _forget(manager: Manager) -> None:
    with excused(manager):
        if manager.reachable:
            manager.call("daemon-reload")
            # A unit that failed stays in systemd's list without its file, and the host counts as degraded.
            manager.call("reset-failed", units.DASHBOARD_NAME, check=False)


def _is_ours(unit: Unit, account: Account, served: network.Listener) -> bool:
    # Inside a container, even root may be unable to see which process owns a socket, and another agent can hide its
    # own. The user whose socket it is can always be seen.
    return unit.running and account.uid in served.uids and (not served.pids or unit.pid in served.pids)


def _wait(manager: Manager, port: int, account: Account) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        unit = manager.units([units.DASHBOARD_NAME])[units.DASHBOARD_NAME]
        served = network.look_at_listeners({port}, account).get(port)
        if served is not None and _is_ours(unit, account, served):
            return
        if time.monotonic() > deadline:
            said = _last_words(manager)
            raise OpsError(
                f"does not serve port {port} {START_SECONDS:.0f} s after its start ({unit.active}): {said}",
                where=units.DASHBOARD_NAME,
                fix="see journalctl -u hermes-dashboard",
            )
        time.sleep(0.2)


def _last_words(manager: Manager) -> str:
    # Limited: the agent may have written any amount.
    command = ["journalctl", *manager.journal(units.DASHBOARD_NAME), "--boot", "--lines=20", "--output=cat"]
    return quoted(last_line(run_head(command, limit=JOURNAL_BYTES, timeout=20))) or "it said nothing"
