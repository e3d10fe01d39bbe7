# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps copies of the files in a home that a release may migrate, and puts them back.

The agent wrote everything in a home and in its copies, so workers do all of the work: see :mod:`copies`. This module
holds root's part: the records and the time limits.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..supervise.servers import REPLY_PROMPT
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import (
    Account,
    changing,
    ensure_directory,
    failure,
    open_directory,
    read_json,
    sync_directory,
    write_json,
)
from ..system.text import printable
from ..system.worker import Limits, Worker, WorkerDied
from . import copies

# Seconds for copying while the agent runs, for completing the copies while it is stopped, and for putting them back.
AHEAD_SECONDS = 900.0
STOPPED_SECONDS = 300.0
BACK_SECONDS = 300.0
SIZE_SECONDS = 60.0
REMOVE_SECONDS = 120.0
# Most databases of one home; Hermes has four.
_MOST = 10_000
_LONGEST_PATH = 4096


class Frozen:
    """The copies of one home.

    ::

        <directory>/<path below the home>    the copy: a file without companions
        <directory>.json                     root's record: the mark of each file, which shows a later migration
        <aside>/<path below the home>        the file in the home that the copy has replaced

    Both directories belong to the agent's user, below directories that only root may enter.

    :param name: of the agent
    :param home: of the agent
    :param strict: a database of Hermes that cannot be copied is an error; if False, it is left out. Other databases
        that cannot be copied are always left out
    """

    def __init__(
        self, name: str, home: str, account: Account, directory: str, aside: str, *, strict: bool = True
    ) -> None:
        self.name = name
        self.home = home
        self.account = account
        self.directory = directory
        self.aside = aside
        self.strict = strict
        # The metadata of each database before copy_ahead, for completing.
        self.seen: dict[str, copies.Look] = {}
        # How many messages put_back has set aside, which came in since the copies were made.
        self.came = 0

    @property
    def where(self) -> str:
        return f"agent {self.name}"

    def size(self) -> int:
        """Bytes that its databases take.

        :raises OpsError: the home cannot be read
        """
        worker = Worker(self.account, "update.copies:size", [self.home], Limits(seconds=SIZE_SECONDS), where=self.where)
        value = self._result(worker)
        if not isinstance(value, int) or value < 0:
            raise self._nonsense()
        return value

    def copy_ahead(self, budget: int) -> None:
        """Copy all databases while the agent goes on working.

        :param budget: bytes that the copies may take
        :raises OpsError: a database cannot be read, the disk is full, or the agent prevents the copy
        """
        with _directories(self.account, self.directory) as (kept,):
            arguments = [self.home, kept, self.strict, budget]
            limits = Limits(seconds=AHEAD_SECONDS, file=budget)
            worker = Worker(self.account, "update.copies:copy_ahead", arguments, limits, [kept], self.where)
            self.seen = self._by_path(self._result(worker), list)

    def completing(self, budget: int) -> Worker:
        """Start a worker that brings the copies up to date while the agent is stopped. Pass it to :meth:`completed`."""
        with _directories(self.account, self.directory) as (kept,):
            arguments = [self.home, kept, self.strict, budget, self.seen]
            limits = Limits(seconds=STOPPED_SECONDS, file=budget)
            return Worker(self.account, "update.copies:complete", arguments, limits, [kept], self.where)

    def completed(self, worker: Worker) -> None:
        """Wait for *worker*, and store the marks.

        :raises OpsError: see :meth:`copy_ahead`
        """
        write_json(f"{self.directory}.json", self._by_path(self._result(worker), str))

    def put_back(self) -> list[str]:
        """Put back each frozen file that has been migrated since; the file it replaces is set aside.

        Can be killed at any point and repeated, until it returns. If an agent makes its databases impossible to
        compare, all of them are put back.

        :returns: paths below the home
        :raises OpsError: some cannot be put back; the others are
        """
        marks = read_json(f"{self.directory}.json")
        if not marks:
            return []
        try:
            answer = self._put_back(marks, compare=True)
        except WorkerDied:
            answer = self._put_back(marks, compare=False)
        if not fits(answer, {"back": [str], "failed": {str: str}, "came": int}):
            raise self._nonsense()
        back, failed, self.came = answer["back"], answer["failed"], answer["came"]
        if not set(back) <= set(marks):
            raise self._nonsense()
        if failed:
            reasons = [printable(reason)[:500] for _name, reason in sorted(failed.items())]
            raise OpsError("; ".join(reasons[:5]), where=self.where)
        return back

    def _put_back(self, marks: dict[str, str], *, compare: bool) -> Any:
        with _directories(self.account, self.directory, self.aside) as (kept, aside):
            status = os.statvfs(self.aside)
            # Between two file systems, a file is set aside by a copy, which needs space.
            limits = Limits(seconds=BACK_SECONDS, file=status.f_bavail * status.f_frsize)
            with changing(open_directory(self.home), self.home) as top:
                since = os.stat(f"{self.directory}.json").st_mtime
                arguments = [self.home, top, kept, aside, marks, compare, since, REPLY_PROMPT]
                handed = [top, kept, aside]
                worker = Worker(self.account, "update.copies:put_back", arguments, limits, handed, self.where)
                answer = self._result(worker)
        return answer

    def _result(self, worker: Worker) -> Any:
        """The answer of *worker*; its errors name the agent."""
        try:
            return worker.result()
        except WorkerDied:
            raise
        except OpsError as error:
            where = f"{self.where}: {error.where}" if error.where else self.where
            raise OpsError(error.what, where=where, fix=error.fix) from None

    def _by_path(self, value: Any, kind: type) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > _MOST:
            raise self._nonsense()
        for path, of_it in value.items():
            inside = path and len(path) <= _LONGEST_PATH and "\0" not in path and not os.path.isabs(path)
            if not inside or ".." in path.split("/") or not isinstance(of_it, kind):
                raise self._nonsense()
        return value

    def _nonsense(self) -> WorkerDied:
        return WorkerDied("a look at its databases gave an invalid answer", where=self.where, fix="see its home")


