# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs of which Hermes writes one file an event: there is nothing to rotate, only to remove when they are old."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import stat
import time

from ..system.files import Account, changing, open_directory
from ..system.worker import Limits, work

# Directories of a home, and the names in them (Hermes 0.18.2 and 0.19.0; the sources stand in docs/logs.md).
EVENTS = (("logs", "subagent-timeout-*.log"), ("sessions", "request_dump_*.json"))
# For how many days these and rotated logs are kept, unless that is declared.
DAYS = 14
# Seconds: an agent may have left millions of files.
_LIMITS = Limits(seconds=30.0)
_DAY = 86400.0


def remove(account: Account, home: str, days: int) -> None:
    """Remove the files of events that are older than *days* from the *home* of an agent that runs as *account*.

    :raises OpsError: that cannot be done
    """
    with changing(open_directory(home), home) as top:
        work(account, "host.events:remove_in", top, days, limits=_LIMITS, descriptors=[top], where=home)


def remove_in(home: int, days: int) -> None:
    """In a worker: see :func:`remove`.

    Through no link: the worker is not in the agent's sandbox, and must not do for it what that forbids.

    :param home: its descriptor
    """
    before = time.time() - days * _DAY
    for directory, pattern in EVENTS:
        try:
            opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home)
        except OSError:
            # Not there, or something else.
            continue
        for name in fnmatch.filter(os.listdir(opened), pattern):
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=opened, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_mtime < before:
                    os.unlink(name, dir_fd=opened)
        os.close(opened)
