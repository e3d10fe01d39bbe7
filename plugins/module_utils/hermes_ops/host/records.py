# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The records of an agent. They survive a run, a kill, and the loss of the host."""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from ..description.agent import Agent, Placement
from ..system import trees
from ..system.errors import OpsError
from ..system.files import (
    Account,
    check_trusted,
    ensure_directory,
    lock,
    read_bytes,
    read_json,
    write_atomic,
    write_json,
)
from ..system.typed import parse
from ..system.worker import WorkerDied, work

# Maximum size of a file that is kept, in bytes; config.yaml and .env are far smaller.
_KEPT_LIMIT = 1024 * 1024
# The kind under which the agent itself is recorded.
_AGENT = "gateway"


def check_ops(ops_dir: str) -> None:
    """Make sure that only root can change *ops_dir*; see :func:`files.check_trusted`.

    So files that somebody else puts there while the volume is not mounted are not taken for ours.

    :raises OpsError: somebody else can change it
    """
    check_trusted(
        ops_dir,
        fix="check that its volume is mounted; or set hermes_ops_dir to a place that only root can change, such as "
        "/var/lib/hermes-ops",
    )


def contents(paths: list[str]) -> list[str | None]:
    """The contents of an agent's files, in base64; None for a file that does not exist. Runs in a worker."""
    found = [read_bytes(path, _KEPT_LIMIT + 1) for path in paths]
    for path, data in zip(paths, found):
        if data is not None and len(data) > _KEPT_LIMIT:
            raise OpsError(f"is larger than {_KEPT_LIMIT // 1024} KiB", where=path, fix="see what made it so large")
    return [None if data is None else base64.b64encode(data).decode() for data in found]


def read_as(account: Account, paths: list[str]) -> list[bytes | None]:
    """Read an agent's files as *account*, because root must not open them itself; None for a file that does not exist.

    :raises OpsError: one is not a regular file, is too large, or cannot be read
    """
    answer = work(account, "host.records:contents", paths)
    if not isinstance(answer, list) or len(answer) != len(paths):
        raise WorkerDied("the worker's answer has the wrong form", where=account.name)
    try:
        return [None if text is None else base64.b64decode(text) for text in answer]
    except (TypeError, ValueError):
        raise WorkerDied("the worker's answer is not base64", where=account.name) from None


def remembered(ops_dir: str) -> list[str]:
    """The names of all agents that have records.

    :raises OpsError: we may not read them
    """
    directory = os.path.join(ops_dir, "agents")
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except PermissionError:
        raise OpsError("may only be read by root", where=directory, fix="use sudo") from None


def undeclared(ops_dir: str, declared: Collection[str]) -> list[Agent]:
    """The agents that the host has, and that are not among *declared*: nobody said what is to become of them.

    :param declared: the names of the declared agents, absent ones included
    """
    found = []
    for name in remembered(ops_dir):
        # A record that is not valid must not block the declared agents; `hermes-ops check` reports it.
        with contextlib.suppress(OpsError):
            agent = Records(ops_dir, name).agent() if name not in declared else None
            found += [agent] if agent else []
    return found


# What an agent does that left the declaration.
STAYS = "it runs on as it was, also after updates, until that is decided"


def decision(agent: Agent) -> str:
    """What to declare for an agent that left the list ``hermes_agents``."""
    place = f", user: {agent.user}, home: {agent.home}" if agent.adopted else ""
    return (
        f"declare it in hermes_agents as {{name: {agent.name}{place}, state: absent}}, with purge: true to remove its "
        "data as well; or declare it as before"
    )


@dataclass(frozen=True)
class Separated:
    """The former place of an agent that was separated from an adopted home.

    :param aside: where the former home was set aside
    """

    home: str
    user: str
    aside: str


@dataclass(frozen=True)
class Moved:
    """Where an agent has moved to. What it was until then must not run again: its jobs would run twice.

    :param to: the agent that it is now
    :param done: whether it got there; a move that was killed is finished by the next one
    """

    to: str
    done: bool


