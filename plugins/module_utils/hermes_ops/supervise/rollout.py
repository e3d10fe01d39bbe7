# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the agents of users get a changed declaration: canaries first, then the others that run, in batches.

::

    (new edition) -> canaries -> batches -> (proven)
                        |           |
                        +-> back <--+ -> failed

Until ``batches``, only the canaries have the new edition; agents that are woken meanwhile get the former one. From
``batches`` on, woken agents get the new one. An agent is restarted only when it has no work. One that is at work for
too long is left alone: it gets the edition at its next start.

No user decides alone, since an agent can fail on purpose: where no canary is named, a second one is asked when the
first is not healthy; and in the batches, one agent that is not healthy, or a tenth of them, holds up nobody else. One
that is not healthy with the former edition either does not count.

The journal is written before each step. Which agents have which edition is not in it: their containers say so
(:meth:`Fleet.running`). So a run that was killed is simply begun again at its phase.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..system.errors import OpsError, Refused

CANARIES, BATCHES, BACK, FAILED = "canaries", "batches", "back", "failed"
# Seconds for which agents are waited for that are at work, and between two looks at them.
PATIENCE, PAUSE = 1800.0, 5.0
# Seconds after its start after which a canary has still not to have failed.
PROOF = 15.0
# Agents that are restarted at once: this part of those that run, and at most so many.
_PART, _MOST = 2, 10
# Canaries that are asked if none is named. Agents that may fail in the batches: one, or this part of those that got it.
_ASKED, _TOLERATED = 2, 10


@dataclass
class Journal:
    """The facts needed to go on or back.

    :param target: id of the edition that is rolled out
    :param phase: one of the four above
    :param touched: ids of the users whose agents are being restarted
    :param failed: id of a user -> why the agent is not healthy with the edition
    :param ill: those of them whose agents are not healthy with the former one either
    :param problem: why it goes back; empty: it does not, or another edition was declared
    """

    target: str
    phase: str = CANARIES
    touched: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    ill: list[str] = field(default_factory=list)
    problem: str = ""


class _Unhealthy(OpsError):
    """Agents are not healthy with the edition.

    :param users: id -> why
    """

    def __init__(self, text: str, where: str, users: dict[str, str]) -> None:
        super().__init__(text, where=where)
        self.users = users


class Fleet(Protocol):
    """The agents of a host. Users are named by their ids."""

    def journal(self) -> Journal | None:
        """That of a run that did not finish, or failed."""

    def write(self, journal: Journal) -> None: ...

    def forget(self) -> None:
        """Remove the journal."""

    def running(self) -> dict[str, str]:
        """User -> id of the edition that the running agent was started with; empty: it is being started."""

    def sleepers(self) -> list[str]:
        """The users whose agents a call would wake."""

    def is_busy(self, user: str) -> bool:
        """Whether the agent is at work, or starts."""

    def lend(self, users: list[str], edition: str) -> None:
        """Have just these users' agents start with *edition*, the new or the former one."""

    def switch(self, edition: str) -> None:
        """Have all agents start with *edition*, the new or the former one."""

    def restart(self, users: list[str]) -> dict[str, str | None]:
        """Restart the running agents of *users*; calls wait meanwhile.

        :returns: user -> why the agent is not healthy; None: it is. Users whose agents have got work are left out
        """

    def wake(self, user: str) -> str | None:
        """Start the agent as a call does; returns why it is not healthy."""

    def failure(self, user: str) -> str | None:
        """Why the agent could not be started the last time, or ended."""

    def release(self, users: list[str]) -> None:
        """Let the calls go on that a killed :meth:`restart` left waiting."""

    def prove(self) -> None:
        """Record that the new edition is good, and remove those that nobody uses."""

    def sleep(self, seconds: float) -> None: ...

    def now(self) -> float:
        """Seconds, by a clock that nobody sets."""

    def name(self, user: str) -> str:
        """As people know the user."""


