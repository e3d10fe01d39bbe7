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
from ..system.errors import OpsError
from ..system.files import Account
from ..system.systemd import Unit
from . import runtimes as control
from .problems import Problem
from .runtime_host import Host
from .runtime_units import AGENT, SOCKET
from .supervisor import State, Supervisor
from .systemd import Systemd, state_of, supervisor_of

_PREFIX = "user-"
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{32}}")
_INSTANCE = re.compile("^" + re.escape(AGENT).replace(r"\{\}", "([0-9a-f]{32})"), re.M)


def is_users(name: str) -> bool:
    """Whether the agent *name* is one of a user, see :attr:`User.agent`."""
    return bool(_NAME.fullmatch(name))


def agents_of(host: Host, users: Iterable[User]) -> list[Agent]:
    """The agents of *users*, as this host sees them: what the containers call ``/opt/data`` is a directory here."""
    shared = host.settings.supervised
    # The key of its API, with which it could be asked for a reply, is not in its home. A webhook would cost each user
    # a turn.
    shared = shared.checked_by(reply=False, webhook=None)
    return [
        replace(
            shared,
            name=user.agent,
            user=str(host.account_of(user).uid),
            home=user.home(host.data_dir),
            directory=user.directory(host.data_dir),
            unit=AGENT.format(user.id),
            api=replace(shared.api, host=str(host.address_of(user))),
            webhook=replace(shared.webhook, host=str(host.address_of(user))),
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


def running(host: Host) -> list[Agent]:
    """Those that run. The others, of whom there may be hundreds, are not even asked about."""
    return agents_of(host, filter(None, map(host.users.by_id, in_state(host, "active"))))


def in_state(host: Host, state: str) -> list[str]:
    """The ids of the users whose agents are in systemd's *state*, such as ``active``."""
    words = ("list-units", "--plain", "--no-legend", "--no-pager", f"--state={state}", AGENT.format("*"))
    return _INSTANCE.findall(host.manager.ask(*words).stdout)


def not_started(host: Host) -> list[Agent]:
    """Those that could not be started the last time."""
    try:
        identities = os.listdir(runtimes.FAILED)
    except FileNotFoundError:
        return []
    return agents_of(host, filter(None, map(host.users.by_id, identities)))


def find(host: Installation, name: str) -> Agent | None:
    """The agent *name*, a declared one or that of a user who has a runtime; None: there is no such agent.

    :raises OpsError: the agents of this host cannot be found out
    """
    if is_users(name) and runtimes.present():
        found = Host.of(host)
        user = found.users.by_id(name[len(_PREFIX) :])
        if user:
            return agents_of(found, [user])[0]
    return next((agent for agent in host.agents if agent.name == name), None)


def one(host: Installation, name: str | None) -> Agent:
    """Like :func:`find`; without a name like ``Installation.one``.

    :raises OpsError: there is no such agent, or a name is needed
    """
    return (find(host, name) if name else None) or host.one(name)


def user_of(host: Host, agent: Agent) -> User:
    """The user of *agent*, which is one of :func:`agents_of`.

    :raises OpsError: there is no such user any more
    """
    user = host.users.by_id(agent.name[len(_PREFIX) :])
    if not user:
        raise OpsError("is gone", where=f"agent {agent.name}", fix="see hermes-ops runtime list")
    return user


def supervisor_for(host: Installation, name: str) -> Supervisor:
    """The supervisor of the agent *name*, a declared one or that of a user."""
    return Containers(Host.of(host)) if is_users(name) and runtimes.present() else supervisor_of(host)


class Containers:
    """A :class:`Supervisor` of users' agents, which systemd starts when somebody calls.

    One that sleeps is not running, but has not ended either: the next call starts it.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.units = Systemd(lambda _agent: host.manager)

    def account_of(self, agent: Agent) -> Account:
        return Account.of(agent.user)

    def state(self, agents: Iterable[Agent]) -> dict[str, State]:
        agents = list(agents)
        users = {agent.name: user_of(self.host, agent) for agent in agents}
        found = self.host.manager.units(
            [unit for agent in agents for unit in (agent.unit, SOCKET.format(users[agent.name].id))]
        )
        return {
            name: self._state(user, found[AGENT.format(user.id)], found[SOCKET.format(user.id)])
            for name, user in users.items()
        }

    def start(self, agents: Iterable[Agent]) -> None:
        for agent in agents:
            control.start(self.host, user_of(self.host, agent))

    def stop(self, agents: Iterable[Agent]) -> None:
        for agent in agents:
            control.halt(self.host, user_of(self.host, agent))

    def restart(self, agents: Iterable[Agent]) -> None:
        agents = list(agents)
        self.stop(agents)
        self.start(agents)

    def log(self, agent: Agent, *, before: bool) -> list[str]:
        return self.units.log(agent, before=before)

    def _state(self, user: User, agent: Unit, listening: Unit) -> State:
        off = agent.dead and listening.dead
        state = replace(state_of(agent), ended=off, stopped=off, contained=True)
        if not agent.dead:
            return state
        reason, again = control.reason_of(user), f"hermes-ops runtime ensure {user.id}"
        if reason and not off:
            return replace(state, problem=Problem("not_started", f"it could not be started: {reason}", state.log, True))
        what = "it was stopped, and no call wakes it" if off else "it sleeps"
        return replace(state, problem=Problem("off" if off else "asleep", what, again))
