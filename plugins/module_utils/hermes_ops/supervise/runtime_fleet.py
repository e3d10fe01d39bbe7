# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agents of a host's users, as a rollout sees and changes them.

No turn is cut, and no call is lost, when an agent is restarted: its front, which passes the connections on, is stopped
by SIGSTOP first, between two calls: one that it had accepted, or its answer, would be lost with it. Then no new call
reaches the agent, and those that come wait in the socket. Only an agent that still has no work after that is restarted;
the front goes on when the new one is healthy. A call that slips in while there was no front has the time that Hermes
gives its work when it is told to end (``drain``).
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import time
from collections.abc import Callable

from ..description.runtimes import Edition
from ..host.records import check_ops
from ..host.runtimes import User
from ..system.errors import OpsError
from ..system.files import ensure_directory, lock, write_atomic
from ..system.process import run
from ..system.services import UNIT_MODE
from ..system.unix_sockets import accepted
from . import editions, runtime_agents, runtimes
from .resting import REST
from .rollout import Journal, Rollout
from .runtime_host import Host
from .runtime_units import AGENT, EDITION, FRONT, LENT, PODMAN, UNIT_DIRECTORY, render

# Times that a moment is looked for in which a front has no connection, and seconds between two of them.
_MOMENTS, _MOMENT = 20, 0.1
# Seconds from when no call reaches an agent any more until its work shows, see work.py.
_SETTLE = 2.0
# Seconds beyond an agent's own times for its end and its start.
_GRACE = 60.0
# A front whose agent could not be started turns callers away, for a second after the last one.
_TRIES, _TURNED_AWAY = 3, 2.0


def rollout(host: Host, say: Callable[[str], object]) -> list[str]:
    """Have the running agents get what is declared, or go back, see :meth:`Rollout.run`.

    :returns: names of users whose agents get it at their next start, since they are at work
    """
    check_ops(host.ops_dir)
    ensure_directory(host.ops_dir, mode=0o700)
    with lock(os.path.join(host.ops_dir, "runtimes.rollout.lock"), timeout=2.0):
        target = host.settings.edition
        try:
            former = editions.read_former(host.settings, host.ops_dir)
        except OpsError as error:
            say(f"there is nothing to go back to: {error}")
            former = None
        canaries = [_canary(host, name) for name in host.settings.canaries]
        fleet = HostFleet(host, [edition for edition in (former, target) if edition])
        what = editions.changes(former, target)
        if former and former.id != target.id and _is_gone(former) and not fleet.running():
            say("nobody could be woken with what was declared before, so there is nothing to go back to")
            former = None
        machine = Rollout(fleet, what, target.id, former.id if former else None, canaries, say)
        return [fleet.name(user) for user in machine.run()]


def _is_gone(edition: Edition) -> bool:
    if not all(map(os.path.isdir, edition.plugins.values())):
        return True
    # Any other status says that podman does not know (podman-image-exists(1)).
    return run([PODMAN, "image", "exists", edition.image], timeout=_GRACE, check=False).rc == 1


def _canary(host: Host, name: str) -> str:
    user = host.users.get(name)
    if user.off:
        raise OpsError("is stopped, and cannot be a canary", where=f"user {name}", fix="name another, or ensure it")
    return user.id


