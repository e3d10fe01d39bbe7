# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that may be killed anywhere: what it writes down, and who goes on from there."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Sequence
from typing import Any

from ..system.files import ensure_directory, read_json, sync_directory, write_json
from .guard import Guard
from .installation import JOURNALS, Installation
from .records import check_ops


class Interrupted(BaseException):
    """A signal asks us to stop. Not an Exception, so that no look at an agent takes it for what that agent does."""


class Undertaking:
    """The journal of a job, and the unit that recovers at the next boot.

    The journal is written before each step and removed at the end. Recovery depends on it alone.

    :param job: a key of :data:`JOURNALS`
    :param needs: a path, beside the journal's, that has to be mounted for recovery
    """

    def __init__(self, host: Installation, job: str, *, needs: str) -> None:
        self.ops_dir = host.ops_dir
        self.path = os.path.join(host.ops_dir, JOURNALS[job])
        self.guard = Guard(host, job, needs=needs)
        # While it goes back, signals do not interrupt it.
        self.interruptible = True

    def read(self) -> dict[str, Any] | None:
        """What the last one wrote that did not come to its end; None: it did.

        :raises OpsError: it is damaged, or somebody else than root may have put it there
        """
        self._check()
        return read_json(self.path)

    def write(self, journal: dict[str, Any]) -> None:
        """Write down how far it is.

        The first time the guard is posted before: a journal without one would wait until somebody looks.

        :raises OpsError: the disk is full or read-only, or somebody else than root could change it
        """
        self._check()
        if not os.path.lexists(self.path):
            self.guard.post()
        ensure_directory(os.path.dirname(self.path), mode=0o700)
        write_json(self.path, journal)

    def enter(self, journal: Any, step: str) -> None:
        """Write down that *step* begins.

        :param journal: a dataclass with the field ``step``, that was begun last
        :raises OpsError: see :meth:`write`; then it has not begun
        """
        self.write({**dataclasses.asdict(journal), "step": step})
        journal.step = step

    def _check(self) -> None:
        # While the data volume is not mounted, anybody may have put something into its place.
        if os.path.lexists(self.ops_dir):
            check_ops(self.ops_dir)

    def end(self) -> None:
        """There is nothing left to recover."""
        if os.path.lexists(self.path):
            os.unlink(self.path)
            sync_directory(os.path.dirname(self.path))
        self.guard.lift()

    def listen(self, signals: Sequence[signal.Signals]) -> None:
        """Let *signals* raise :class:`Interrupted` as long as it is :attr:`interruptible`."""

        def stop(number: int, _frame: Any) -> None:
            if self.interruptible:
                raise Interrupted(f"was ended by {signal.Signals(number).name}")

        for each in signals:
            signal.signal(each, stop)
