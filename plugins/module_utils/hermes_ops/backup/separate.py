# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes an adopted home apart: its Hermes profiles become agents, each with a home and a user of its own.

Agents are separated one after the other, a profile before the home that contains it::

    copy -> switch -> start -> aside

``copy`` stops the gateway and copies the home, as it is, to ``<data_dir>/agents/<name>.new``. Both are then read again
and compared. ``switch`` renames the copy to ``<data_dir>/agents/<name>``, and writes the new home and user to the
gateway's unit and its record. The same unit runs before and after, so two gateways never work on the same data.
``start`` starts the gateway, which must be as healthy as before. Any failure until then leads back to the original,
which nobody has changed; a copy that was started is kept and named, because it may know more.

From ``aside`` on the separation counts, and recovery finishes it instead of undoing it: the original is moved away by a
rename, and is never deleted. The record remembers where the agent was, so that a declaration of the old home is
refused.

The journal is written before each step and removed at the end::

    <ops_dir>/separate.json                   the agent that is moved, and the facts needed to go back
    <ops_dir>/set-aside/<agent>-<time>/       the original; if it is on another file system, it goes to
                                              .hermes-ops-set-aside/ beside the outermost home
    <data_dir>/agents/<agent>.before/         the agent's own directory as it was; removed at the end if it is empty
    <data_dir>/agents/<agent>.undone-<time>/  a copy that was started and given up
