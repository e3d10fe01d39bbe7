# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home from a backup, or as it was before: nothing between, and nothing lost.

::

    extract -> stop -> switch -> start

``extract`` puts the home together inside of the old one, checked to the last byte, while the
gateway still runs. ``switch`` is renames only: what was there goes aside, what is new takes its place. It counts once
the gateway is healthy in ``start``; whatever goes wrong until then leads back.

The journal is written before each step and removed at the end::

    <ops_dir>/restore.json                       what was begun last, and what is needed to undo it
    <ops_dir>/set-aside/<profile>-<time>/        what was in the home; stays until somebody removes it
    <ops_dir>/set-aside/<profile>-<time>-undone/ what a restored home that was undone again had by then
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ..agent import webhooks
from ..host.guard import Guard
from ..host.installation import JOURNALS, Installation
from ..supervise import gateway, health
from ..system.errors import OpsError
from ..system.files import (
    acting_as,
    failure,
    open_directory,
    read_json,
    remove_tree,
    sync_directory,
    write_atomic,
    write_json,
)
from ..system.process import run_filter
from . import extracting, making, selection, tarstream
from .kept import refuse_update
from .learnt import learnt_since, moment_of, refuse_newer

# Where an ops directory on another file system would make a copy of what has to be a rename.
ASIDE_IN_HOME = ".hermes-ops-set-aside"
_UNDONE = "-undone"


@dataclass
class Journal:
    """What is needed to undo a restore.

    :param home: of the profile
    :param aside: where what was in it goes
    :param began: seconds since 1970
    :param running: whether its gateway ran
    :param keep_env: ``.env`` stays where it is: the backup has none
    :param step: that was begun last
    :param present: names that were in the home and go aside; known from ``switch`` on
    :param restored: names that take their place
    """

    profile: str
    home: str
    aside: str
    began: float
    running: bool
    keep_env: bool = True
    step: str = "extract"
    present: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)


class Interrupted(BaseException):
    """Somebody asked us to stop. Nobody's error: what looks whether an agent answers must not take it for one."""


