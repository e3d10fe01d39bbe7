# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent is, and where it runs: what :func:`declaration.resolve` makes of a declaration.

At the boundary stands plain JSON: what the filter ``resolve_agents`` hands over, and what a host's records hold. It is
checked and becomes these types by ``from_plain``, and is made from them by ``to_plain``, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..system.typed import parse, plain


@dataclass(frozen=True)
class Server:
    """The address of one of the gateway's servers.

    :param port: 0 where none is declared: of a server that is not enabled, or of an agent that is absent
    """

    enabled: bool
    host: str
    port: int

    def to_plain(self) -> dict[str, Any]:
        """For workers that call it."""
        return plain(self)


@dataclass(frozen=True)
class Limits:
    """What the agent may take, in the words of systemd.resource-control(5).

    :param cpu: None: no limit
    """

    memory: str
    cpu: str | None
    tasks: int


@dataclass(frozen=True)
class Sandbox:
    """The walls around the gateway.

    :param open: the doors in them, of :data:`schema.DOORS`
    :param paths: what the agent may write besides its own
    """

    enabled: bool
    open: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class HealthCheck:
    """What tells that the agent is healthy, besides that its gateway runs.

    :param platforms: that have to be connected, as gateway_state.json calls them
    :param reply: it has to answer a chat
    :param webhook: the subscription that has to answer a call; None: none
    :param timeout: seconds until all of that has to be so
    """

    platforms: tuple[str, ...]
    reply: bool
    webhook: str | None
    timeout: int


@dataclass(frozen=True)
class Placement:
    """Where and as whom an agent runs.

    :param name: of the agent
    :param home: its HERMES_HOME
    :param directory: its own, in which the home usually lies
    :param unit: by which its supervisor knows its gateway
    :param config_scope: ``home``, or ``managed``: where the declared configuration lies
    :param managed_dir: of its managed scope, which it only has where *config_scope* says so
    """

    name: str
    user: str
    home: str
    directory: str
    unit: str
    config_scope: str
    managed_dir: str
    api: Server
    webhook: Server

    @property
    def managed(self) -> str | None:
        """The directory of its managed scope; None: it has none."""
        return self.managed_dir if self.config_scope == "managed" else None

    @property
    def servers(self) -> dict[str, Server]:
        """The servers that are enabled, by the key under which they are declared."""
        return {key: server for key, server in (("api", self.api), ("webhook", self.webhook)) if server.enabled}


@dataclass(frozen=True)
class Agent(Placement):
    """An agent as its host knows it: where it runs, and what supervising and watching it need of its description.

    No secrets: it goes through output and records as it is.

    :param state: ``present`` or ``absent``
    :param drain: seconds that the gateway may take to finish what it does, before it is stopped
    """

    state: str
    drain: int
    limits: Limits
    sandbox: Sandbox
    health: HealthCheck

    @classmethod
    def from_plain(cls, value: Any, where: str) -> Agent:
        """:raises OpsError: *value* is something else"""
        return parse(cls, value, where)

    def to_plain(self) -> dict[str, Any]:
        return plain(self)

    @property
    def present(self) -> bool:
        return self.state == "present"

    def checked_by(self, **health: Any) -> Agent:
        """The same with other fields of :class:`HealthCheck`."""
        return replace(self, health=replace(self.health, **health))


@dataclass(frozen=True)
class Description:
    """What an agent is, wherever it runs: the content of its home.

    :param config: the keys of config.yaml
    :param settings: of ``.env``, what may be shown
    :param secrets: of ``.env``, what may not
    :param generate: keys of ``.env`` that get a random value where they have none
    :param webhooks: its webhook subscriptions, as :data:`schema.SUBSCRIPTION_KEYS` has them
    :param webhooks_purge: others are removed
    :param soul: SOUL.md; None: the agent's own
    :param user_profile: what USER.md begins with
    :param memory: what MEMORY.md begins with
    """

    name: str
    config: dict[str, Any]
    settings: dict[str, Any]
    secrets: dict[str, str] = field(repr=False)
    generate: tuple[str, ...]
    webhooks: tuple[Mapping[str, Any], ...] = field(repr=False)
    webhooks_purge: bool
    soul: str | None
    user_profile: str | None
    memory: str | None


@dataclass(frozen=True)
class Declared:
    """One agent of ``hermes_agents``, checked and complete.

    :param purge: of an agent that is absent nothing is to be left
    """

    description: Description
    agent: Agent
    purge: bool

    @classmethod
    def from_plain(cls, value: Any, where: str) -> Declared:
        """:raises OpsError: *value* is something else"""
        value = dict(value)
        gateway, purge = value.pop("gateway", None), value.pop("purge", False)
        # Said once more for those that only read the JSON.
        for name in ("state", "home"):
            value.pop(name, None)
        return cls(parse(Description, value, where), Agent.from_plain(gateway, f"{where}: gateway"), purge)

    def to_plain(self) -> dict[str, Any]:
        """The keys of the description, ``gateway``: the :class:`Agent`, its ``state`` and ``home``, and ``purge``."""
        agent = self.agent
        also = {"state": agent.state, "purge": self.purge, "home": agent.home, "gateway": agent.to_plain()}
        return {**plain(self.description), **also}
