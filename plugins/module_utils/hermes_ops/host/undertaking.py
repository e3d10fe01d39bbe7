# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that may be killed at any point: its journal, the space to go back, and the unit that recovers from it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Sequence
from typing import Any

from ..system.files import allocate, ensure_directory, read_json, sync_directory, write_json
from .guard import Guard
from .installation import JOURNALS, Installation
from .records import check_ops

# Bytes that are reserved for going back on each disk that this needs: Hermes does not start on a full one (0.18.2,
# 0.19.0).
RESERVE = 16 * 2**20


class Interrupted(BaseException):
    """A signal asks us to stop. Not an Exception, so that health checks cannot take it for an agent's failure."""


class Undertaking:
    """The journal of a job, and the unit that recovers at the next boot.

    The journal is written before each step and removed at the end. Recovery depends on the journal only::

        <journal>.json       the step that began last, and the facts needed to undo it
        <journal>.reserve    space for going back, if the job reserved it

    :param job: a key of :data:`JOURNALS`
    :param needs: a path that must be mounted for recovery, besides the journal
    :param agent: the agent that the job is about, if *job* has a journal for each
    """

    def __init__(self, host: Installation, job: str, *, needs: str, agent: str = "") -> None:
        self.host = host
        self.job = job
        self.path = os.path.join(host.ops_dir, JOURNALS[job].replace("*", agent))
        self.guard = Guard(host, job, needs=needs)
        # False while the job rolls back: signals must not interrupt that.
        self.interruptible = True

    def read(self) -> dict[str, Any] | None:
        """The journal of a run that did not finish; None when there is no such run.

        :raises OpsError: it is damaged, or somebody other than root may have put it there
        """
        self._check()
        return read_json(self.path)

    def write(self, journal: dict[str, Any]) -> None:
        """Record the progress of the job.

        The first write posts the guard before the journal: without a guard, recovery would wait until somebody looks.

        :raises OpsError: the disk is full or read-only, or somebody other than root could change the journal
        """
        self._check()
        if not os.path.lexists(self.path):
            self.guard.post()
        ensure_directory(os.path.dirname(self.path), mode=0o700)
        write_json(self.path, journal)

    def enter(self, journal: Any, step: str) -> None:
        """Record that *step* begins.

        :param journal: a dataclass whose field ``step`` names the step that was begun last
        :raises OpsError: see :meth:`write`; *step* has not begun
        """
        self.write({**dataclasses.asdict(journal), "step": step})
        journal.step = step

    def reserve(self) -> None:
        """Allocate the space that going back needs on the disk of the journal.

        :raises OpsError: the disk has none
        """
        self._check()
        self.release()
        ensure_directory(os.path.dirname(self.path), mode=0o700)
        allocate(self._reserve, RESERVE)

    def release(self) -> None:
        """Free the reserved space: the first step of going back."""
        with contextlib.suppress(OSError):
            os.unlink(self._reserve)

    @property
    def _reserve(self) -> str:
        return f"{os.path.splitext(self.path)[0]}.reserve"

    def _check(self) -> None:
        # While the data volume is not mounted, anybody may put files in its place.
        if os.path.lexists(self.host.ops_dir):
            check_ops(self.host.ops_dir)

    def end(self) -> None:
        """Remove reserve and journal, and the guard unless it has others to recover from."""
        self.release()
        if os.path.lexists(self.path):
            os.unlink(self.path)
            sync_directory(os.path.dirname(self.path))
        if not self.host.unfinished(self.job):
            self.guard.lift()

    def listen(self, signals: Sequence[signal.Signals]) -> None:
        """Let *signals* raise :class:`Interrupted` while :attr:`interruptible` is true."""

        def stop(number: int, _frame: Any) -> None:
            if self.interruptible:
                raise Interrupted(f"was ended by {signal.Signals(number).name}")

        for each in signals:
            signal.signal(each, stop)
