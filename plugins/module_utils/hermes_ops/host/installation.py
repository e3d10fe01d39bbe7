# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This host as it was last converged. Every command of ``hermes-ops`` starts from it."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeVar

from ..description.agent import Agent, Placement
from ..description.schema import DEFAULT_PROFILE
from ..system.errors import OpsError, Refused
from ..system.files import Account, ensure_directory, lock, read_json, write_json
from ..system.systemd import Manager
from ..system.typed import parse
from .records import Records, check_ops, remembered

# Jobs that keep a journal until they are finished or undone, and its path below ops_dir. Each restore has one of its
# own, in the records of its agent: an agent can make the undoing of its restore fail, which must not block the others.
JOURNALS = {"restore": "agents/*/restore.json", "separate": "separate.json", "update": "update/journal.json"}
# Jobs whose status people see: how they ended last.
RECORDED_JOBS = ("backup", "rehearsal", "update")
# Written by the module kit; names and paths only.
HOST_FILE = "/etc/hermes-ops/host.json"
# <name>.json: the facts that an agent's own user needs, since only root may read the descriptions.
AGENTS = "/etc/hermes-ops/agents"


@dataclass(frozen=True)
class Published:
    """The facts about an agent that everybody on the host may read.

    :param managed_dir: directory of its managed scope; None: it has none
    """

    name: str
    user: str
    home: str
    managed_dir: str | None


_Named = TypeVar("_Named", Agent, Published)