class Restore:
    """Restores on one host.

    :param say: told what happens
    """

    def __init__(self, host: Installation, say: Callable[[str], object]) -> None:
        self.host = host
        self.say = say
        self.journal_path = os.path.join(host.ops_dir, JOURNALS["restore"])
        self.guard = Guard(host, "restore", needs=host.data_dir)
        # Whether one may end us by an error: while going back one may not.
        self.interruptible = False

    def restore(
        self,
        profile: dict[str, Any],
        source: str | BinaryIO,
        *,
        force: bool = False,
        identity: str | None = None,
        finish: Callable[[], object] = lambda: None,
    ) -> str:
        """Replace the home of *profile* by the one in *source*.

        :param source: path of an archive, or its tar stream
        :param force: also where the home learnt something since the backup
        :param identity: file with age's identity, for an archive with an encrypted ``.env``
        :param finish: called when *source* was read to its end; raises when its sender failed
        :returns: the directory that holds what was there
        :raises OpsError: it was not done, and the home is what it was; says why
        """
        with self.host.lock("restore"):
            refuse_update(self.host)
            self.recover()
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            aside = os.path.join(aside_root(self.host, profile["home"]), f"{profile['name']}-{stamp}")
            if os.path.lexists(aside):
                raise OpsError("is there already", where=aside, fix="try again in a second")
            unit = self.host.manager.units([profile["unit"]])[profile["unit"]]
            running = unit.active not in gateway.DEAD
            journal = Journal(profile["name"], profile["home"], aside, time.time(), running)
            before = health.check(profile, self.host.owner, unit).causes if running else []
            try:
                self.guard.post()
                self._enter(journal, "extract")
                self.interruptible = True
                manifest = self._extract(journal, source, identity)
                finish()
                if not force:
                    refuse_newer(learnt_since(self.host, profile["home"], manifest), manifest)
                self._switch(journal, profile)
                self._start(journal, profile, before)
            except BaseException:
                self.interruptible = False
                touched = journal.step != "extract"
                self._undo(journal, profile)
                if touched and running:
                    self.say(health.wait([profile], self.host.manager, self.host.owner)[0])
                raise
            self.interruptible = False
            self._forget()
            return aside

    def check(
        self,
        profile: dict[str, Any],
        source: str | BinaryIO,
        *,
        force: bool = False,
        finish: Callable[[], object] = lambda: None,
    ) -> str:
        """What :meth:`restore` would do, without doing it.

        :raises OpsError: it would refuse, and why
        """
        if isinstance(source, str):
            manifest = extracting.verify(source)
        else:
            manifest = tarstream.read(source, "the stream", tarstream.Nowhere())
        finish()
        if not force:
            refuse_newer(learnt_since(self.host, profile["home"], manifest), manifest)
        files = len(manifest["members"])
        made = moment_of(manifest["created"])
        return f"would restore {files} files of {manifest['profile']} on {manifest['host']}, {made}"

    def recover(self, *, boot: bool = False) -> bool:
        """Undo what was killed; returns whether there was anything. Call it while nobody else restores.

        :param boot: the host starts the gateways itself
        """
        value = read_json(self.journal_path)
        if value is None:
            self.guard.lift()
            return False
        journal = Journal(**value)
        self.say(f"the restore of {journal.profile} was interrupted at {journal.step}: it is undone")
        profile = next((each for each in self.host.profiles if each["name"] == journal.profile), None)
        self._undo(journal, None if boot else profile)
        return True

    # There.

    def _extract(self, journal: Journal, source: str | BinaryIO, identity: str | None) -> dict[str, Any]:
        """Put the home together in the staging directory."""
        staging = os.path.join(journal.home, selection.STAGING)
        self._remove_staging(journal)
        manifest = extracting.extract(source, staging, self.host.owner)
        sealed = manifest.pop("sealed_env", None)
        if sealed is not None and identity:
            if not os.path.isfile(identity):
                raise OpsError("there is no such file", where=identity, fix="name the file with age's identity")
            command = ["age", "--decrypt", "--identity", identity]
            text = run_filter(command, sealed, timeout=making.AGE_TIMEOUT)
            with acting_as(self.host.owner):
                write_atomic(os.path.join(staging, selection.ENV), text, mode=0o600)
        elif sealed is not None:
            self.say(".env stays as it is: the one in the backup is encrypted, and no identity was named")
        for path, target in sorted(manifest["outside"].items()):
            self._link_outside(staging, path, target)
        for path, problem in sorted(manifest["problems"].items()):
            self.say(f"since the backup was made: {path} {problem}")
        journal.keep_env = not os.path.lexists(os.path.join(staging, selection.ENV))
        # Before the first rename, all of it is on disk.
        os.sync()
        return manifest

    def _link_outside(self, staging: str, path: str, target: str) -> None:
        """A link that led out of the home is made again where it leads somewhere, as the agent itself could."""
        where = os.path.normpath(os.path.join(staging, path))
        with acting_as(self.host.owner):
            parent = os.path.realpath(os.path.dirname(where))
            leads = os.path.exists(os.path.join(os.path.dirname(where), target))
            if parent.startswith(staging) and leads and not os.path.lexists(where) and os.path.isdir(parent):
                os.symlink(target, where)
                return
        self.say(f"{path} is not in the backup: it was a link to {target}, which is not here")

    def _switch(self, journal: Journal, profile: dict[str, Any]) -> None:
        with self.host.lock("backup", timeout=making.LOCK_TIMEOUT):
            # One that reads the home comes to its end; the next one finds our journal.
            self._enter(journal, "stop")
            self._stop(profile)
            self._exchange(journal)

    def _exchange(self, journal: Journal) -> None:
        records = self.host.records(journal.profile)
        records.prepare()
        # A run of site.yml waits.
        with records.lock(), _opened(journal.home) as home, _opened(journal.home, selection.STAGING) as staging:
            journal.present, journal.restored = self._mine(journal), sorted(os.listdir(staging))
            self._enter(journal, "switch")
            _make(journal.aside)
            with _opened(journal.aside) as aside:
                for name in journal.present:
                    os.rename(name, name, src_dir_fd=home, dst_dir_fd=aside)
                os.fsync(aside)
                for name in journal.restored:
                    if _exists(name, home):
                        raise OpsError(
                            f"somebody makes {name!r} in the home meanwhile",
                            where=journal.home,
                            fix="see who works there besides the gateway: fuser -v",
                        )
                    os.rename(name, name, src_dir_fd=staging, dst_dir_fd=home)
            os.fsync(home)
            webhooks.forget_time(records)

    def _start(self, journal: Journal, profile: dict[str, Any], before: list[str]) -> None:
        self._enter(journal, "start")
        # Empty by now.
        self._remove_staging(journal)
        records = {journal.profile: self.host.records(journal.profile)}
        self.say("starting the gateway on it")
        # Somebody may have started it before the exchange: it would go on with what was set aside.
        gateway.stop(self.host.manager, [profile])
        gateway.start(self.host.manager, [profile], records)
        result = health.wait([profile], self.host.manager, self.host.owner, records)[0]
        self.say(result)
        if not set(result.causes) <= set(before):
            raise OpsError(f"the agent is not healthy on the backup, so that was undone: {result}")

    # And back.

    def _undo(self, journal: Journal, profile: dict[str, Any] | None) -> None:
        """Give the home back what was in it. Can be killed anywhere and called again.

        :param profile: whose gateway is stopped before and started afterwards, if it ran; None: nobody runs
        """
        if journal.step in ("switch", "start"):
            self.say("going back to what was there")
            if profile:
                self._stop(profile)
            self._put_back(journal)
            # From here on only the gateway is missing. On a full disk that is not written down, and done again.
            with contextlib.suppress(OpsError):
                self._enter(journal, "stop")
        self._remove_staging(journal)
        if profile and journal.running and journal.step != "extract":
            gateway.start(self.host.manager, [profile], {journal.profile: self.host.records(journal.profile)})
        self._forget()

    def _put_back(self, journal: Journal) -> None:
        undone = journal.aside + _UNDONE
        for path in (journal.aside, undone):
            _make(path)
        with contextlib.ExitStack() as stack:
            home = stack.enter_context(_opened(journal.home))
            # Once an agent was started on it, none of it is thrown away.
            started = journal.step == "start"
            # Gone, where an undo that was killed had come so far.
            unpacked = not started and os.path.isdir(os.path.join(journal.home, selection.STAGING))
            staging = stack.enter_context(_opened(journal.home, selection.STAGING)) if unpacked else None
            aside, gone = (stack.enter_context(_opened(path)) for path in (journal.aside, undone))
            saved = sorted(os.listdir(aside))
            # What came of the backup leaves. A name that was there and is not aside has never left, or is back already.
            for name in self._mine(journal) if started else journal.restored:
                from_backup = _exists(name, home) and not (staging is not None and _exists(name, staging))
                if from_backup and (name in saved or name not in journal.present):
                    os.rename(name, name, src_dir_fd=home, dst_dir_fd=gone if staging is None else staging)
            for name in saved:
                # Whoever made that meanwhile.
                if _exists(name, home):
                    os.rename(name, _free(name, gone), src_dir_fd=home, dst_dir_fd=gone)
            os.fsync(gone)
            for name in saved:
                os.rename(name, name, src_dir_fd=aside, dst_dir_fd=home)
            os.fsync(home)
            if os.listdir(gone):
                self.say(f"what was in the home by then is in {undone}")
        for path in (journal.aside, undone):
            if not os.listdir(path):
                os.rmdir(path)

    def _stop(self, profile: dict[str, Any]) -> None:
        self.say("stopping the gateway")
        gateway.stop(self.host.manager, [profile])

    def _mine(self, journal: Journal) -> list[str]:
        """The names in the home that a backup replaces."""
        with acting_as(self.host.owner):
            names = selection.replaced(journal.home)
        return [name for name in names if not (journal.keep_env and name.startswith(selection.ENV))]

    def _remove_staging(self, journal: Journal) -> None:
        with acting_as(self.host.owner):
            remove_tree(os.path.join(journal.home, selection.STAGING))

    # The journal.

    def _enter(self, journal: Journal, step: str) -> None:
        """Write down that *step* begins."""
        write_json(self.journal_path, {**dataclasses.asdict(journal), "step": step})
        journal.step = step

    def _forget(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.journal_path)
            sync_directory(self.host.ops_dir)
        self.guard.lift()


