# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home from a backup, or as it was before: nothing between, and nothing lost.

::

    extract -> stop -> switch -> start

``extract`` puts the home together inside of the old one, checked to the last byte, while the gateway still runs.
``switch`` is renames only (:mod:`exchange`): what was there goes aside, what is new takes its place. It counts once the
gateway is healthy in ``start``; whatever goes wrong until then leads back.

All of that is done by workers as the agent's user: root opens nothing in a home. It only writes down each step before
it begins, and in the end moves what was set aside, as a whole, to where the agent cannot change it::

    <ops_dir>/restore.json                       what was begun last, and what is needed to undo it
    <ops_dir>/set-aside/<agent>-<time>/          what was in the home; stays until somebody removes it
    <ops_dir>/set-aside/<agent>-<time>-undone/   what a restored home that was undone again had by then

Where the ops directory is on another file system, both stay in the home.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..agent import webhooks
from ..description.agent import Agent
from ..host.installation import Installation
from ..host.undertaking import Undertaking
from ..supervise import gateway, health
from ..supervise.systemd import supervisor_of
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import Owner, ensure_directory, open_directory
from ..system.process import run_filter
from ..system.text import moment, printable
from ..system.worker import Limits, work
from . import exchange, extracting, making
from .extracting import Manifest
from .selection import STAGING

# What renaming the entries of a home may take, or removing what was put together.
_LIMITS = Limits(seconds=900.0)
_UNDONE = "-undone"