class Installation:
    """Names and paths of a converged host, and its agents.

    ::

        <ops_dir>/status/<job>.json    how a job (update, backup, …) ended last
        <ops_dir>/<job>.lock           held while the job runs

    :param host: the content of :data:`HOST_FILE`
    """

    def __init__(self, host: dict[str, Any]) -> None:
        self.scope: str = host["scope"]
        self.data_dir: str = host["data_dir"]
        self.ops_dir: str = host["ops_dir"]
        self.root: str = host["root"]
        self.managed_root: str = host["managed_root"]
        # Whether data_dir is the mount point of a declared data volume.
        self.data_volume: bool = host.get("data_volume", False)
        self.acknowledged: list[dict[str, Any]] = host.get("acknowledged", [])

    @classmethod
    def load(cls, path: str = HOST_FILE, *, unmounted: bool = False) -> Installation:
        """
        :param unmounted: the caller can do without the data volume: it reports on the host
        :raises OpsError: the host was not converged, or last by an earlier version, or its data volume is missing
        """
        host = read_json(path)
        if host is None:
            raise OpsError("does not exist", where=path, fix="converge the host: site.yml")
        if "hermes_home" in host:
            raise OpsError("is of an earlier version", where=path, fix="take the host over: docs/adopting.md")
        found = cls(host)
        if found.data_volume and not unmounted and not os.path.ismount(found.data_dir):
            from .volume import not_mounted

            raise not_mounted(found.data_dir)
        return found

    def account_of(self, placement: Placement) -> Account:
        """The user as whom an agent runs.

        :raises OpsError: there is no such user on this host
        """
        return Account.of(placement.user)

    def manager_of(self, placement: Placement) -> Manager:
        """The manager that runs the gateway of an agent."""
        return Manager(self.scope, self.account_of(placement))

    @cached_property
    def agents(self) -> list[Agent]:
        """The agents that are present, by name.

        :raises OpsError: when we may not read them
        """
        found = [self.records(name).agent() for name in remembered(self.ops_dir)]
        return [agent for agent in found if agent and agent.present]

    def select(self, name: str | None) -> list[Agent]:
        """All agents, or the one that is called *name*.

        :raises OpsError: when there is no such agent
        """
        return [choose(self.agents, name)] if name else self.agents

    def one(self, name: str | None) -> Agent:
        """The agent that is called *name*; without a name ``default``, or the only one there is.

        :raises OpsError: when there is no such agent, or a name is needed
        """
        return choose(self.agents, name)

    def records(self, name: str) -> Records:
        return Records(self.ops_dir, name)

    @contextlib.contextmanager
    def lock(self, job: str, timeout: float = 1.0) -> Iterator[int]:
        """Hold the lock of *job*; yields its descriptor, for workers: so they keep the lock if this process is killed.

        :param timeout: seconds to wait for another holder; :meth:`busy` holds it, too, but only for an instant
        :raises Refused: another process still holds it
        """
        check_ops(self.ops_dir)
        ensure_directory(self.ops_dir, mode=0o700)
        with lock(os.path.join(self.ops_dir, f"{job}.lock"), timeout=timeout) as descriptor:
            try:
                yield descriptor
            finally:
                # Also for a worker that inherits it and cannot be killed, since it waits for what its agent has mounted
                # (FUSE). It does nothing any more, and must not keep the lock from later jobs.
                fcntl.flock(descriptor, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def alone(self, job: str, timeout: float = 1.0) -> Iterator[bool]:
        """Like :meth:`lock`, for work that has to be done in any case: yields whether the lock is held.

        It is not when another process still holds it after *timeout*, or on a disk that is read-only or not mounted.
        """
        with contextlib.ExitStack() as stack:
            try:
                alone = os.path.isdir(self.ops_dir)
                if alone:
                    stack.enter_context(self.lock(job, timeout))
            except OpsError:
                alone = False
            yield alone

    def busy(self, job: str) -> bool:
        """Whether *job* is running now."""
        return is_busy(self.ops_dir, job)

    def unfinished(self, job: str, agent: str = "*") -> bool:
        """Whether *job* (a key of :data:`JOURNALS`) was begun, and neither finished nor undone.

        :param agent: only that of this agent, if *job* has a journal for each
        """
        return bool(journals(self.ops_dir, job, agent))

    def write_status(self, job: str, status: str, message: str, **more: Any) -> None:
        """Record how *job* ended.

        :param status: one word for programs, e.g. ``success``
        :param message: one sentence for people
        """
        path = self.status_path(job)
        ensure_directory(self.ops_dir, mode=0o700)
        ensure_directory(os.path.dirname(path), mode=0o700)
        write_json(path, {"status": status, "message": message, "finished": time.time(), **more})

    def read_status(self, job: str) -> dict[str, Any]:
        """How *job* ended last: ``status``, ``message``, ``finished`` (seconds since 1970) and more; ``{}``: never."""
        return read_json(self.status_path(job)) or {}

    def status_path(self, job: str) -> str:
        return os.path.join(self.ops_dir, "status", f"{job}.json")


def choose(agents: Sequence[_Named], name: str | None) -> _Named:
    """The one of *agents* that is called *name*; without a name the only one there is, or ``default``.

    :raises OpsError: when there is no such agent, or a name is needed
    """
    known = {agent.name: agent for agent in agents}
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name is None and known and DEFAULT_PROFILE not in known:
        raise OpsError("there are several agents, and none is called default", fix=f"name one: {', '.join(known)}")
    wanted = DEFAULT_PROFILE if name is None else name
    if wanted not in known:
        raise OpsError(f"there is no agent {wanted!r}", fix=f"known ones: {', '.join(known) or 'none'}")
    return known[wanted]


def publish(agent: Agent) -> None:
    """Publish the agent's home and user to everybody on this host, or remove the entry of an absent agent."""
    path = os.path.join(AGENTS, f"{agent.name}.json")
    if not agent.present:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    said = asdict(Published(agent.name, agent.user, agent.home, agent.managed))
    if read_json(path) != said:
        ensure_directory(AGENTS, mode=0o755)
        write_json(path, said, mode=0o644)


def published() -> list[Published]:
    """The agents of this host, by name.

    :raises OpsError: one of the files is damaged, or not written by us
    """
    try:
        names = sorted(os.listdir(AGENTS))
    except FileNotFoundError:
        return []
    paths = [os.path.join(AGENTS, name) for name in names if name.endswith(".json")]
    return [parse(Published, found, path) for path in paths if (found := read_json(path))]


def is_busy(ops_dir: str, job: str) -> bool:
    """Whether *job* is running now. Works on a read-only disk, too."""
    try:
        descriptor = os.open(os.path.join(ops_dir, f"{job}.lock"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def refuse_others(host: Installation, agent: Agent | None = None) -> None:
    """Refuse what would come between a job that stops gateways and those gateways.

    :param agent: as for :func:`refuse_unfinished`; None: its home is about to be replaced
    :raises Refused: an update or a separation is running
    :raises OpsError: one was interrupted
    """
    for job, name in {"update": "an update", "separate": "a separation"}.items():
        if host.busy(job):
            raise Refused(f"{name} is running", fix="wait for it")
        if host.unfinished(job):
            raise OpsError(f"{name} was interrupted", fix=f"undo it first: hermes-ops {job} --recover")
    if agent is not None:
        refuse_unfinished(host, agent)


def refuse_unfinished(host: Installation, agent: Agent) -> None:
    """:raises OpsError: a separation, or a restore of *agent*, is unfinished, so its home may be incomplete"""
    for job in ("restore", "separate"):
        if host.unfinished(job, agent.name):
            raise OpsError(
                f"a {job} is under way or was interrupted",
                fix=f"wait for it, or undo it: hermes-ops {job} --recover",
            )


def journals(ops_dir: str, job: str, agent: str = "*") -> list[str]:
    """The paths of the journals that exist; see :meth:`Installation.unfinished`."""
    return sorted(glob.glob(os.path.join(glob.escape(ops_dir), JOURNALS[job].replace("*", agent))))