def aside_root(host: Installation, home: str) -> str:
    """Where what a home loses is kept: with what is ours, as long as a rename leads there."""
    if os.stat(host.ops_dir).st_dev == os.stat(home).st_dev:
        return os.path.join(host.ops_dir, "set-aside")
    return os.path.join(home, ASIDE_IN_HOME)


@contextlib.contextmanager
def _opened(path: str, name: str | None = None) -> Iterator[int]:
    """A descriptor of a directory, through no link of the agent's; what the system refuses is an error of ours."""
    descriptor = open_directory(os.path.join(path, name) if name else path)
    try:
        yield descriptor
    except OSError as error:
        raise failure("changed", path, error) from None
    finally:
        os.close(descriptor)


def _make(path: str) -> None:
    """Make a directory (0700, ours) with its parents, through no link of the agent's."""
    parent, name = os.path.split(path)
    if not os.path.isdir(parent):
        _make(parent)
    with _opened(parent) as descriptor, contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=descriptor)


def _exists(name: str, directory: int) -> bool:
    try:
        os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def _free(name: str, directory: int) -> str:
    """A name like *name* that nothing in *directory* has."""
    number, free = 1, name
    while _exists(free, directory):
        number += 1
        free = f"{name}.{number}"
    return free


# The last working copies of two files, without a backup.
