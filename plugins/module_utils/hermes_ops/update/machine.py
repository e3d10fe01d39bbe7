# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Updates that cannot brick an agent: one state machine, for the timer, the command line and the playbook alike.

::

    resolve -> preconditions -> build -> snapshot -> canary -> freeze -> stop -> switch -> start -> verify -> prune

Before ``stop``, nothing that runs is touched. From ``stop`` to ``verify``, any failure leads back to the old release,
and to the old data where it has been migrated. From ``prune`` on, the new release is accepted.

The journal ``<ops_dir>/update/journal.json`` holds the step that began last and the facts needed to undo it. It is
written before each step and removed at the end. Recovery after a kill depends on this journal only
(:func:`after_kill`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import cast

from ..backup import meanwhile
from ..description.agent import Agent
from ..host import held
from ..host.installation import Installation
from ..host.undertaking import RESERVE, Interrupted, Undertaking
from ..release import build, store
from ..release.observe import Installed, observe
from ..supervise import canary, gateway
from ..system.errors import OpsError, Refused
from ..system.files import lock
from ..system.process import run
from ..system.systemd import Manager
from ..system.text import printable
from ..watch import heartbeat
from . import frozen, preconditions
from .agents import Agents
from .data import Data
from .ending import shown, summed_up, tell
from .journal import Journal, Outcome, after_kill, data_is_frozen
from .settings import Settings
from .trial import SCRATCH, Trial
from .troubles import Troubles
from .verdict import Target, choose, choose_rollback, is_called, narrowed, to_start

# Keeps all releases while one is built; they are pruned at the end.
_ALL = 10**6
# A run that was killed this many times before it touched anything is not started again automatically.
ATTEMPTS = 3
# Most characters of one cause in a message, in which there may be others.
CAUSE = 500


class Machine:
    """One run, on one host. Its progress messages go to *say*, one line each."""

    def __init__(self, host: Installation, settings: Settings, say: Callable[[str], object]) -> None:
        self.host = host
        self.settings = settings
        # Agents and releases contribute text to the messages.
        self.say = lambda text: say(printable(text))
        self.data = Data(host)
        self.agents = Agents(host, settings, self.say)
        # Once the outcome is decided, signals are ignored.
        self.undertaking = Undertaking(host, "update", needs=host.root)
        self.journal: Journal | None = None
        self.step = "resolve"
        self.attempt = 1
        # Said last: that going back has set aside messages which came in meanwhile.
        self.notes: list[str] = []

    # Requests.

    def check(self, version: str | None = None) -> tuple[str, str, Target | None]:
        """Preview :meth:`update`: a status, a sentence, and the release it is about. Changes nothing."""
        if self.settings.hold and version is None:
            return "held", f"updates are held: {self.settings.hold}", None
        return self._resolve(version)

    def update(self, version: str | None = None) -> Outcome:
        """Go to the newest release in the declared range, or to *version* in it.

        :raises Refused: another job is running
        """
        with self._alone():
            done = self.recover()
            if done is not None:
                return done
            began, attempt = time.time(), self.attempt
            current = gateway.current_release(self.host.root)
            target = None
            try:
                status, message, target = self.check(version)
                if status != "available" or target is None:
                    return self._end(Outcome(status, message, began, current, target.id if target else None))
                self.say(message)
                self.step = "preconditions"
                journal = Journal("update", began, current or "", target.id, attempt=attempt)
                journal.before = self._preconditions(target)
                if attempt > ATTEMPTS:
                    raise OpsError(f"was interrupted {ATTEMPTS} times in a row", fix="see its log")
                heartbeat.report(self.host, "update", "start", message)
            except Refused:
                # Neither an outcome nor a report of this run: they would hide those of the run before.
                raise
            except (Exception, Interrupted) as error:
                reason = self._reason(error)
                return self._end(Outcome("failed", reason, began, current, target.id if target else None, self.step))
            return self._run(journal, lambda: self._prepare_update(journal, target))

    def check_rollback(self, to: str | None = None) -> tuple[str, str, Installed]:
        """Preview :meth:`rollback`: a status, a sentence, and the release it is about. Changes nothing.

        :raises OpsError: there is nothing to go back to
        """
        observed = observe(self.host.root)
        current = observed.find(observed.current)
        if current and to and is_called(current, to):
            return "up_to_date", f"{current.id} is current", current
        target = choose_rollback(observed, self.data.failed(), to)
        return "available", f"{target.id} can replace {observed.current}", target

    def rollback(self, to: str | None = None, *, data: bool = False) -> Outcome:
        """Go back to the release that was current before, or to *to*, and stay there.

        :param to: id or version of a release on the host
        :param data: also put back the data that was frozen when that release was left, where it was migrated since
        :raises Refused: another job is running
        :raises OpsError: there is nothing to go back to
        """
        with self._alone():
            done = self.recover()
            if done is not None:
                return done
            began, current = time.time(), gateway.current_release(self.host.root) or ""
            preconditions.refuse_company(self.host, "restore")
            status, message, target = self.check_rollback(to)
            if status == "up_to_date":
                return self._end(Outcome(status, message, began, current, target.id))
            previous = self.data.previous(target.id) if data else None
            self.step = "preconditions"
            journal = Journal("rollback", began, current, target.id, step="freeze")
            # One look only: the present release may be the broken one, and nobody should wait for it.
            try:
                journal.before = self.agents.before(wait=False)
            except (Exception, Interrupted) as error:
                return self._end(Outcome("failed", self._reason(error), began, current, target.id, self.step))
            self.say(f"going back from {current} to {target.id}")
            heartbeat.report(self.host, "update", "start", f"rollback to {target.id}")
            return self._run(journal, lambda: None, previous)

    def recover(self, *, boot: bool = False) -> Outcome | None:
        """Finish or undo a run that was killed.

        :param boot: only make release and data consistent, because the host starts the gateways itself
        :returns: None when nothing was left to do, or the caller may start the run again
        """
        value = self.undertaking.read()
        if value is None:
            # A run that was killed at its very end may have left its guard, and copies that it was about to remove.
            self.undertaking.end()
            self.data.sweep()
            return None
        if not boot:
            preconditions.refuse_company(self.host, "restore")
        journal = self.journal = Journal(**value)
        self._sweep()
        what = after_kill(journal.step)
        self.say(f"the {journal.kind} to {journal.target} was interrupted at {journal.step}")
        if what == "finish":
            return self._finish(journal)
        if what == "undo":
            if not journal.problem:
                journal.problem, journal.failed_step = "was interrupted", journal.step
            return self._undo(journal, killed=True, boot=boot)
        # Nothing that runs was touched.
        self.data.discard(journal)
        self.undertaking.end()
        if boot:
            journal.failed_step = journal.step
            return self._end(self._outcome("rolled_back", "was interrupted; nothing had been changed", journal))
        # The caller starts the run again.
        self.attempt = journal.attempt + 1
        return None

    # Forward.

    def _run(self, journal: Journal, prepare: Callable[[], object], previous: str | None = None) -> Outcome:
        """Do everything from the first change on. Any failure leads back."""
        self.journal = journal
        try:
            self._enter(journal.step)
            prepare()
            self._change(journal, previous)
        except (Exception, KeyboardInterrupt, Interrupted) as error:
            self.undertaking.interruptible = False
            journal.problem = self._reason(error)
            journal.failed_step = journal.step
            journal.blame = isinstance(error, canary.CanaryFailed) or (
                # A gateway that waits for space on its disk says nothing about the release.
                isinstance(error, OpsError) and journal.step in ("start", "verify") and not held.names()
            )
            self.say(f"failed at {journal.step}: {journal.problem}")
            if after_kill(journal.step) == "undo":
                return self._undo(journal)
            self._remember_failed(journal)
            self._sweep()
            self.data.discard(journal)
            self.undertaking.end()
            return self._end(self._outcome("failed", f"{journal.problem}; nothing was changed", journal))
        return self._finish(journal)

    def _reason(self, error: BaseException) -> str:
        """The cause of a failure, in one line; the details go to the log."""
        if isinstance(error, (OpsError, OSError, Interrupted)):
            # The error of a canary includes the canary's log.
            first, *log = str(error).splitlines() or [type(error).__name__]
            for line in log:
                self.say(line)
            if len(first) > CAUSE:
                self.say(first)
            return shown(first, CAUSE)
        # A defect of the kit: the log needs the traceback.
        self.say(traceback.format_exc())
        return shown(f"{type(error).__name__}: {error}")

    def _prepare_update(self, journal: Journal, target: Target) -> None:
        build.ensure(
            target.request,
            self.settings.index,
            root=self.host.root,
            current=False,
            keep=_ALL,
            timeout=self.settings.build_timeout,
        )
        # The version of a branch is known only after the build.
        built = observe(self.host.root).find(journal.target)
        preconditions.refuse_shared_homes(self.host, built.version if built else None)
        self._enter("snapshot")
        trial = Trial(self.agents, self.data, journal)
        archives = [(agent, trial.snapshot(agent)) for agent in self.host.agents]
        self._enter("canary")
        for agent, archive in archives if self.settings.canary else ():
            if archive and agent.name in journal.before:
                trial.canary(agent, archive)

    def _change(self, journal: Journal, previous: str | None) -> None:
        if journal.step != "freeze":
            self._enter("freeze")
        self.data.discard(journal)
        self.undertaking.reserve()
        homes = []
        for agent in self.host.agents:
            home = self.data.frozen(journal, agent)
            with self._veto(home):
                home.copy_ahead(held.spare(self.host.ops_dir, RESERVE))
                homes.append(home)
        # Until the end no other process may switch or remove releases.
        with lock(os.path.join(self.host.root, ".lock"), timeout=self.settings.build_timeout):
            with _in_a_hurry():
                running = self.agents.running()
                journal.gateways = [agent.name for agent in running]
                self._enter("stop")
                self.agents.supervisor.stop(running)
                frozen.complete(homes, held.spare(self.host.ops_dir, RESERVE), self._veto)
                self._enter("switch")
                if previous:
                    self._put_back_earlier(journal, previous)
                store.switch(self.host.root, journal.target)
                self._enter("start")
                self.agents.start(running, journal.target)
            self._enter("verify")
            self.agents.verify(running, journal.target, journal.before)
            self._enter("prune")

    def _veto(self, home: frozen.Frozen) -> contextlib.AbstractContextManager[None]:
        return self.agents.veto(home.name, counts=home.strict)

    def _put_back(self, home: frozen.Frozen) -> list[str]:
        try:
            back = home.put_back()
        finally:
            if home.came > 0:
                self.notes.append(meanwhile.note(home.name, home.came, home.aside))
        return summed_up(home.name, back)

    def _put_back_earlier(self, journal: Journal, previous: str) -> None:
        """For a rollback with data. If an agent prevents it, only its own data stays as it is."""
        # These copies are used up, whatever the outcome.
        self.data.forget_previous()
        troubles = Troubles(self._reason)
        for agent in self.host.agents:
            with troubles:
                self._put_back(self.data.frozen(journal, agent, previous))
        if troubles.found:
            journal.lacks = f"not all data could be put back: {troubles}; {self.data.keep(journal, previous)}"
            self.say(journal.lacks)

    def _finish(self, journal: Journal) -> Outcome:
        """Accept the new release: remember the old one, and remove what is no longer needed."""
        self.undertaking.interruptible = False
        message = f"{journal.target} has replaced {journal.source}"
        try:
            self.undertaking.release()
            self.data.remember_previous(journal)
            failed = self.data.remember_good(journal)
            with lock(os.path.join(self.host.root, ".lock"), timeout=self.settings.build_timeout):
                store.prune(self.host.root, keep=self.settings.keep, first=failed)
        except Exception as error:
            # The agents run the right release, so this is no failure; the next run cleans up.
            message += f"; not everything could be cleared away: {self._reason(error)}"
        self.data.remove_empty(journal)
        left = self.data.left(journal)
        if journal.kind == "rollback" and os.path.isdir(left):
            message += f"; the data that was replaced by the earlier copies is in {left}"
        if journal.lacks:
            return self._done(journal, "failed", f"{message}; but {journal.lacks}")
        return self._done(journal, "success", message)

    # Back.

    def _undo(self, journal: Journal, *, killed: bool = False, boot: bool = False) -> Outcome:
        """Go back to the old release, and to the old data where the new release has migrated it.

        :param killed: the previous process was killed, perhaps during this undo
        :param boot: the host starts the gateways itself
        """
        self.undertaking.interruptible = False
        if self._shutting_down():
            # Nothing can be started any more. The next boot recovers from the journal.
            self.say("the host is going down")
            raise SystemExit(128 + signal.SIGTERM)
        step, troubles, back = journal.step, Troubles(self._reason), list[str]()
        agents = {agent.name: agent for agent in self.host.agents}
        with self._release_lock(), _in_a_hurry():
            with troubles:
                states = self.agents.states()
                journal.gateways = to_start(journal.gateways, states, respect=step == "verify" and not killed)
                # The disk may still be full. Without this record, recovery after a kill only starts too many gateways.
                with contextlib.suppress(OpsError):
                    self.undertaking.write(dataclasses.asdict(journal))
                if not boot:
                    alive = [agents[name] for name, state in states.items() if not state.ended]
                    self.agents.supervisor.stop(alive)
            # Not before: an agent that has filled the disk would have taken this, too.
            self.undertaking.release()
            with troubles:
                # Without a source, no release was current and there is none to switch back to.
                if journal.source and gateway.current_release(self.host.root) != journal.source:
                    store.switch(self.host.root, journal.source)
            wanted = [agents[name] for name in journal.gateways if name in agents]
            if troubles.found:
                # It is unknown which release would run with which data, so data is left to the next run.
                return self._stuck(journal, wanted, troubles, boot)
            for agent in agents.values() if data_is_frozen(step) else ():
                with troubles:
                    back += self._put_back(self.data.frozen(journal, agent))
            if troubles.found:
                # These copies are the only ones: a later update must not take them for its own.
                troubles.found.append(self.data.keep(journal))
            else:
                # Before the gateways start, because they may need the space.
                self.data.discard(journal)
            if not boot:
                with troubles:
                    self.agents.start(wanted, journal.source)
        message = f"{journal.problem}; went back to {journal.source}"
        if back:
            aside = self.data.aside(journal)
            message += f"; put back {', '.join(back)} as before the switch, the later versions are in {aside}"
        if boot:
            message += "; the gateways start with the host"
        else:
            with troubles:
                self.agents.verify(wanted, journal.source, journal.before, briefly=True)
        self._remember_failed(journal)
        if troubles.found:
            return self._done(journal, "failed", f"{message}; but {troubles}")
        return self._done(journal, "rolled_back", message)

    def _done(self, journal: Journal, status: str, message: str) -> Outcome:
        self.data.remove_empty(journal)
        self.undertaking.end()
        self.data.sweep()
        return self._end(self._outcome(status, "; ".join([message, *self.notes]), journal))

    def _stuck(self, journal: Journal, wanted: list[Agent], troubles: Troubles, boot: bool) -> Outcome:
        """Going back failed for now. Start all that can run; the journal stays, so that the next run tries again."""
        if not boot:
            with troubles:
                self.agents.start(wanted, gateway.current_release(self.host.root))
        message = f"{journal.problem}; and it cannot go back yet: {troubles}. The next run tries again"
        return self._end(self._outcome("failed", message, journal))

    # Steps.

    def _resolve(self, version: str | None) -> tuple[str, str, Target]:
        root = self.host.root
        observed = observe(root)
        current = observed.find(observed.current)
        if current is None:
            raise OpsError("there is no current release", where=root, fix="converge the host: site.yml")
        request = self.settings.release if version is None else narrowed(self.settings.release, version)
        newest = build.newest(request, self.settings.index, root=root, timeout=self.settings.build_timeout)
        target = Target(newest, observed)
        return *choose(current, target, self.data.failed(), asked=version is not None), target

    def _preconditions(self, target: Target) -> dict[str, list[str]]:
        # A rehearsal uses the canary, too.
        preconditions.refuse_company(self.host, "restore", "separate", "rehearsal")
        preconditions.refuse_shared_homes(self.host, target.version)
        # Databases are copied three times: to the backup, to the canary's home, and to the frozen copies.
        look = Journal("update", 0.0, "", "", before={agent.name: [] for agent in self.agents.running()})
        copies = 0
        for agent in self.host.agents:
            home = self.data.frozen(look, agent)
            with self._veto(home):
                copies += 3 * home.size()
        preconditions.refuse_full_disks(self.host, self.settings, copies)
        return self.agents.before()

    def _shutting_down(self) -> bool:
        try:
            return run(["systemctl", "is-system-running"], timeout=30, check=False).stdout.strip() == "stopping"
        except OpsError:
            return False

    @contextlib.contextmanager
    def _release_lock(self) -> Iterator[None]:
        """Keep site.yml from switching at the same time, if possible: going back does not wait for its build."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OpsError):
                stack.enter_context(lock(os.path.join(self.host.root, ".lock"), timeout=10.0))
            yield

    # The journal.

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self.host.busy("update"):
            raise Refused("another update is running", fix="wait for it; it says how far it is in the journal")
        # Another process may hold the lock for an instant, only to see whether it is held.
        with self.host.lock("update", timeout=2.0):
            yield

    def _enter(self, step: str) -> None:
        """Record that *step* begins."""
        self.say(step)
        self.undertaking.enter(cast(Journal, self.journal), step)

    def _sweep(self) -> None:
        """Remove canaries and their copies, also those of other runs."""
        canary.end(Manager.of_host())
        for agent in self.host.agents:
            canary.sweep(self.host, agent, SCRATCH, self.say)

    def _remember_failed(self, journal: Journal) -> None:
        if journal.blame:
            with contextlib.suppress(OpsError):
                self.data.remember_failed(journal.target, f"failed at {journal.failed_step}: {journal.problem}")

    # The end.

    def _outcome(self, status: str, message: str, journal: Journal) -> Outcome:
        step = journal.failed_step or None
        return Outcome(status, message, journal.began, journal.source, journal.target, step)

    def _end(self, outcome: Outcome) -> Outcome:
        outcome = dataclasses.replace(outcome, message=shown(outcome.message))
        self.say(f"{outcome.status}: {outcome.message}")
        tell(self.host, self.settings.hook, outcome, self.say)
        return outcome


@contextlib.contextmanager
def _in_a_hurry() -> Iterator[None]:
    """Run with normal priority, not as a background job, while agents are stopped; if that is permitted."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, min(before, 0))
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