class HostFleet:
    """See :class:`rollout.Fleet`.

    :param known: the former edition, if there is one, and the new one
    """

    def __init__(self, host: Host, known: list[Edition]) -> None:
        self.host = host
        self.known = {edition.id: edition for edition in known}
        self.target = known[-1]
        drains = (host.settings.having(edition).supervised.drain for edition in known)
        self.patience = host.settings.start + max(drains) + _GRACE

    def journal(self) -> Journal | None:
        return editions.journal(self.host.ops_dir)

    def write(self, journal: Journal) -> None:
        editions.write_journal(self.host.ops_dir, journal)

    def forget(self) -> None:
        editions.forget_journal(self.host.ops_dir)

    def running(self) -> dict[str, str]:
        users = {user.container: user.id for user in self._users()}
        words = [PODMAN, "--events-backend=none", "ps", "--filter=name=^hermes-user-", "--format=json"]
        answer = run(words, timeout=_GRACE).stdout
        found = dict.fromkeys(runtime_agents.in_state(self.host, "activating"), "")
        for container in json.loads(answer or "[]") or []:
            for name in container["Names"]:
                if name in users:
                    found[users[name]] = (container["Labels"] or {}).get(EDITION, "")
        return found

    def sleepers(self) -> list[str]:
        running = self.running()
        # One whose home is being restored has no socket.
        return [user.id for user in self._users() if user.id not in running and os.path.lexists(user.socket)]

    def is_busy(self, user: str) -> bool:
        one = self._find(user)
        if one is None:
            return True
        agent = runtimes.agent_of(self.host, one)
        if not agent.running:
            return True
        work = runtimes.work_of(self.host, one, agent)
        # What cannot be read may be a turn.
        return bool(work.busy or work.unread)

    def lend(self, users: list[str], edition: str) -> None:
        self._take_back()
        for user in users:
            write_atomic(f"{LENT}/{AGENT.format(user)}", self._text(self.known[edition]), mode=UNIT_MODE)
        self.host.manager.call("daemon-reload")

    def switch(self, edition: str) -> None:
        write_atomic(f"{UNIT_DIRECTORY}/{AGENT.format('')}", self._text(self.known[edition]), mode=UNIT_MODE)
        self._take_back()
        self.host.manager.call("daemon-reload")

    def restart(self, users: list[str]) -> dict[str, str | None]:
        try:
            held = self._hold(users)
            time.sleep(_SETTLE)
            free = [user for user in held if not (self.is_busy(user) or self._is_called(user))]
            self._signal("SIGCONT", [user for user in held if user not in free])
            if free:
                # One that fell asleep stays so.
                self._call("try-restart", free, AGENT)
        finally:
            self._signal("SIGCONT", users)
        return {user: self.failure(user) for user in free}

    def wake(self, user: str) -> str | None:
        one = self._find(user)
        if one is None:
            return None
        if self.failure(user):
            # Its front may still be about to turn callers away, and a start with another edition be under way.
            self._call("stop", [user], FRONT, REST, AGENT)
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_TURNED_AWAY)
            if runtimes.wake(self.host, one):
                return None
        return self.failure(user) or "it did not answer"

    def failure(self, user: str) -> str | None:
        one = self._find(user)
        return runtimes.reason_of(one) if one else None

    def release(self, users: list[str]) -> None:
        self._signal("SIGCONT", users)

    def prove(self) -> None:
        editions.prove(self.host.ops_dir, self.target)
        editions.keep_only({self.target.id, *self.running().values()})

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()

    def name(self, user: str) -> str:
        found = self.host.users.by_id(user)
        return found.name if found else user

    def _users(self) -> list[User]:
        return [user for user in self.host.users.all() if not user.off]

    def _find(self, user: str) -> User | None:
        """None: the user was removed or stopped meanwhile, and is nobody's canary."""
        found = self.host.users.by_id(user)
        return found if found and not found.off else None

    def _text(self, edition: Edition) -> str:
        texts = render(self.host.settings, edition, self.host.data_dir, self.host.ops_dir)
        return texts[f"{UNIT_DIRECTORY}/{AGENT.format('')}"]

    def _take_back(self) -> None:
        for path in glob.glob(f"{LENT}/{AGENT.format('*')}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _hold(self, users: list[str]) -> list[str]:
        """Stop the fronts of *users*, each between two calls; returns those that could be."""
        called = users
        for _moment in range(_MOMENTS):
            self._signal("SIGSTOP", called)
            called = [user for user in called if self._is_called(user)]
            if not called:
                break
            self._signal("SIGCONT", called)
            time.sleep(_MOMENT)
        return [user for user in users if user not in called]

    def _is_called(self, user: str) -> bool:
        """Whether the front has a connection that it accepted."""
        one = self._find(user)
        try:
            return one is not None and accepted(one.socket) > 0
        except OSError:
            # A kernel that does not list Unix sockets.
            return False

    def _signal(self, name: str, users: list[str]) -> None:
        if users:
            # A front that does not run is none of our business.
            self._call("kill", users, FRONT, f"--signal={name}")

    def _call(self, verb: str, users: list[str], *units: str) -> None:
        options = [unit for unit in units if unit.startswith("--")]
        names = [unit.format(user) for user in users for unit in units if unit not in options]
        self.host.manager.call(verb, *options, *names, check=False, timeout=self.patience)