class Records:
    """The directory ``<ops_dir>/agents/<name>/``, which belongs to the operator, never to the agent.

    ========================  ===========================================================================
    ``applied/<kind>.json``   what we last wrote into its home (kind: ``config``, ``env``, …)
    ``restart.json``          why the gateway must be restarted; written *before* a change, removed *after*
                              the restart, so that the next run finishes one that was killed in between
    ``kept/<file>``           the copy of an agent's file that last proved to work
    ``separated.json``        the former place of an agent that was separated from an adopted home
    ``moved.json``            where the agent has moved to, so it is not started here; see :class:`Moved`
    ``restore.json``          the journal of a restore of its home; exists only while it is under way
    ``undeclared.json``       exists while the host has an agent that is no longer declared
    ``lock``                  held by the process that changes the agent
    ========================  ===========================================================================

    :param ops_dir: absolute path, usually ``<hermes_data_dir>/ops``
    :param name: of the agent
    :raises OpsError: somebody other than root could replace *ops_dir*
    """

    def __init__(self, ops_dir: str, name: str) -> None:
        self.ops_dir = ops_dir
        self.directory = os.path.join(ops_dir, "agents", name)
        if os.path.lexists(ops_dir):
            check_ops(ops_dir)

    def prepare(self) -> None:
        """Make the directories (0700, ours)."""
        check_ops(self.ops_dir)
        for path in (self.ops_dir, os.path.dirname(self.directory), self.directory):
            ensure_directory(path, mode=0o700)
        for name in ("applied", "kept"):
            ensure_directory(os.path.join(self.directory, name), mode=0o700)

    def lock(self, timeout: float = 60.0):
        """Hold the agent's lock; see :func:`files.lock`. Call :meth:`prepare` first."""
        return lock(os.path.join(self.directory, "lock"), timeout=timeout)

    def applied(self, kind: str) -> dict[str, Any]:
        """What was last applied; ``{}`` when nothing was yet."""
        return read_json(self._path_of(kind)) or {}

    def write_applied(self, kind: str, value: dict[str, Any]) -> None:
        write_json(self._path_of(kind), value)

    def agent(self) -> Agent | None:
        """The agent as it was last converged; None when it never was, or is absent.

        :raises OpsError: the record is not valid, for example that of an earlier version
        """
        found = self.applied(_AGENT)
        return Agent.from_plain(found, self._path_of(_AGENT)) if found else None

    def write_agent(self, agent: Agent) -> None:
        """Record *agent* for ``hermes-ops``, which has no controller to ask. Forget an absent agent."""
        if not agent.present:
            self.forget_applied(_AGENT)
        elif self.applied(_AGENT) != agent.to_plain():
            self.prepare()
            self.write_applied(_AGENT, agent.to_plain())

    def keep(self, path: str, account: Account, *, replace: bool = False) -> None:
        """Keep a copy of *path*.

        A file that cannot be read is skipped, so that an agent cannot make an update or a restore fail with it.

        :param replace: the file is known to work, so it replaces a copy that is kept already
        """
        data = None
        with contextlib.suppress(OpsError):
            (data,) = read_as(account, [path])
        if data is not None:
            self.keep_content(os.path.basename(path), data, replace=replace)

    def keep_content(self, name: str, data: bytes, *, replace: bool = False) -> None:
        """Keep *data* as the content of the agent's file *name*; see :meth:`keep`."""
        kept = os.path.join(self.directory, "kept", name)
        if os.path.exists(kept) and not replace:
            return
        if data != read_bytes(kept):
            write_atomic(kept, data, mode=0o600)

    def read_kept(self, name: str) -> bytes | None:
        """The kept copy of the file *name*; None when there is none."""
        return read_bytes(os.path.join(self.directory, "kept", name))

    def request_restart(self, reasons: list[str]) -> None:
        """Record that the gateway has to be restarted. Called before the change that requires it."""
        if reasons:
            write_json(self._restart_path, {**self._requested(), **dict.fromkeys(reasons, time.time())})

    def restart_reasons(self) -> list[str]:
        """Why a restart is due; empty when none is."""
        return list(self._requested())

    def restarted(self, since: float) -> None:
        """Forget the reasons recorded before *since*, the start of the restart in seconds since 1970."""
        if not os.path.exists(self._restart_path):
            return
        with self.lock():
            later = {reason: when for reason, when in self._requested().items() if when >= since}
            if later:
                write_json(self._restart_path, later)
            else:
                os.unlink(self._restart_path)

    def _requested(self) -> dict[str, float]:
        return read_json(self._restart_path) or {}

    def forget_applied(self, kind: str) -> None:
        """Undo :meth:`write_applied`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path_of(kind))

    def separated(self) -> Separated | None:
        """The agent's place before it was separated; None: it was not separated."""
        found = read_json(self._separated_path)
        return parse(Separated, found, self._separated_path) if found else None

    def adopted(self, placement: Placement) -> bool:
        """Whether the agent's home holds what its owner had, also after the agent was separated from the first one."""
        return placement.adopted or self.separated() is not None

    def write_separated(self, was: Separated) -> None:
        write_json(self._separated_path, asdict(was))

    def moved(self) -> Moved | None:
        """Where the agent has moved to, or is moving to; None: it is here."""
        found = read_json(self._moved_path)
        return parse(Moved, found, self._moved_path) if found else None

    def write_moved(self, moved: Moved | None) -> None:
        if moved:
            self.prepare()
            write_json(self._moved_path, asdict(moved))
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._moved_path)

    def refuse_moved(self) -> None:
        """:raises OpsError: the agent has moved, so it must not be started here"""
        moved = self.moved()
        if moved:
            raise OpsError(
                f"has moved to {moved.to}" if moved.done else f"is moving to {moved.to}, or that was interrupted",
                where=f"agent {os.path.basename(self.directory)}",
                fix="move it with hermes-ops runtime move; to start it with what is here nevertheless, "
                f"rm {self._moved_path}",
            )

    def mark_undeclared(self, marked: bool) -> None:
        """Record that the agent is on the host, but no longer declared; or that it is."""
        if marked != self.is_undeclared():
            if marked:
                write_json(self._undeclared_path, {"since": time.time()})
            else:
                os.unlink(self._undeclared_path)

    def is_undeclared(self) -> bool:
        return os.path.exists(self._undeclared_path)

    def exist(self) -> bool:
        return os.path.isdir(self.directory)

    def remove(self) -> None:
        """Forget everything about the agent."""
        trees.remove(self.directory)

    def _path_of(self, kind: str) -> str:
        return os.path.join(self.directory, "applied", f"{kind}.json")

    @property
    def _separated_path(self) -> str:
        return os.path.join(self.directory, "separated.json")

    @property
    def _moved_path(self) -> str:
        return os.path.join(self.directory, "moved.json")

    @property
    def _undeclared_path(self) -> str:
        return os.path.join(self.directory, "undeclared.json")

    @property
    def _restart_path(self) -> str:
        return os.path.join(self.directory, "restart.json")