@dataclass
class Rollout:
    """One rollout on one host.

    :param what: the change, for people
    :param target: id of the declared edition
    :param former: id of the edition that proved good; None: there was none
    :param canaries: ids of users whose agents get it first; empty: of one user, whoever is free
    :param say: gets a line for each step
    """

    fleet: Fleet
    what: str
    target: str
    former: str | None
    canaries: list[str]
    say: Callable[[str], object]
    _busy: set[str] = field(default_factory=set, init=False)

    def run(self) -> list[str]:
        """Have the running agents get the declared edition, or go back to the former one.

        Killed at any point, it is finished by the next call.

        :returns: users whose agents were at work all the time, and get the edition at their next start
        :raises Refused: it could not be tried, since all canaries were at work; nothing has changed
        :raises OpsError: it failed, and the former edition is back; or it did so before, and its journal is still there
        """
        journal = self._recovered()
        if self.former is None:
            # There is nothing to go back to.
            journal = Journal(self.target, BATCHES)
        elif journal is None and self.former == self.target:
            return []
        journal = journal or Journal(self.target)
        try:
            self.fleet.write(journal)
            if journal.phase == CANARIES:
                self._try(journal)
                self._enter(journal, BATCHES)
            self.fleet.switch(self.target)
            weigh = self._weigh if self.former else _ignore
            # After a kill. One that had not failed yet runs by now, or is stopped as any other.
            weigh(journal, {user: self.fleet.wake(user) for user in self._broken(journal)})
            left = self._renew(journal, list, self.target, weigh)
        except Refused:
            self._back(journal)
            raise
        except OpsError as error:
            if self.former is None:
                raise
            journal.problem = str(error)
            self._back(journal)
            raise failed(journal) from None
        for user, why in journal.failed.items():
            self.say(f"not healthy with it, and left so: user {self.fleet.name(user)}: {why}")
        self.fleet.prove()
        self.fleet.forget()
        return left

    def _recovered(self) -> Journal | None:
        """The journal of a run that is to go on; one that must not is ended first.

        :raises OpsError: it failed
        """
        journal = self.fleet.journal()
        if journal is None:
            return None
        self.fleet.release(journal.touched)
        if journal.phase != FAILED and (journal.phase == BACK or journal.target != self.target):
            self._back(journal)
        elif journal.phase != FAILED:
            self.say("going on, after an interruption")
            return journal
        if journal.phase == FAILED and journal.target == self.target and self.former is not None:
            raise failed(journal)
        self.fleet.forget()
        return None

    def _try(self, journal: Journal) -> None:
        """:raises Refused: no canary was free
        :raises OpsError: they are not healthy
        """
        while self._counted(journal) < _ASKED and (chosen := self._await_canaries(journal)):
            self.say(f"trying {self.what} with {self._names(chosen)}")
            try:
                self._ask(journal, chosen)
                return
            except _Unhealthy as error:
                self._note(journal, error.users)
                if self.canaries or len(journal.failed) == _MOST:
                    break
            # Now they have the former one again.
            self.fleet.lend([], self.target)
            journal.ill += [user for user in chosen if self.fleet.wake(user)]
        self._judge(journal, journal.failed)

    def _await_canaries(self, journal: Journal) -> list[str]:
        """The canaries, as soon as they are free; none: there is no user, or no other than those that failed.

        :raises Refused: none was free
        """
        deadline = self.fleet.now() + PATIENCE
        while not (chosen := self._chosen(journal)):
            if not self.fleet.running().keys() - journal.failed.keys():
                return []
            if self.fleet.now() >= deadline:
                raise _busy()
            self.fleet.sleep(PAUSE)
        return chosen

    def _ask(self, journal: Journal, chosen: list[str]) -> None:
        """:raises Refused: a canary stays at work
        :raises _Unhealthy: one is not healthy
        """
        self.fleet.lend(chosen, self.target)
        running = self.fleet.running()
        for user in chosen:
            if user not in running:
                journal.touched = [user]
                self.fleet.write(journal)
                self._judge(journal, {user: self.fleet.wake(user)})
        # Also one that somebody else had just woken, with the former edition.
        if self._renew(journal, lambda running: [user for user in chosen if user in running], self.target, self._judge):
            raise _busy()
        journal.touched = chosen
        self.fleet.write(journal)
        # A restart ends the front, so without a call the agent would sleep at once, and could not fail.
        self._judge(journal, {user: self.fleet.wake(user) for user in chosen})
        self.fleet.sleep(PROOF)
        self._judge(journal, {user: self.fleet.failure(user) for user in chosen})

    def _chosen(self, journal: Journal) -> list[str]:
        """The canaries; none: all agents run, and are at work."""
        if self.canaries:
            return self.canaries
        running = [user for user in self.fleet.running() if user not in journal.failed]
        sleepers = [user for user in self.fleet.sleepers() if user not in journal.failed]
        # After a kill, the one with whom it was begun.
        again = [user for user in journal.touched if user in running or user in sleepers]
        return again or self._free(running, 1) or sleepers[:1]

    def _renew(
        self,
        journal: Journal,
        of: Callable[[dict[str, str]], Iterable[str]],
        edition: str,
        weigh: Callable[[Journal, Mapping[str, str | None]], None],
    ) -> list[str]:
        """Restart running agents that have not *edition*, in batches, as they end their work.

        :param of: those that it is about, of the running ones
        :param weigh: gets why agents are not healthy, and ends this if it raises an error
        :returns: users whose agents stay at work
        """
        done: set[str] = set()
        # By the clock: an agent can make each look at it last.
        deadline = self.fleet.now() + PATIENCE
        while True:
            running = self.fleet.running()
            due = [user for user in of(running) if running[user] != edition and user not in done]
            if not due:
                return []
            size = min(max(1, len(running) // _PART), _MOST)
            batch = self._free(due, size)
            results = self._restart(journal, batch) if batch else {}
            done.update(results)
            weigh(journal, results)
            if not results:
                if self.fleet.now() >= deadline:
                    return due
                self.fleet.sleep(PAUSE)

    def _free(self, users: list[str], size: int) -> list[str]:
        free: list[str] = []
        # Those that were at work before come last: an agent can make each look at it last, and must not hold up others.
        for user in sorted(users, key=self._busy.__contains__):
            if len(free) == size:
                break
            if self.fleet.is_busy(user):
                self._busy.add(user)
            else:
                free.append(user)
        return free

    def _restart(self, journal: Journal, batch: list[str]) -> dict[str, str | None]:
        self.say(f"restarting {self._names(batch)}")
        journal.touched = [*dict.fromkeys([*(journal.touched if journal.phase == BACK else []), *batch])]
        self._record(journal)
        return self.fleet.restart(batch)

    def _judge(self, journal: Journal, results: Mapping[str, str | None]) -> None:
        """:raises _Unhealthy: one is not healthy"""
        found = {user: why for user, why in results.items() if why}
        if found:
            text = "; ".join(f"user {self.fleet.name(user)}: {why}" for user, why in found.items())
            raise _Unhealthy(text, self.what, found)

    def _weigh(self, journal: Journal, results: Mapping[str, str | None]) -> None:
        """:raises _Unhealthy: more are not healthy than may be"""
        for user in results:
            journal.failed.pop(user, None)
        if any(results.values()):
            self._note(journal, {user: why for user, why in results.items() if why})
            having = list(self.fleet.running().values()).count(self.target)
            tolerated = max(1, having // _TOLERATED)
            if self._counted(journal) > tolerated:
                self._ask_again(journal, tolerated)

    def _ask_again(self, journal: Journal, tolerated: int) -> None:
        """Try those that failed with the former edition, with which they run then, if they can.

        :raises _Unhealthy: it does them good, and they are more than may be
        """
        suspects = [user for user in journal.failed if user not in journal.ill]
        self.fleet.lend(suspects, self.former or self.target)
        for user in suspects:
            if self.fleet.wake(user):
                journal.ill.append(user)
            else:
                tolerated -= 1
            if tolerated < 0:
                self._judge(journal, journal.failed)
        self.fleet.lend([], self.target)

    def _counted(self, journal: Journal) -> int:
        return len(journal.failed.keys() - {*journal.ill})

    def _note(self, journal: Journal, failed: Mapping[str, str]) -> None:
        journal.failed.update(failed)
        # A disk that the new edition has filled must not hide why it goes back.
        with contextlib.suppress(OpsError):
            self.fleet.write(journal)

    def _back(self, journal: Journal) -> None:
        """Have all agents get the former edition again, also those that it left broken."""
        if self.former is None or journal.target == self.former:
            return
        self._enter(journal, BACK)
        self.fleet.switch(self.former)
        left = self._renew(
            journal,
            lambda running: [user for user in running if running[user] in (journal.target, "")],
            self.former,
            _ignore,
        )
        broken = [user for user in self._broken(journal) if self.fleet.wake(user)]
        if not journal.problem:
            self.fleet.forget()
            return
        if left:
            journal.problem += f"; still at work, and with it until they end: {self._names(left)}"
        if broken:
            journal.problem += f"; cannot be started with the former one either: {self._names(broken)}"
        journal.touched = []
        self._enter(journal, FAILED)

    def _broken(self, journal: Journal) -> list[str]:
        """The users whose agents should run, and failed."""
        running = self.fleet.running()
        touched = dict.fromkeys([*journal.touched, *journal.failed])
        return [user for user in touched if user not in running and self.fleet.failure(user)]

    def _enter(self, journal: Journal, phase: str) -> None:
        self.say(phase)
        journal.phase = phase
        self._record(journal)

    def _record(self, journal: Journal) -> None:
        # A full disk, which any agent can cause, must not keep all from going back. After a kill, that is done again.
        with contextlib.suppress(OpsError) if journal.phase in (BACK, FAILED) else contextlib.nullcontext():
            self.fleet.write(journal)

    def _names(self, users: list[str]) -> str:
        return ", ".join(self.fleet.name(user) for user in users)


def _ignore(journal: Journal, results: Mapping[str, str | None]) -> None:
    """What is not healthy holds up nothing."""


def _busy() -> Refused:
    return Refused("was not tried, since the agents of all canaries are at work", fix="try later: runtime rollout")


def failed(journal: Journal) -> OpsError:
    """The error of a rollout that went back."""
    return OpsError(
        f"was rolled back: {journal.problem}",
        where="the declaration of runtimes",
        fix="declare another image or description; or try the same again: hermes-ops runtime rollout --again; "
        "stop an agent before that fails with anything: hermes-ops runtime stop USER",
    )
