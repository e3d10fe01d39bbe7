# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The types of a resolved declaration: what an agent is, and where it runs. :func:`declaration.resolve` builds them.

The filter ``resolve_agents`` and the records of a host hold them as plain JSON. Only ``from_plain`` checks that JSON
and converts it into these types, and only ``to_plain`` converts it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..system.typed import parse, plain

# The key under which a server is declared -> its platform in gateway_state.json.
SERVER_PLATFORMS = {"api": "api_server", "webhook": "webhook"}


@dataclass(frozen=True)
class Server:
    """The address of one of the gateway's servers.

    :param port: 0 when none is declared, which only a disabled server or an absent agent may have
    :param tailnet: whether the host's tailnet reaches it: tailscaled forwards the port to this loopback address
    """

    enabled: bool
    host: str
    port: int
    tailnet: bool = False

    def to_plain(self) -> dict[str, Any]:
        """As JSON, for the workers that call the server."""
        return plain(self)


@dataclass(frozen=True)
class Limits:
    """The agent's resource limits, in the forms of systemd.resource-control(5).

    :param cpu: None for no limit
    """

    memory: str
    cpu: str | None
    tasks: int


@dataclass(frozen=True)
class Sandbox:
    """The sandbox of the gateway.

    :param open: the doors that are open, from :data:`schema.DOORS`
    :param paths: paths outside its own directories that the agent may write
    """

    enabled: bool
    open: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where the host gets secrets of an agent from; exactly one of *ssm*, *command* and *file* is given.

    :param ssm: a path of AWS Systems Manager's parameter store, whose parameters are the secrets
    :param region: the region of that store; None: the one that the instance runs in
    :param endpoint: the URL at which it answers; None: the one of AWS
    :param command: a program with its arguments that prints the secrets
    :param file: an encrypted file: of age if its name ends in ``.age``, else of SOPS
    :param identity: a file with the age identity that decrypts *file*
    """

    ssm: str | None = None
    region: str | None = None
    endpoint: str | None = None
    command: tuple[str, ...] = ()
    file: str | None = None
    identity: str | None = None

    def __str__(self) -> str:
        return self.ssm or self.file or self.command[0]


@dataclass(frozen=True)
class HealthCheck:
    """The conditions under which the agent counts as healthy, besides a running gateway with its servers.

    :param platforms: the platforms that must be connected, by their names in gateway_state.json; not its own servers
    :param reply: whether the agent must answer a chat message
    :param webhook: the subscription that must answer a call; None for none
    :param timeout: seconds within which all conditions must hold
    """

    platforms: tuple[str, ...]
    reply: bool
    webhook: str | None
    timeout: int


@dataclass(frozen=True)
class Supervised:
    """The part of a description that a supervisor needs: systemd, or a container engine. It holds no secrets.

    :param drain: seconds that the gateway may take to finish its work before it is stopped
    """

    drain: int
    limits: Limits
    health: HealthCheck


_SUPERVISED = tuple(each.name for each in fields(Supervised))


@dataclass(frozen=True)
class Placement:
    """Where an agent runs, as which user, in which sandbox, and at which addresses it serves.

    :param name: the agent's name
    :param home: its HERMES_HOME
    :param directory: the agent's own directory, which usually holds the home
    :param unit: the systemd unit of its gateway
    :param config_scope: where the declared configuration lies: ``home`` or ``managed``
    :param managed_dir: the directory of its managed scope, used only when *config_scope* is ``managed``
    :param api: the address of its API server
    :param webhook: the address of the server that takes webhooks
    """

    name: str
    user: str
    home: str
    directory: str
    unit: str
    sandbox: Sandbox
    config_scope: str
    managed_dir: str
    api: Server
    webhook: Server

    @property
    def adopted(self) -> bool:
        """Whether its home was declared: one that somebody else may have made, and that may hold what is theirs."""
        return self.home != f"{self.directory}/.hermes"

    @property
    def managed(self) -> str | None:
        """The directory of its managed scope; None when it has none."""
        return self.managed_dir if self.config_scope == "managed" else None

    @property
    def servers(self) -> dict[str, Server]:
        """The enabled servers, by the key under which they are declared."""
        return {key: server for key, server in (("api", self.api), ("webhook", self.webhook)) if server.enabled}


@dataclass(frozen=True)
class Agent(Placement, Supervised):
    """An agent as its host knows it: where it runs, and everything that is needed to supervise and watch it.

    It holds no secrets, so it may appear in output and records.

    :param state: ``present`` or ``absent``
    :param source: where its further secrets come from; None: there are no others than those of the description
    """

    state: str
    source: Source | None = None

    @classmethod
    def of(cls, description: Description, placement: Placement, *, state: str, source: Source | None) -> Agent:
        """The agent of *description* at *placement*."""
        supervised = {name: getattr(description, name) for name in _SUPERVISED}
        return cls(**vars(placement), **supervised, state=state, source=source)

    @classmethod
    def from_plain(cls, value: Any, where: str) -> Agent:
        """:raises OpsError: *value* is malformed"""
        return parse(cls, value, where)

    def to_plain(self) -> dict[str, Any]:
        return plain(self)

    @property
    def present(self) -> bool:
        return self.state == "present"

    @property
    def platforms(self) -> list[str]:
        """The platforms that must be connected, the enabled servers among them."""
        return [*self.health.platforms, *(SERVER_PLATFORMS[key] for key in self.servers)]

    def checked_by(self, **health: Any) -> Agent:
        """The same agent, with the fields *health* of its :class:`HealthCheck` replaced."""
        return replace(self, health=replace(self.health, **health))


@dataclass(frozen=True)
class Description(Supervised):
    """What an agent is, independent of where it runs: how it is supervised, and the content of its home.

    The keys of config.yaml and ``.env`` that follow from another field, or from an address in the :class:`Placement`,
    are not in it: ``agent.converge`` derives them.

    :param config: keys of config.yaml
    :param settings: variables of ``.env`` that may be shown
    :param secrets: variables of ``.env`` that may not be shown
    :param webhooks: its webhook subscriptions, with the keys of :data:`schema.SUBSCRIPTION_KEYS`
    :param webhooks_purge: whether other subscriptions are removed
    :param soul: the content of SOUL.md; None leaves the file to the agent
    :param user_profile: the initial content of USER.md
    :param memory: the initial content of MEMORY.md
    """

    name: str
    config: dict[str, Any]
    settings: dict[str, Any]
    secrets: dict[str, str] = field(repr=False)
    webhooks: tuple[Mapping[str, Any], ...] = field(repr=False)
    webhooks_purge: bool
    soul: str | None
    user_profile: str | None
    memory: str | None


@dataclass(frozen=True)
class Declared:
    """One agent of ``hermes_agents``, checked and complete.

    :param purge: when the agent is absent, remove all of it, including its home
    """

    description: Description
    agent: Agent
    purge: bool

    @classmethod
    def from_plain(cls, value: Any, where: str) -> Declared:
        """:raises OpsError: *value* is malformed"""
        value = dict(value)
        gateway, purge = value.pop("gateway", None), value.pop("purge", False)
        # `to_plain` repeats these for readers of the JSON; they are also in `gateway`.
        for name in ("state", "home"):
            value.pop(name, None)
        agent = Agent.from_plain(gateway, f"{where}: gateway")
        supervised = {name: gateway[name] for name in _SUPERVISED}
        return cls(parse(Description, {**value, **supervised}, where), agent, purge)

    def to_plain(self) -> dict[str, Any]:
        """The keys of the description, the :class:`Agent` as ``gateway``, its ``state`` and ``home``, and ``purge``.

        The keys of :class:`Supervised` are only in ``gateway``.
        """
        agent = self.agent
        content = {name: value for name, value in plain(self.description).items() if name not in _SUPERVISED}
        also = {"state": agent.state, "purge": self.purge, "home": agent.home, "gateway": agent.to_plain()}
        return {**content, **also}
