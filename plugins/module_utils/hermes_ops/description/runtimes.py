# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared of a host's runtimes: the agents in containers, one for each user, which all share a description."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..system.errors import OpsError
from ..system.paths import check_path
from ..system.quota import Limits
from ..system.typed import size
from .agent import Agent
from .declaration import resolve_alone
from .runtime_addresses import network_of, opened
from .runtime_ids import hex_of
from .runtime_keys import key_of

# In every container: what outlives it, the user's HERMES_HOME in it, and where plugins are mounted.
DATA = "/opt/data"
HOME = f"{DATA}/.hermes"
PLUGINS = "/opt/plugins"
# The variable with the key of the agent's own API, which is derived for each user.
API_KEY = "API_SERVER_KEY"
# As podman takes one (containers/image, docker/reference): a repository, and a tag or a digest.
_IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9._:/-]{0,254}(@sha256:[0-9a-f]{64})?")
_PLUGIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Below it are numbers of real users, and of those that systemd gives out for a while (systemd.io/UIDS-GIDS).
_LOWEST_NUMBER, _HIGHEST_NUMBER = 524_288, 2_000_000_000
# The space for which a user may have one file, so that nobody takes all files of a disk without its space: mkfs.ext4
# makes room for a file in each 16 KiB (mke2fs.conf(5), inode_ratio), and xfs for far more.
_SPACE_OF_A_FILE = 16 * 2**10
# A home and the conversations of a few days.
_LEAST_DISK = 64 * 2**20


@dataclass(frozen=True)
class Edition:
    """The part of a declaration that the containers get: what is rolled out, and what can be gone back to.

    :param id: 16 hexadecimal digits. Nobody can check a guess of the secrets by it
    """

    id: str
    image: str
    agent: dict[str, Any] = field(repr=False)
    plugins: dict[str, str]


