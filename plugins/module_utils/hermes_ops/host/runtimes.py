# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The users who have a runtime on this host, and where what belongs to them lies.

::

    <ops_dir>/runtimes/<id>.json        the user
    <ops_dir>/runtimes/<id>.next        when the sleeping agent has to be woken for cron
    <data_dir>/users/<id>/              the user's volume, which is /opt/data in the container
    <ops_dir>/runtimes.proven.json      the edition that all agents had last, see Edition
    <ops_dir>/runtimes.rollout.json     the journal of the rollout of another one
    /run/hermes-runtimes/shared/<id>/   what all containers of an edition have in common
    /run/hermes-runtimes/users/<id>/    the variables of the units of one, and the secrets of the agent by edition
    /run/hermes-runtimes/sockets/       where callers reach them
    /run/hermes-runtimes/webhooks/<id>  the address at which the container takes webhooks
    /run/hermes-runtimes/starting/<id>  the agent is being started
    /run/hermes-runtimes/failed/<id>    why the agent could not be started the last time
    /run/hermes-runtimes/proxy/         what the server that callers use needs to know
    /run/hermes-runtimes/written        of which declaration all this is
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..description.runtime_ids import hex_of
from ..description.runtimes import HOME
from ..system.errors import OpsError
from ..system.files import Account, ensure_directory, lock, read_json, write_json
from ..system.typed import parse, plain
from . import settings
from .records import check_ops

# The name of the role and of its settings.
JOB = "runtimes"
# The unit that makes what is in memory, at boot.
BOOT = "hermes-runtimes.service"
# The unit that brings a changed declaration to the agents, also after it was killed.
ROLLOUT = "hermes-runtimes-rollout.service"

RUN = "/run/hermes-runtimes"
SHARED, USERS, SOCKETS = (f"{RUN}/{name}" for name in ("shared", "users", "sockets"))
STARTING, FAILED, WEBHOOKS = (f"{RUN}/{name}" for name in ("starting", "failed", "webhooks"))
# Beside the volumes there is nothing in it that an agent can write.
VOLUMES = "users"
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class User:
    """A user who has a runtime.

    :param name: their id, as callers write it
    :param number: given once, from 0; their UNIX user and their address follow from it
    :param off: whether no call wakes the agent
    """

    name: str
    number: int
    off: bool = False

    @property
    def id(self) -> str:
        """By which units, the container, its volume and directories are called."""
        return hex_of(self.name)

    @property
    def agent(self) -> str:
        """The agent's name in backups and records, among those of the other agents of this host."""
        return f"user-{self.id}"

    @property
    def container(self) -> str:
        return f"hermes-user-{self.id}"

    @property
    def socket(self) -> str:
        return f"{SOCKETS}/{self.id}.sock"

    @property
    def webhooks(self) -> str:
        return f"{WEBHOOKS}/{self.id}"

    @property
    def starting(self) -> str:
        return f"{STARTING}/{self.id}"

    @property
    def failed(self) -> str:
        return f"{FAILED}/{self.id}"

    def directory(self, data_dir: str) -> str:
        """What is on the volume."""
        return os.path.join(data_dir, VOLUMES, self.id)

    def home(self, data_dir: str) -> str:
        """The agent's HERMES_HOME, as the host sees it."""
        return os.path.join(self.directory(data_dir), os.path.basename(HOME))

    def account(self, first_uid: int, data_dir: str) -> Account:
        """The UNIX user of the container, who has no name."""
        uid = first_uid + self.number
        return Account(str(uid), uid, uid, self.directory(data_dir))


class Users:
    """The users who have a runtime, remembered where it outlives the host."""

    def __init__(self, ops_dir: str) -> None:
        self.ops_dir = ops_dir
        self.directory = os.path.join(ops_dir, "runtimes")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only one who makes or removes runtimes.

        :raises Refused: somebody else does, for a minute
        """
        check_ops(self.ops_dir)
        ensure_directory(self.ops_dir, mode=0o700)
        with lock(os.path.join(self.ops_dir, f"{JOB}.lock"), timeout=60.0):
            ensure_directory(self.directory, mode=0o700)
            yield

    def all(self) -> list[User]:
        """By number.

        :raises OpsError: a record cannot be used
        """
        # One may be forgotten meanwhile.
        found = filter(None, map(self.by_id, self.ids()))
        return sorted(found, key=lambda user: user.number)

    def by_id(self, identity: str) -> User | None:
        """The user whom units call by :attr:`User.id`; None: there is none.

        :raises OpsError: the record cannot be used
        """
        check_ops(self.ops_dir)
        path = self._path(identity)
        record = read_json(path) if _ID.fullmatch(identity) else None
        if record is None:
            return None
        user = parse(User, record, path)
        if user.id != identity or user.number < 0:
            raise OpsError(f"is not the record of {identity}", where=path, fix="restore it from a backup of the host")
        return user

    def find(self, name: str) -> User | None:
        """The user *name*, an id as callers write it. 32 digits are one, too: never those of another user."""
        return self.by_id(hex_of(name))

    def get(self, name: str) -> User:
        """:raises OpsError: there is no such user"""
        found = self.find(name)
        if not found:
            raise OpsError(
                "has no runtime here", where=f"user {name}", fix="see hermes-ops runtime list, or make it: ensure"
            )
        return found

    def enrol(self, names: Iterable[str], room: int) -> list[User]:
        """The users *names*, remembered, and none of them off; the caller has the :meth:`lock`.

        A number is given again only when the user who had it is forgotten.

        :param room: how many users the network has addresses for
        :raises OpsError: there is no room for one of them; those before it are enrolled
        """
        known = {user.id: user for user in self.all()}
        free = _free(user.number for user in known.values())
        found = []
        for name in names:
            user = known.get(hex_of(name)) or User(name, next(free))
            if user.number >= room:
                raise OpsError(
                    f"has room for {room} users", where="network", fix="declare a larger one, or remove users"
                )
            if user.off or user.id not in known:
                user = replace(user, off=False)
                self.write(user)
            found.append(user)
        return found

    def write(self, user: User) -> None:
        write_json(self._path(user.id), plain(user))

    def forget(self, user: User) -> None:
        if os.path.exists(self._path(user.id)):
            os.unlink(self._path(user.id))

    def ids(self) -> list[str]:
        """Of all users, in no order."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return [name[:-5] for name in names if name.endswith(".json") and _ID.fullmatch(name[:-5])]

    def _path(self, identity: str) -> str:
        return os.path.join(self.directory, f"{identity}.json")


def present() -> bool:
    """Whether this host has runtimes, or something is left of them."""
    return os.path.lexists(settings.path_of(JOB))


def _free(taken: Iterable[int]) -> Iterator[int]:
    """The numbers that are not *taken*, from 0."""
    taken, number = set(taken), 0
    while True:
        if number not in taken:
            yield number
        number += 1
