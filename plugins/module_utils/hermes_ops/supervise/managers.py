# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents grouped by service manager: in system scope one manager runs all, in user scope each user has one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..description.agent import Agent
from ..system.errors import OpsError
from ..system.systemd import Manager, Unit

# Agent -> the manager that runs its gateway. The manager's account is that of the agent's user.
ManagerOf = Callable[[Agent], Manager]


def grouped(agents: Iterable[Agent], manager_of: ManagerOf) -> list[tuple[Manager, list[Agent]]]:
    """Each manager once, together with those of *agents* that it runs."""
    groups: dict[int | None, tuple[Manager, list[Agent]]] = {}
    for agent in agents:
        manager = manager_of(agent)
        key = manager.account.uid if manager.scope == "user" else None
        groups.setdefault(key, (manager, []))[1].append(agent)
    return list(groups.values())


def units_of(agents: Iterable[Agent], manager_of: ManagerOf) -> dict[str, Unit]:
    """The state of the gateways of *agents*, by unit name. Each manager is asked once.

    A user's manager is under the agent's control. When it does not answer, only the units of that user are unknown.

    :raises OpsError: the system's manager does not answer
    """
    found: dict[str, Unit] = {}
    for manager, members in grouped(agents, manager_of):
        names = [agent.unit for agent in members]
        try:
            found.update(manager.units(names))
        except OpsError as error:
            if manager.scope == "system":
                raise
            found.update((name, manager.unknown(name, error.what)) for name in names)
    return found