@dataclass(frozen=True)
class Runtimes:
    """What the runtimes of a host share. It holds secrets.

    :param image: of every container; the host has it already
    :param secret: from which the users' keys are derived
    :param agent: an entry of ``hermes_agents``, without a name
    :param users: ids of users who have a runtime from the start
    :param versions: of users' keys that are accepted; the first one is given out
    :param idle: seconds without a call after which an agent sleeps
    :param start: seconds within which an agent has to be healthy
    :param canaries: ids of users whose agents get a changed declaration first; empty: one that is free
    :param plugins: name -> a directory of the host, which each container sees read-only
    :param network: of the containers, as a private IPv4 range
    :param egress: private ranges that agents may reach; public addresses are open
    :param first_uid: the UNIX user of the first user's container
    :param disk: the most that each agent may store, e.g. ``5G``; empty: as much as there is
    :param listen: address and port of the one server that all callers use
    :param certificate: path of its certificate for TLS; empty: it speaks HTTP
    :param certificate_key: path of the certificate's key
    """

    image: str
    secret: str = field(repr=False)
    agent: dict[str, Any] = field(repr=False)
    users: tuple[str, ...] = ()
    versions: list[int] = field(default_factory=lambda: [1])
    idle: int = 600
    start: int = 60
    canaries: tuple[str, ...] = ()
    plugins: dict[str, str] = field(default_factory=dict)
    network: str = "10.210.0.0/16"
    egress: tuple[str, ...] = ()
    first_uid: int = 700_000
    disk: str = ""
    listen: str = "127.0.0.1:8640"
    certificate: str = ""
    certificate_key: str = ""

    def __post_init__(self) -> None:
        if not _IMAGE.fullmatch(self.image):
            raise OpsError(
                f"{self.image!r} is not an image", where="image", fix="write one such as localhost/hermes-agent:1"
            )
        if not self.versions:
            raise OpsError("is empty", where="versions", fix="write the versions of keys that are accepted, as [1]")
        for version in self.versions:
            key_of(self.secret, "", version)
        self._check_users()
        opened(self.egress, network_of(self.network, len(self.users)))
        if not 10 <= self.idle <= 86_400:
            raise OpsError(f"is {self.idle}", where="idle", fix="write seconds from 10 to 86400")
        if not 5 <= self.start <= 600:
            raise OpsError(f"is {self.start}", where="start", fix="write seconds from 5 to 600")
        for name, path in self.plugins.items():
            _check_plugin(name, path)
        if not _LOWEST_NUMBER <= self.first_uid <= _HIGHEST_NUMBER:
            raise OpsError(
                f"is {self.first_uid}", where="first_uid", fix=f"write one from {_LOWEST_NUMBER} to {_HIGHEST_NUMBER}"
            )
        if self.disk and size(self.disk, "disk") < _LEAST_DISK:
            raise OpsError(f"is {self.disk}", where="disk", fix="write 64M or more, or nothing for no limit")
        # Checked here, and derived once: it is asked for each user.
        _agent = self.supervised

    def _check_users(self) -> None:
        found: dict[str, str] = {}
        for user in self.users:
            identity = hex_of(user)
            if identity in found:
                what = f"has {found[identity]!r} and {user!r}, which are the same"
                raise OpsError(what, where="users", fix="remove one")
            found[identity] = user

    @property
    def edition(self) -> Edition:
        """Another secret is another edition, too: each agent's own key follows from it."""
        text = json.dumps([self.image, self.agent, self.plugins], sort_keys=True)
        digest = hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).hexdigest()
        return Edition(digest[:16], self.image, self.agent, self.plugins)

    def having(self, edition: Edition) -> Runtimes:
        """The same host with another *edition*."""
        return replace(self, image=edition.image, agent=edition.agent, plugins=edition.plugins)

    @cached_property
    def supervised(self) -> Agent:
        """What a supervisor has to know of each of the agents.

        :raises OpsError: it cannot work in a container
        """
        return contained(self.agent, "agent")

    @property
    def disk_limits(self) -> Limits:
        """What each agent may store at most."""
        # Whole MiB: xfs counts blocks, which are larger than the KiB of the kernel's interface.
        space = size(self.disk, "disk") // 2**20 * 2**20 if self.disk else 0
        return Limits(space, space // _SPACE_OF_A_FILE)

    @property
    def url(self) -> str:
        """At which the one server is reached from this host."""
        return f"{'https' if self.certificate else 'http'}://{self.listen}"


def contained(entry: Mapping[str, Any], where: str, refused: Mapping[str, str] | None = None) -> Agent:
    """What a supervisor has to know of an agent that is made by the hundred, each in a container of its own.

    :param entry: of ``hermes_agents``, without a name
    :param where: for errors
    :param refused: further keys that cannot be declared -> what to do instead
    :raises OpsError: it cannot work so
    """
    for key, fix in {
        "name": "leave it out: each agent has one",
        "secrets_from": "hand the secrets in, as secrets",
        "home": f"leave it out: it is {HOME}",
        **(refused or {}),
    }.items():
        if key in entry:
            raise OpsError("cannot be declared here", where=f"{where}: {key}", fix=fix)
    if API_KEY in entry.get("secrets", {}):
        raise OpsError("is derived for each agent", where=f"{where}: secrets.{API_KEY}", fix="leave it out")
    named = {"name": "agent", **entry}
    agent = resolve_alone(named, where, user="its own user", data_dir=DATA, home=HOME, given=[API_KEY]).agent
    for key, server in agent.servers.items():
        if server.tailnet or server.host != "0.0.0.0":
            raise OpsError("cannot be declared here", where=f"{where}: {key}.host", fix="leave it out")
    if not agent.api.enabled:
        raise OpsError("is how its user reaches it", where=f"{where}: api.enabled", fix="leave it out")
    return agent


def _check_plugin(name: str, path: str) -> None:
    if not _PLUGIN.fullmatch(name):
        raise OpsError(f"{name!r} is not a name", where="plugins", fix="use lower-case letters, digits, . _ and -")
    check_path(path, f"plugins: {name}")