@dataclass
class Journal:
    """What is needed to undo a restore.

    :param home: of the agent
    :param inode: its number, by which one sees that its volume is mounted
    :param user: whose the home is
    :param stamp: the time, in the names of all that belongs to this restore
    :param running: whether its gateway ran
    :param keep_env: ``.env`` stays where it is: the backup has none
    :param step: that was begun last
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
    """Restores on one host.

    :param say: told what happens
    """

    def __init__(self, host: Installation, say: Callable[[str], object]) -> None:
        self.host = host
        self.supervisor = supervisor_of(host)
        self.say = say
        self.undertaking = Undertaking(host, "restore", needs=host.data_dir)
        # A signal interrupts us, except while rolling back.
        self.undertaking.interruptible = False

    def restore(
        self,
        agent: Agent,
        source: str | BinaryIO,
        *,
        force: bool = False,
        identity: str | None = None,
        finish: Callable[[], object] = lambda: None,
    ) -> str:
        """Replace the home of *agent* by the one in *source*.

        :param source: path of an archive, or its tar stream
        :param force: also where the home learnt something since the backup
        :param identity: file with age's identity, for an archive with an encrypted ``.env``
        :param finish: called when *source* was read to its end; raises when its sender failed
        :returns: the directory that holds what was there
        :raises OpsError: it was not done, and the home is what it was; says why
        """
        with self.host.lock("restore") as lock:
            refuse_others(self.host)
            self.recover(locks=[lock])
            state = self.supervisor.state([agent])[agent.name]
            running = not state.ended
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            home = agent.home
            journal = Journal(agent.name, agent.user, home, _inode(home), stamp, running)
            before = health.check(agent, self.host.owner_of(agent), state).causes if running else []
            try:
                self.undertaking.write(dataclasses.asdict(journal))
                self.undertaking.interruptible = True
                manifest = self._extract(journal, agent, source, identity, force, lock)
                finish()
                _refuse_newer(manifest)
                self._switch(journal, agent, lock)
                self._start(journal, agent, before)
            except BaseException:
                self.undertaking.interruptible = False
                touched = journal.step != "extract"
                self._undo(journal, agent, [lock])
                if touched and running:
                    self.say(health.wait([agent], self.supervisor)[0])
                raise
            self.undertaking.interruptible = False
            # From here on it counts. On a full disk that is not written down, and only what is set aside would stay.
            with contextlib.suppress(OpsError):
                self.undertaking.enter(journal, "keep")
            aside = self._keep(journal, exchange.SET_ASIDE, "")
            self.undertaking.end()
            return aside

    def check(
        self,
        agent: Agent,
        source: str | BinaryIO,
        *,
        force: bool = False,
        finish: Callable[[], object] = lambda: None,
    ) -> str:
        """What :meth:`restore` would do, without doing it.

        :raises OpsError: it would refuse, and why
        """
        manifest = extracting.compare(source, self.host.owner_of(agent), None if force else agent.home)
        finish()
        _refuse_newer(manifest)
        made = moment(manifest.created)
        return f"would restore {manifest.members} files of {manifest.agent} on {manifest.host}, {made}"

    def recover(self, *, boot: bool = False, locks: Sequence[int] = ()) -> bool:
        """Undo what was killed, or finish what counted already; returns whether there was anything.

        Call it while nobody else restores.

        :param boot: the host starts the gateways itself
        :param locks: descriptors that workers hold, too, so that nobody begins anew beside them
        """
        value = self.undertaking.read()
        if value is None:
            self.undertaking.end()
            return False
        journal = Journal(**value)
        if journal.step == "keep":
            self.say(f"the restore of {journal.agent} was interrupted after it counted: it is finished")
            self.say(f"what was in the home is in {self._keep(journal, exchange.SET_ASIDE, '')}")
            self.undertaking.end()
            return True
        self.say(f"the restore of {journal.agent} was interrupted at {journal.step}: it is undone")
        agent = next((each for each in self.host.agents if each.name == journal.agent), None)
        self._undo(journal, agent, locks, boot=boot)
        return True

    # There.

    def _extract(
        self,
        journal: Journal,
        agent: Agent,
        source: str | BinaryIO,
        identity: str | None,
        force: bool,
        lock: int,
    ) -> Manifest:
        """Put the home together in the staging directory."""
        owner, home = self.host.owner_of(agent), journal.home
        self._remove_staging(journal, owner, [lock])
        staging = os.path.join(home, STAGING + journal.stamp)
        manifest = extracting.extract(
            source, staging, owner, links_out=True, home=None if force else home, descriptors=[lock]
        )
        journal.keep_env = not manifest.env_inside
        if manifest.sealed_env is not None and identity:
            if not os.path.isfile(identity):
                raise OpsError("there is no such file", where=identity, fix="name the file with age's identity")
            command = ["age", "--decrypt", "--identity", identity]
            text = run_filter(command, manifest.sealed_env, timeout=making.AGE_TIMEOUT)
            work(owner, "backup.reading:put_env", home, journal.stamp, base64.b64encode(text).decode())
            journal.keep_env = False
        elif manifest.sealed_env is not None:
            self.say(".env stays as it is: the one in the backup is encrypted, and no identity was named")
        for path, problem in sorted(manifest.problems.items()):
            self.say(f"since the backup was made: {path} {problem}")
        return manifest

    def _switch(self, journal: Journal, agent: Agent, lock: int) -> None:
        with self.host.lock("backup", timeout=making.LOCK_TIMEOUT) as other:
            # One that reads the home comes to its end; the next one finds our journal.
            self.undertaking.enter(journal, "stop")
            self._stop(agent)
            self._exchange(journal, agent, [lock, other])

    def _exchange(self, journal: Journal, agent: Agent, locks: Sequence[int]) -> None:
        records = self.host.records(journal.agent)
        records.prepare()
        # A run of site.yml waits.
        with records.lock():
            self.undertaking.enter(journal, "switch")
            self._work(journal, self.host.owner_of(agent), "exchange", locks)
            webhooks.forget_time(records)

    def _start(self, journal: Journal, agent: Agent, before: list[str]) -> None:
        self.undertaking.enter(journal, "start")
        records = {journal.agent: self.host.records(journal.agent)}
        self.say("starting the gateway on it")
        # Somebody may have started it before the exchange: it would go on with what was set aside.
        self.supervisor.stop([agent])
        gateway.start(self.supervisor, [agent], records)
        owner = self.host.owner_of(agent)
        result = health.wait([agent], self.supervisor, records)[0]
        self.say(result)
        if not set(result.causes) <= set(before):
            raise OpsError(f"the agent is not healthy on the backup, so that was undone: {result}")
        # Empty by now.
        self._remove_staging(journal, owner)

    # And back.

    def _undo(self, journal: Journal, agent: Agent | None, locks: Sequence[int], *, boot: bool = False) -> None:
        """Give the home back what was in it. Can be killed anywhere and called again.

        :param agent: whose gateway is stopped before and started afterwards, if it ran; None: it is gone
        :param boot: nobody runs
        """
        owner = Owner.named(journal.user)
        stopped = None if boot else agent
        if journal.step in ("switch", "start"):
            self.say("going back to what was there")
            if stopped:
                self._stop(stopped)
            if _inode(journal.home) != journal.inode:
                raise OpsError("is another directory than before", where=journal.home, fix="mount its volume")
            if self._work(journal, owner, "put_back", locks) is True:
                self.say(f"what was in the home by then is in {self._keep(journal, exchange.UNDONE, _UNDONE)}")
            # From here on only the gateway is missing. On a full disk that is not written down, and done again.
            with contextlib.suppress(OpsError):
                self.undertaking.enter(journal, "stop")
        self._remove_staging(journal, owner, locks)
        if stopped and journal.running and journal.step != "extract":
            gateway.start(self.supervisor, [stopped], {journal.agent: self.host.records(journal.agent)})
        self.undertaking.end()

    def _stop(self, agent: Agent) -> None:
        self.say("stopping the gateway")
        self.supervisor.stop([agent])

    def _work(self, journal: Journal, owner: Owner, function: str, locks: Sequence[int]) -> Any:
        arguments = (journal.home, journal.stamp, journal.keep_env)
        return work(
            owner, f"backup.exchange:{function}", *arguments, limits=_LIMITS, descriptors=locks, where=journal.home
        )

    def _remove_staging(self, journal: Journal, owner: Owner, locks: Sequence[int] = ()) -> None:
        """What cannot be removed is in nobody's way: each restore has a staging directory of its own."""
        try:
            function = "backup.exchange:remove_staging"
            failed = work(owner, function, journal.home, limits=_LIMITS, descriptors=locks, where=journal.home)
        except OpsError as error:
            failed = [str(error)]
        for each in failed if fits(failed, [str]) else []:
            self.say(f"left behind: {printable(each)}")

    def _keep(self, journal: Journal, prefix: str, suffix: str) -> str:
        """Move a directory out of the home, as a whole, to where only root changes it.

        :returns: where it is now
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
                # The agent may put anything in its place; nothing of ours looks into it.
                if not stat.S_ISDIR(os.lstat(name, dir_fd=home).st_mode):
                    return stays
                os.rename(name, new, src_dir_fd=home, dst_dir_fd=ours)
                os.fsync(ours)
                return os.path.join(target, new)
            except (OpsError, OSError):
                # Another file system, a full one, or gone: nothing that would undo a restore.
                return stays


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError as error:
        raise OpsError(f"cannot be found ({error.strerror})", where=path, fix="mount its volume") from None


def _refuse_newer(manifest: Manifest) -> None:
    if manifest.learnt:
        raise OpsError(
            f"the home knows more than the backup of {moment(manifest.created)}: {'; '.join(manifest.learnt)}",
            fix="say --force; what is there is set aside, not lost",
        )


def refuse_others(host: Installation) -> None:
    """:raises OpsError: an update or a separation is under way"""
    for job, name in {"update": "an update", "separate": "a separation"}.items():
        if host.busy(job) or host.unfinished(job):
            raise OpsError(f"{name} is running or was interrupted", fix=f"wait for it, or: hermes-ops {job} --recover")