"""

from __future__ import annotations

import contextlib
import os
import pwd
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..description.agent import Agent
from ..host import groundwork
from ..host.installation import Installation
from ..host.records import Separated
from ..host.undertaking import Undertaking
from ..supervise import gateway, health, moved
from ..supervise.systemd import supervisor_of
from ..system.errors import OpsError
from ..system.files import Account, sync_directory, take_directory
from ..system.process import run
from ..system.typed import parse
from ..system.worker import Worker, work
from . import making, separable
from .separable import COMMENT, LEFT_OUT, LIMITS, Journal, Survey, before_directory, identity, new_directory, opened

# The shell of the users that the role base creates.
SHELL = "/bin/bash"
# Jobs that must not run beside a separation, and seconds to wait for each: only a backup may finish.
OTHERS = {"update": 1.0, "restore": 1.0, "rehearsal": 1.0, "backup": making.LOCK_TIMEOUT}


class Separate:
    """Separations on one host.

    :param say: called with each progress message
    """

    def __init__(self, host: Installation, say: Callable[[str], object]) -> None:
        self.host = host
        self.supervisor = supervisor_of(host)
        self.say = say
        self.undertaking = Undertaking(host, "separate", needs=host.data_dir)

    def check(self, names: list[str]) -> list[dict[str, Any]]:
        """Preview :meth:`separate`; changes nothing.

        :returns: one mapping for each agent, as :meth:`separate`
        :raises OpsError: it would refuse
        """
        return [self._result(journal, survey, []) for journal, survey in separable.plan(self.host, names)]

    def separate(self, names: list[str]) -> list[dict[str, Any]]:
        """Separate the agents called *names*, or all that are :func:`together`.

        :returns: one mapping for each agent: ``agent``, ``home`` and ``user`` (the new ones), ``was`` (the old ones),
            ``aside`` (path of the original), ``naming`` (files that name a path that no longer exists), ``jobs`` (cron
            jobs that were changed)
        :raises OpsError: one agent was not separated and is as before; the agents before it are separated
        """
        with self._alone():
            self.recover()
            self.undertaking.interruptible = True
            plans = separable.plan(self.host, names)
            for journal, _survey in plans:
                make_user(journal.after.user, journal.after.directory, self.host.data_dir)
            return [self._one(journal) for journal, _survey in plans]

    def recover(self, *, boot: bool = False) -> str | None:
        """Finish or undo an interrupted separation.

        :param boot: no gateway runs yet, and none is to be started
        :returns: the name of its agent; None: nothing was interrupted
        """
        found = self.undertaking.read()
        if found is None:
            # A run that was killed at its very end may have left its guard.
            self.undertaking.end()
            return None
        self.undertaking.interruptible = False
        journal = parse(Journal, found, self.undertaking.path)
        # Raises an error if anybody but root could have written the journal.
        self.host.records(journal.name)
        if journal.step == "aside":
            self._finish(journal)
        else:
            self._undo(journal, boot=boot)
        return journal.name

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.host.lock("separate"))
            for job, seconds in OTHERS.items():
                stack.enter_context(self.host.lock(job, timeout=seconds))
            if self.host.unfinished("update"):
                raise OpsError("an update was interrupted", fix="undo it: hermes-ops update --recover")
            yield

    # One agent.

    def _one(self, journal: Journal) -> dict[str, Any]:
        self.say(f"agent {journal.name}: from {journal.before.home} to {journal.after.home}")
        self.undertaking.interruptible = True
        causes = health.wait([journal.before], self.supervisor)[0].causes
        try:
            self.undertaking.enter(journal, "copy")
            survey, jobs = self._copy(journal)
            self.undertaking.enter(journal, "switch")
            self._switch(journal)
            self.undertaking.enter(journal, "start")
            self._start(journal, causes)
        except BaseException:
            self.undertaking.interruptible = False
            self._undo(journal)
            raise
        self.undertaking.interruptible = False
        self._finish(journal)
        return self._result(journal, survey, jobs)

    def _result(self, journal: Journal, survey: Survey, jobs: list[str]) -> dict[str, Any]:
        before, after = journal.before, journal.after
        return {
            "agent": journal.name,
            "home": after.home,
            "user": after.user,
            "was": {"home": before.home, "user": before.user},
            "aside": journal.aside,
            "naming": [*survey.naming, *([f"and {survey.more} more"] if survey.more else [])],
            "jobs": jobs,
        }

    def _copy(self, journal: Journal) -> tuple[Survey, list[str]]:
        before, after = journal.before, journal.after
        old, new = self.host.account_of(before), self.host.account_of(after)
        self._stop(before)
        company = separable.lines(work(old, "agent.carry:who_works", before.home, LEFT_OUT, where=before.home))
        if company:
            raise OpsError(
                f"is used by process {', '.join(company)}",
                where=before.home,
                fix="end it; nothing but the gateway may work there",
            )
        directory = new_directory(before)
        os.mkdir(directory, 0o700)
        os.chown(directory, new.uid, new.gid, follow_symlinks=False)
        journal.copy = identity(directory)
        self.undertaking.enter(journal, "copy")
        self.say(f"copying {before.home}")
        copied = replace(after, home=f"{directory}/.hermes")
        carry_over(old, before.home, new, copied.home)
        surveys = [separable.survey(self.host, agent, before) for agent in (before, copied)]
        if surveys[0].digest != surveys[1].digest:
            raise OpsError(
                "changed while it was copied, or could not be copied as it is",
                where=before.home,
                fix="see who works there besides the gateway: fuser -v",
            )
        paths = (copied.home, before.home, after.home)
        jobs = separable.lines(work(new, "agent.carry:move_jobs", *paths, where=journal.name))
        # All of the copy must be on disk before the first rename.
        os.sync()
        return surveys[0], jobs

    def _switch(self, journal: Journal) -> None:
        directory = journal.before.directory
        if os.path.lexists(directory):
            os.rename(directory, before_directory(journal.before))
        os.rename(new_directory(journal.before), directory)
        sync_directory(os.path.dirname(directory))
        self._declare(journal)

    def _start(self, journal: Journal, causes: list[str]) -> None:
        records = {journal.name: self.host.records(journal.name)}
        self.say(f"starting the gateway as {journal.after.user}")
        gateway.start(self.supervisor, [journal.after], records)
        result = health.wait([journal.after], self.supervisor, records)[0]
        self.say(result)
        if not set(result.causes) <= set(causes):
            raise OpsError(f"the agent is not healthy in its own home, so the separation was undone: {result}")

    def _finish(self, journal: Journal) -> None:
        """Set the original aside. Can be killed at any point and repeated."""
        self.undertaking.enter(journal, "aside")
        home, before = journal.before.home, before_directory(journal.before)
        try:
            self._set_aside(journal)
        except OpsError as error:
            # An agent may write around the original. It must not keep the separation unfinished, because that blocks
            # the backups and updates of all agents.
            self.say(f"the original cannot be set aside and stays where it is: {error}")
            journal.aside = home
        # Fails when somebody kept files beside the home: then the directory stays.
        with contextlib.suppress(OSError):
            os.rmdir(before)
        if os.path.lexists(before):
            self.say(f"the earlier content of {journal.before.directory} is in {before}")
        records = self.host.records(journal.name)
        records.write_separated(Separated(home, journal.before.user, journal.aside))
        self.say(f"the original is in {journal.aside}")
        self.undertaking.end()

    def _set_aside(self, journal: Journal) -> None:
        home, aside = journal.before.home, journal.aside
        parent, name = os.path.split(os.path.dirname(aside))
        with opened(os.path.dirname(home)) as source:
            found = identity(os.path.basename(home), source)
            if found != journal.original:
                # No directory: an earlier run was killed after the rename.
                if found:
                    self.say(f"{home} is not the directory that was copied, so it stays where it is")
                return
            with opened(parent) as directory, contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
            with opened(os.path.dirname(aside)) as target:
                if not take_directory(os.path.basename(home), source, os.path.basename(aside), target):
                    raise OpsError("is no directory any more", where=home)
            os.fsync(source)

    # Undo.

    def _undo(self, journal: Journal, *, boot: bool = False) -> None:
        """Give the agent its old home and user back. Can be killed at any point and repeated."""
        self.say(f"agent {journal.name}: going back to {journal.before.home}")
        if not boot:
            self._stop(journal.before)
        directory = journal.before.directory
        # Before the renames, so that the unit never names a home that does not exist.
        if journal.step in ("switch", "start"):
            self._declare(journal, undo=True)
        if journal.copy and identity(directory) == journal.copy:
            os.rename(directory, new_directory(journal.before))
        if os.path.lexists(before_directory(journal.before)):
            os.rename(before_directory(journal.before), directory)
        self._give_up(journal)
        sync_directory(os.path.dirname(directory))
        if not boot:
            try:
                gateway.start(self.supervisor, [journal.before], {journal.name: self.host.records(journal.name)})
            except OpsError as error:
                # The same: its home may have been spoiled meanwhile. Nothing is left to undo.
                self.say(f"the gateway does not start: {error}")
        self.undertaking.end()

    def _give_up(self, journal: Journal) -> None:
        """Remove a copy that was never used; keep one on which a gateway was started."""
        new = new_directory(journal.before)
        if not os.path.lexists(new):
            return
        if journal.step != "start":
            # A copy that cannot be removed must not keep the agent from its old home.
            with contextlib.suppress(OpsError, OSError):
                home = f"{new}/.hermes"
                work(self.host.account_of(journal.after), "agent.carry:discard", home, limits=LIMITS, where=home)
                os.rmdir(new)
        if os.path.lexists(new):
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(journal.began))
            kept = f"{journal.before.directory}.undone-{stamp}"
            os.rename(new, kept)
            self.say(f"the copy is in {kept}")

    def _stop(self, agent: Agent) -> None:
        self.say("stopping the gateway")
        self.supervisor.stop([agent])

    def _declare(self, journal: Journal, *, undo: bool = False) -> None:
        """Write the new home and user to units, records and commands; with *undo*, the old ones."""
        agents = [(agent, self.host.account_of(agent)) for agent in (journal.before, journal.after)]
        before, after = reversed(agents) if undo else agents
        records = self.host.records(journal.name)
        records.prepare()
        # This lock makes a run of site.yml wait.
        with records.lock():
            records.write_agent(after[0])
            moved.write(separable.unit_settings(self.host, journal.verbose), before, after)
        self.host.manager_of(after[0]).call("daemon-reload")


def make_user(user: str, home: str, data_dir: str) -> None:
    """Create *user* as the role base does, unless it exists.

    :raises OpsError: useradd(8) fails
    """
    with contextlib.suppress(KeyError):
        pwd.getpwnam(user)
        return
    (made,) = groundwork.numbered([{"name": user, "uid": None}], data_dir)
    number = [] if made["uid"] is None else ["--uid", str(made["uid"])]
    options = ["--system", "--user-group", "--no-create-home", "--comment", COMMENT, "--shell", SHELL]
    run(["useradd", *options, *number, "--home-dir", home, user], timeout=60)


def carry_over(old: Account, home: str, new: Account, copy: str) -> None:
    """Copy *home*, which belongs to *old*, to *copy*, which belongs to *new*; see :mod:`carry`."""
    reading, writing = os.pipe()
    try:
        sender = Worker(old, "agent.carry:send", [home, LEFT_OUT, writing], LIMITS, [writing], home)
        receiver = Worker(new, "agent.carry:receive", [copy, reading], LIMITS, [reading], copy)
    finally:
        os.close(reading)
        os.close(writing)
    try:
        problems = []
        for worker in (sender, receiver):
            try:
                worker.result()
            except OpsError as error:
                problems.append(error)
    finally:
        sender.end()
        receiver.end()
    if problems:
        # When one worker fails, the other loses its pipe: only both errors together show the cause.
        raise OpsError("; ".join(problem.what for problem in problems), where=problems[0].where, fix=problems[0].fix)
