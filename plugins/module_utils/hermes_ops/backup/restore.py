# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores a home from a backup completely, or leaves it as it was. Nothing is lost.

::

    extract -> stop -> switch -> start

``extract`` assembles the new content inside the old home and checks it to the last byte, while the gateway still runs.
``switch`` only renames (:mod:`exchange`): the old content is set aside, and the new content takes its place. The
restore counts once the gateway is healthy in ``start``; any failure until then leads back.

Workers do all of that as the agent's user: root opens nothing in a home. Root only writes down each step before it
begins, and at the end moves the old content, as a whole, to where the agent cannot change it::

    <ops_dir>/agents/<agent>/restore.json        the step that began last, and the facts needed to undo it
    <ops_dir>/set-aside/<agent>-<time>/          the old content of the home; stays until somebody removes it
    <ops_dir>/set-aside/<agent>-<time>-undone/   the content of a restored home when its restore was undone

If the ops directory is on another file system, both stay in the home.

Space for going back is reserved before anything changes, in the home and beside the journal, and released first:
otherwise a restore that was interrupted on a full disk could not be undone, and the agent would stay down.
"""

from __future__ import annotations

import base64
import calendar
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..agent import webhooks
from ..description.agent import Agent
from ..host.guard import TIMEOUT as GUARD_TIMEOUT
from ..host.guard import Guard
from ..host.installation import Installation, journals, refuse_others
from ..host.undertaking import RESERVE, Undertaking
from ..supervise import gateway, health, runtime_agents
from ..system.answer import fits
from ..system.errors import OpsError, as_error
from ..system.files import Account, ensure_directory, open_directory, take_directory
from ..system.process import run_filter
from ..system.text import moment, one_line
from ..system.worker import Limits, work
from . import exchange, extracting, making, meanwhile
from .extracting import Manifest
from .selection import STAGING

# For renaming the entries of a home, or removing the staging directory.
_LIMITS = Limits(seconds=900.0)
_READING = Limits(seconds=60.0)
_UNDONE = "-undone"
_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass
class Journal:
    """The facts needed to undo a restore.

    :param home: of the agent
    :param inode: of the home; another one shows that its volume is not mounted
    :param user: of the agent, who owns the home
    :param stamp: the time, in the names of all directories of this restore
    :param running: whether the gateway ran
    :param keep_env: ``.env`` stays in place, because the backup has none
    :param step: the step that began last
    """

    agent: str
    user: str
    home: str
    inode: int
    stamp: str
    running: bool
    keep_env: bool = True
    step: str = "extract"


class Restore:
    """Restores of one agent.

    :param name: of the agent
    :param say: called with each progress message
    """

    def __init__(self, host: Installation, name: str, say: Callable[[str], object]) -> None:
        self.host = host
        self.name = name
        self.supervisor = runtime_agents.supervisor_for(host, name)
        self.say = say
        # Said last: that going back has set aside messages which came in meanwhile.
        self.note = ""
        self.undertaking = Undertaking(host, "restore", needs=host.data_dir, agent=name)
        self.limits = _LIMITS
        # Signals interrupt only restore(), and not while it goes back.
        self.undertaking.interruptible = False

    def restore(
        self,
        source: str | BinaryIO,
        *,
        force: bool = False,
        identity: str | None = None,
        finish: Callable[[], object] = lambda: None,
    ) -> str:
        """Replace the agent's home by the one in *source*.

        :param source: path of an archive, or its tar stream
        :param force: restore even if the home has learnt something since the backup
        :param identity: file with age's identity, for an archive with an encrypted ``.env``
        :param finish: called when *source* was read to its end; raises when its sender failed
        :returns: the directory that holds the old content
        :raises OpsError: nothing was restored, and the home is as before; says why
        """
        agent = runtime_agents.one(self.host, self.name)
        with self.host.lock("restore") as lock:
            refuse_others(self.host)
            self.recover(locks=[lock])
            self.host.records(agent.name).prepare()
            state = self.supervisor.state([agent])[agent.name]
            if state.held and state.problem:
                raise OpsError(state.problem.what, where=f"agent {agent.name}", fix=state.problem.fix)
            running = not state.ended
            stamp = time.strftime(_STAMP, time.gmtime())
            home = agent.home
            inode = _inode(home)
            if not inode:
                raise OpsError("cannot be found", where=home, fix="mount its volume")
            journal = Journal(agent.name, agent.user, home, inode, stamp, running)
            before = health.check(agent, self.host.account_of(agent), state).causes if running else []
            try:
                self.undertaking.write(dataclasses.asdict(journal))
                self.undertaking.interruptible = True
                self.undertaking.reserve()
                manifest = self._extract(journal, agent, source, identity, force, lock)
                finish()
                refuse_newer(manifest)
                self._switch(journal, agent, lock)
                self._start(journal, agent, before)
            except BaseException as error:
                self.undertaking.interruptible = False
                touched = journal.step != "extract"
                self._undo(journal, agent, [lock])
                if touched and running:
                    self.say(health.wait([agent], self.supervisor)[0])
                if self.note and isinstance(error, OpsError):
                    error.what += f"; {self.note}"
                raise
            self.undertaking.interruptible = False
            # From here on the restore counts, even if a full disk prevents this record. After a kill, recovery would
            # then undo the restore, or, once the old content is in the ops directory, just leave it there.
            with contextlib.suppress(OpsError):
                self.undertaking.enter(journal, "keep")
            aside = self._keep(journal, exchange.SET_ASIDE, "")
            self.undertaking.end()
            return aside

    def check(
        self,
        source: str | BinaryIO,
        *,
        force: bool = False,
        finish: Callable[[], object] = lambda: None,
    ) -> str:
        """Preview :meth:`restore`; changes nothing.

        :raises OpsError: it would refuse, and why
        """
        agent = runtime_agents.one(self.host, self.name)
        manifest = extracting.compare(source, self.host.account_of(agent), None if force else agent.home)
        finish()
        refuse_newer(manifest)
        made = moment(manifest.created)
        return f"would restore {manifest.members} files of {manifest.agent} on {manifest.host}, {made}"

    def recover(self, *, boot: bool = False, locks: Sequence[int] = ()) -> bool:
        """Undo a restore that was killed, or finish one that counted already; returns whether there was one.

        The caller must hold the lock of restores.

        :param boot: the host starts the gateways itself
        :param locks: descriptors that workers inherit, so that no other restore starts beside them
        """
        value = self.undertaking.read()
        if value is None:
            self.undertaking.end()
            return False
        journal = Journal(**value)
        if journal.step == "keep":
            self.say(f"the restore of {journal.agent} was interrupted after it had succeeded: finishing it")
            self.say(f"the previous content of the home is in {self._keep(journal, exchange.SET_ASIDE, '')}")
            self.undertaking.end()
            return True
        self.say(f"the restore of {journal.agent} was interrupted at {journal.step}: undoing it")
        agent = runtime_agents.find(self.host, self.name)
        self._undo(journal, agent, locks, boot=boot)
        if self.note:
            self.say(self.note)
        return True

    # Restore.

    def _extract(
        self,
        journal: Journal,
        agent: Agent,
        source: str | BinaryIO,
        identity: str | None,
        force: bool,
        lock: int,
    ) -> Manifest:
        """Assemble the new content in the staging directory."""
        account, home = self.host.account_of(agent), journal.home
        self._remove_staging(journal, account, [lock])
        work(account, "backup.exchange:reserve", home, journal.stamp, RESERVE, descriptors=[lock], where=home)
        staging = os.path.join(home, STAGING + journal.stamp)
        manifest = extracting.extract(
            source, staging, account, links_out=True, home=None if force else home, descriptors=[lock]
        )
        journal.keep_env = not manifest.env_inside
        if manifest.sealed_env is not None and identity:
            if not os.path.isfile(identity):
                raise OpsError("there is no such file", where=identity, fix="name the file with age's identity")
            command = ["age", "--decrypt", "--identity", identity]
            text = run_filter(command, manifest.sealed_env, timeout=making.AGE_TIMEOUT)
            work(account, "backup.reading:put_env", home, journal.stamp, base64.b64encode(text).decode())
            journal.keep_env = False
        elif manifest.sealed_env is not None:
            self.say(".env stays as it is: the one in the backup is encrypted, and no identity was named")
        for path, problem in sorted(manifest.problems.items()):
            self.say(f"problem in the backup: {path} {problem}")
        return manifest

    def _switch(self, journal: Journal, agent: Agent, lock: int) -> None:
        with self.host.lock("backup", timeout=making.LOCK_TIMEOUT) as other:
            # A running backup finishes first; the next one is refused, because it finds our journal.
            self.undertaking.enter(journal, "stop")
            self._stop(agent)
            self._exchange(journal, agent, [lock, other])

    def _exchange(self, journal: Journal, agent: Agent, locks: Sequence[int]) -> None:
        records = self.host.records(journal.agent)
        records.prepare()
        # This lock makes a run of site.yml wait.
        with records.lock():
            self.undertaking.enter(journal, "switch")
            self._work(journal, self.host.account_of(agent), "exchange", locks)
            webhooks.forget_time(records)

    def _start(self, journal: Journal, agent: Agent, before: list[str]) -> None:
        self.undertaking.enter(journal, "start")
        records = {journal.agent: self.host.records(journal.agent)}
        self.say("starting the gateway on the restored home")
        # Somebody may have started it before the exchange: it would go on with the old content.
        self.supervisor.stop([agent])
        gateway.start(self.supervisor, [agent], records)
        account = self.host.account_of(agent)
        result = health.wait([agent], self.supervisor, records)[0]
        self.say(result)
        if not set(result.causes) <= set(before):
            raise OpsError(f"the agent is not healthy on the backup, so the restore was undone: {result}")
        # The staging directory is empty by now. The reserve goes with it.
        self._remove_staging(journal, account)

    # Undo.

    def _undo(self, journal: Journal, agent: Agent | None, locks: Sequence[int], *, boot: bool = False) -> None:
        """Put the previous content of the home back. Can be killed at any point and repeated.

        :param agent: its gateway is stopped before and, if it ran, started afterwards; None: the agent is gone
        :param boot: no gateway runs, and none is started
        """
        account = Account.of(journal.user)
        stopped = None if boot else agent
        going_back = journal.step in ("switch", "start")
        if going_back and stopped:
            self._stop(stopped)
        # Not before: an agent that has filled the disk would have taken this, too.
        self.undertaking.release()
        if going_back:
            self.say("going back to the previous content")
            left, came = self._put_back(journal, account, locks)
            if left:
                aside = self._keep(journal, exchange.UNDONE, _UNDONE)
                self.say(f"the content of the home until now is in {aside}")
                self.note = meanwhile.note(journal.agent, came, aside) if came > 0 else ""
            # Only the gateway is still to be started. If a full disk prevents this record, recovery repeats the undo.
            with contextlib.suppress(OpsError):
                self.undertaking.enter(journal, "stop")
        self._remove_staging(journal, account, locks)
        if stopped and journal.running and journal.step != "extract":
            gateway.start(self.supervisor, [stopped], {journal.agent: self.host.records(journal.agent)})
        self.undertaking.end()

    def _put_back(self, journal: Journal, account: Account, locks: Sequence[int]) -> tuple[bool, int]:
        """See :func:`exchange.put_back`. The messages that came in meanwhile are kept first.

        :raises OpsError: it is not possible now; the agent may be the cause, and only a person can tell
        """
        again = f"then: hermes-ops restore --recover. Or go on with what is there: rm {self.undertaking.path}"
        if _inode(journal.home) != journal.inode:
            fix = f"mount its volume, or move the directory with the inode {journal.inode} back, {again}"
            raise OpsError("is another directory than before", where=journal.home, fix=fix)
        self._keep_messages(journal, account, locks)
        try:
            answer = self._work(journal, account, "put_back", locks)
            return (answer[0] is True, answer[1]) if fits(answer, (object, int)) else (True, 0)
        except OpsError as error:
            fix = f"see what the agent left beside {exchange.SET_ASIDE}{journal.stamp}, {again}"
            raise OpsError(f"cannot be put back: {error.what}", where=error.where or journal.home, fix=fix) from None

    def _stop(self, agent: Agent) -> None:
        self.say("stopping the gateway")
        self.supervisor.stop([agent])

    def _keep_messages(self, journal: Journal, account: Account, locks: Sequence[int]) -> None:
        # No gateway starts within the second in which its restore began.
        since = calendar.timegm(time.strptime(journal.stamp, _STAMP)) + 1
        arguments = (journal.home, journal.stamp, since, health.REPLY_PROMPT)
        # Whatever the agent made of its database, its home is put back.
        with contextlib.suppress(OpsError):
            work(account, "backup.exchange:keep_messages", *arguments, limits=_READING, descriptors=locks)

    def _work(self, journal: Journal, account: Account, function: str, locks: Sequence[int]) -> Any:
        arguments = (journal.home, journal.stamp, journal.keep_env)
        return work(
            account,
            f"backup.exchange:{function}",
            *arguments,
            limits=self.limits,
            descriptors=locks,
            where=journal.home,
        )

    def _remove_staging(self, journal: Journal, account: Account, locks: Sequence[int] = ()) -> None:
        """Remove staging directories. A failure is only reported: each restore has a staging directory of its own."""
        try:
            function = "backup.exchange:remove_staging"
            failed = work(account, function, journal.home, limits=self.limits, descriptors=locks, where=journal.home)
        except OpsError as error:
            failed = [str(error)]
        for each in failed if fits(failed, [str]) else []:
            self.say(f"left behind: {one_line(each)}")

    def _keep(self, journal: Journal, prefix: str, suffix: str) -> str:
        """Move a directory out of the home, as a whole, to where only root can change it.

        :returns: its path; still in the home if it could not be moved
        """
        name = prefix + journal.stamp
        stays = os.path.join(journal.home, name)
        target = os.path.join(self.host.ops_dir, "set-aside")
        new = f"{journal.agent}-{journal.stamp}{suffix}"
        with contextlib.ExitStack() as stack:
            try:
                ensure_directory(target, mode=0o700)
                home, ours = open_directory(journal.home), open_directory(target)
                stack.callback(os.close, home)
                stack.callback(os.close, ours)
                return os.path.join(target, new) if take_directory(name, home, new, ours) else stays
            except (OpsError, OSError):
                # Another file system, a full disk, or no such directory: no reason to undo a restore.
                return stays


def recover_all(
    host: Installation, say: Callable[[str], object], *, boot: bool = False, locks: Sequence[int] = ()
) -> None:
    """:meth:`Restore.recover` for every agent. An error with one agent does not stop the others.

    :raises OpsError: at least one restore could not be undone
    """
    # The directory that holds a journal is named after the agent.
    names = [os.path.basename(os.path.dirname(path)) for path in journals(host.ops_dir, "restore")]
    errors = []
    for name in names:
        try:
            restore = Restore(host, name, say)
            if boot:
                # The gateways wait for this unit. No agent may use up its time before the others are recovered.
                restore.limits = Limits(seconds=GUARD_TIMEOUT / 3 / len(names))
            restore.recover(boot=boot, locks=locks)
        except Exception as caught:
            errors.append(f"agent {name}: {as_error(caught)}")
    if not names:
        # A run that was killed at its very end may have left its guard.
        Guard(host, "restore", needs=host.data_dir).lift()
    if errors:
        raise OpsError("\n".join(errors))


def _inode(path: str) -> int:
    """The inode of the directory *path*; 0 when there is none."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def refuse_newer(manifest: Manifest) -> None:
    """:raises OpsError: the home has learnt something since the backup"""
    if manifest.learnt:
        raise OpsError(
            f"the home knows more than the backup of {moment(manifest.created)}: {'; '.join(manifest.learnt)}",
            fix="use --force; the present content is set aside, not lost",
        )
