# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An adopted home taken apart: its Hermes profiles become agents, each with a home and a user of its own.

One agent after the other, a profile before the home that it lies in::

    copy -> switch -> start -> aside

``copy`` stops the gateway and carries the home, as it is, to ``<data_dir>/agents/<name>.new``. Both are read once more
and compared. In ``switch`` the copy becomes ``<data_dir>/agents/<name>`` by renames, and the gateway's unit and its
record say the new home and user. The same unit runs before and after, so no two gateways can work on the same data. The
gateway is started in ``start`` and has to be as healthy as before. Whatever goes wrong until then leads back to the
original, which nobody has changed; a copy that was started is kept and named, for it may know more.

From ``aside`` on it counts, and what is left is finished rather than undone: the original leaves its place by a rename,
and is never deleted. The record remembers where the agent was, so that a declaration that still says so is refused.

The journal is written before each step and removed at the end::

    <ops_dir>/separate.json                   the agent that is moved, and what is needed to go back
    <ops_dir>/set-aside/<agent>-<time>/       the original; where no rename leads there from its file system, in
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
from ..host.installation import Installation
from ..host.records import Separated
from ..host.undertaking import Undertaking
from ..supervise import gateway, health, moved
from ..supervise.systemd import supervisor_of
from ..system.errors import OpsError
from ..system.files import Owner, sync_directory
from ..system.process import run
from ..system.typed import parse
from ..system.worker import Worker, work
from . import making, separable
from .separable import COMMENT, LEFT_OUT, LIMITS, Journal, Survey, before_directory, identity, new_directory, opened

# As the role base has it.
SHELL = "/bin/bash"
# Jobs that want the homes for themselves; a backup comes to its end.
OTHERS = {"update": 1.0, "restore": 1.0, "rehearsal": 1.0, "backup": making.LOCK_TIMEOUT}


