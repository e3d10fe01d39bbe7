# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job has begun and not finished, so that the next one, or the next boot, can undo or finish it."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from ..system.files import read_json, sync_directory, write_json
from .guard import Guard
from .installation import JOURNALS, Installation
from .records import check_ops


class Interrupted(BaseException):
    """Somebody asked us to stop. Not an Exception, so that health checks cannot swallow it."""


class JournalFile:
    """The journal of *job*, and the unit that recovers at boot as long as there is one.

    Recovery depends on this file only, so it is believed only where nobody but root can have written it.

    :param job: a key of :data:`JOURNALS`
    :param needs: see :class:`Guard`
    """

    def __init__(self, host: Installation, job: str, *, needs: str) -> None:
        self.host = host
        self.path = os.path.join(host.ops_dir, JOURNALS[job])
        self.guard = Guard(host, job, needs=needs)

    def read(self) -> dict[str, Any] | None:
        """What was begun; None: nothing.

        :raises OpsError: somebody else than root may have written it
        """
        if not os.path.lexists(self.path):
            return None
        check_ops(self.host.ops_dir)
        return read_json(self.path)

    def begin(self, value: dict[str, Any]) -> None:
        """Before the first step; the next boot recovers from here on."""
        self.guard.post()
        self.write(value)

    def write(self, value: dict[str, Any]) -> None:
        """Before each step."""
        check_ops(self.host.ops_dir)
        write_json(self.path, value)

    def forget(self) -> None:
        """Finished or undone: without a journal there is nothing to recover."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
            sync_directory(os.path.dirname(self.path))
        self.guard.lift()
