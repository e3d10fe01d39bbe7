# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agents of users as the jobs of a host see them that work on homes: as agents like all others.

``Installation.agents`` are the declared ones only, whose gateways run the host's release.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace

from ..description.agent import Agent
from ..host import runtimes
from ..host.installation import Installation
from ..host.runtimes import User
from .runtime_units import AGENT
from .runtimes import Host

_PREFIX = "user-"
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{32}}")


def is_users(name: str) -> bool:
    """Whether the agent *name* is one of a user, see :attr:`User.agent`."""
    return bool(_NAME.fullmatch(name))


def agents_of(host: Host, users: Iterable[User]) -> list[Agent]:
    """The agents of *users*, as this host sees them: what the containers call ``/opt/data`` is a directory here."""
    shared = host.settings.supervised
    return [
        replace(
            shared,
            name=user.agent,
            user=str(host.account_of(user).uid),
            home=user.home(host.data_dir),
            directory=user.directory(host.data_dir),
            unit=AGENT.format(user.id),
            api=replace(shared.api, host=str(host.address_of(user))),
        )
        for user in users
    ]


def with_homes(host: Installation) -> list[Agent]:
    """The agents of all users who have a home; one that was never woken has none. Empty on a host without runtimes.

    :raises OpsError: the settings, or the record of a user, cannot be used
    """
    if not runtimes.present():
        return []
    found = Host.of(host)
    # Only whether there is one: nothing of what the agent put there is opened.
    return [agent for agent in agents_of(found, found.users.all()) if os.path.lexists(agent.home)]


def one(host: Installation, name: str | None) -> Agent:
    """The agent *name*, a declared one or that of a user who has a runtime; without a name see ``Installation.one``.

    :raises OpsError: there is no such agent, or a name is needed
    """
    if name and is_users(name) and runtimes.present():
        found = Host.of(host)
        user = found.users.find(name[len(_PREFIX) :])
        if user:
            return agents_of(found, [user])[0]
    return host.one(name)