class Separate:
    """Separations on one host.

    :param say: told what happens
    """

    def __init__(self, host: Installation, say: Callable[[str], object]) -> None:
        self.host = host
        self.supervisor = supervisor_of(host)
        self.say = say
        self.undertaking = Undertaking(host, "separate", needs=host.data_dir)

    def check(self, names: list[str]) -> list[dict[str, Any]]:
        """What :meth:`separate` would do; changes nothing.

        :returns: one mapping an agent, as :meth:`separate` does
        :raises OpsError: it would refuse
        """
        return [self._result(journal, survey, []) for journal, survey in separable.plan(self.host, names)]

    def separate(self, names: list[str]) -> list[dict[str, Any]]:
        """Separate the agents called *names*, or all that are :func:`together`.

        :returns: one mapping an agent: ``agent``, ``home`` and ``user`` (now), ``was`` (these before), ``aside`` (where
            the original is), ``naming`` (files that name a path that is not there any more), ``jobs`` (cron jobs that
            were changed)
        :raises OpsError: it was not done for one agent, which is what it was; those before it are done
        """
        with self._alone():
            self.recover()
            self.undertaking.interruptible = True
            plans = separable.plan(self.host, names)
            for journal, _survey in plans:
                make_user(journal.after.user, journal.after.directory)
            return [self._one(journal) for journal, _survey in plans]

    def recover(self, *, boot: bool = False) -> str | None:
        """Finish or undo what was interrupted.

        :param boot: nothing runs yet, and nothing shall be started
        :returns: the agent that it was about, if any
        """
        found = self.undertaking.read()
        if found is None:
            # A run that was killed at its very end may have left its guard.
            self.undertaking.end()
            return None
        self.undertaking.interruptible = False
        journal = parse(Journal, found, self.undertaking.path)
        # Refuses a journal that somebody else than root could have put there.
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
            for job in ("update", "restore"):
                if self.host.unfinished(job):
                    raise OpsError(f"{job} was interrupted", fix=f"have it undone: hermes-ops {job} --recover")
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
        old, new = self.host.owner_of(before), self.host.owner_of(after)
        self._stop(before)
        company = separable.lines(work(old, "agent.carry:who_works", before.home, LEFT_OUT, where=before.home))
        if company:
            raise OpsError(
                f"is used by process {', '.join(company)}",
                where=before.home,
                fix="end what works there besides the gateway",
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
        # Before the first rename, all of it is on disk.
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
            raise OpsError(f"the agent is not healthy in its own home, so that was undone: {result}")

    def _finish(self, journal: Journal) -> None:
        """Set the original aside. Can be killed anywhere and called again."""
        self.undertaking.enter(journal, "aside")
        home, before = journal.before.home, before_directory(journal.before)
        self._set_aside(journal)
        # Empty, unless somebody kept something beside the home.
        with contextlib.suppress(OSError):
            os.rmdir(before)
        if os.path.lexists(before):
            self.say(f"what was in {journal.before.directory} is in {before}")
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
                # Nothing there: we were killed after the rename.
                if found:
                    self.say(f"{home} is not what was copied, and stays where it is")
                return
            with opened(parent) as directory, contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
            with opened(os.path.dirname(aside)) as target:
                os.rename(os.path.basename(home), os.path.basename(aside), src_dir_fd=source, dst_dir_fd=target)
                os.fsync(target)
            os.fsync(source)

    # And back.

    def _undo(self, journal: Journal, *, boot: bool = False) -> None:
        """Let the agent be what it was. Can be killed anywhere and called again."""
        self.say(f"agent {journal.name}: going back to {journal.before.home}")
        if not boot:
            self._stop(journal.before)
        directory = journal.before.directory
        # First, so that the unit never leads to where no home is.
        if journal.step in ("switch", "start"):
            self._declare(journal, undo=True)
        if journal.copy and identity(directory) == journal.copy:
            os.rename(directory, new_directory(journal.before))
        if os.path.lexists(before_directory(journal.before)):
            os.rename(before_directory(journal.before), directory)
        self._give_up(journal)
        sync_directory(os.path.dirname(directory))
        if not boot:
            gateway.start(self.supervisor, [journal.before], {journal.name: self.host.records(journal.name)})
        self.undertaking.end()

    def _give_up(self, journal: Journal) -> None:
        """Away with a copy that nobody used; one that a gateway was started on is kept."""
        new = new_directory(journal.before)
        if not os.path.lexists(new):
            return
        if journal.step != "start":
            # That it cannot be removed must not keep the agent from its old home.
            with contextlib.suppress(OpsError, OSError):
                home = f"{new}/.hermes"
                work(self.host.owner_of(journal.after), "agent.carry:discard", home, limits=LIMITS, where=home)
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
        """Let units, records and commands say where the agent is now, or, to *undo* that, where it was."""
        agents = [(agent, self.host.owner_of(agent)) for agent in (journal.before, journal.after)]
        before, after = reversed(agents) if undo else agents
        records = self.host.records(journal.name)
        records.prepare()
        # A run of site.yml waits.
        with records.lock():
            records.write_agent(after[0])
            moved.write(separable.units_host(self.host, journal.verbose), before, after)
        self.host.manager_of(after[0]).call("daemon-reload")


def make_user(user: str, home: str) -> None:
    """Make *user* as the role base does, unless it is there.

    :raises OpsError: useradd(8) refuses
    """
    with contextlib.suppress(KeyError):
        pwd.getpwnam(user)
        return
    options = ["--system", "--user-group", "--no-create-home", "--comment", COMMENT, "--shell", SHELL]
    run(["useradd", *options, "--home-dir", home, user], timeout=60)


def carry_over(old: Owner, home: str, new: Owner, copy: str) -> None:
    """Make *copy*, which is *new*'s, of *home*, which is *old*'s; see :mod:`carry`."""
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
        # When one fails, the other misses it: only both together say why.
        raise OpsError("; ".join(problem.what for problem in problems), where=problems[0].where, fix=problems[0].fix)