def complete(
    homes: Sequence[Frozen],
    budget: int,
    veto: Callable[[Frozen], AbstractContextManager[object]] = contextlib.nullcontext,
) -> None:
    """Bring the copies of all *homes* up to date, in parallel, because the agents are stopped meanwhile.

    :param veto: context manager for each home, which may swallow its errors
    :raises OpsError: the first error that *veto* does not swallow
    """
    workers: list[tuple[Frozen, Worker]] = []
    try:
        workers += ((frozen, frozen.completing(budget)) for frozen in homes)
        for frozen, worker in workers:
            with veto(frozen):
                frozen.completed(worker)
    finally:
        for _frozen, worker in workers:
            worker.end()


def discard(run: str) -> None:
    """Remove the copies of a *run* (a directory) as far as possible; a later run removes the rest."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(run):
            path = os.path.join(run, name)
            with contextlib.suppress(OSError, OpsError):
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    _remove(path)
                else:
                    os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(run)


def _remove(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # The agent and its user may be gone by now, so the owner is taken from the directory.
        status = os.fstat(descriptor)
        account = numbered(status.st_uid, status.st_gid)
        Worker(account, "system.trees:empty", [descriptor], Limits(seconds=REMOVE_SECONDS), [descriptor], path).result()
    finally:
        os.close(descriptor)
    os.rmdir(path)


def numbered(uid: int, gid: int) -> Account:
    """The user with this id, who need not exist any more."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return Account(name, uid, gid, "/")


@contextlib.contextmanager
def _directories(account: Account, *paths: str) -> Iterator[list[int]]:
    """Descriptors of directories of *account*, created if missing, below directories that only root may enter."""
    with contextlib.ExitStack() as stack:
        opened = []
        for path in paths:
            try:
                opened.append(_make(path, account))
            except OSError as error:
                raise failure("made", path, error) from None
            stack.callback(os.close, opened[-1])
        yield opened


def _make(path: str, account: Account) -> int:
    ensure_directory(os.path.dirname(path), mode=0o700)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
        sync_directory(os.path.dirname(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.geteuid() == 0:
        os.fchown(descriptor, account.uid, account.gid)
    return descriptor
