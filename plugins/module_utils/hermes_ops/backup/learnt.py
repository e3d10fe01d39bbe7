# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds what a home has learnt since its backup was made. Runs in workers, because it reads the agent's files."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator

from ..agent.sessions import FILE_NAME
from ..system import sqlite
from ..system.errors import OpsError
from ..system.text import moment
from .databases import open_regular
from .selection import LEARNT

# Clock skew that is tolerated, in seconds.
FAST_CLOCK = 24 * 3600.0
# Seconds to read a database.
_SECONDS = 30.0


def since(home: str, question: str, created: float, saved: dict[str, str]) -> list[str]:
    """What *home* has learnt since the backup was made: one sentence for each finding.

    A home without any conversation has learnt nothing, however new its files are: site.yml may have just written them.

    :param question: the prompt of our own health checks, which is no conversation
    :param created: when the backup was made, seconds since 1970
    :param saved: path -> SHA-256 of the file in the backup
    """
    spoken = _last_said(home, question)
    if not spoken:
        return []
    if created > time.time() + FAST_CLOCK:
        return [f"it was made with a clock that was fast ({moment(created)}), so its age is unknown"]
    reasons = []
    if spoken > created:
        reasons.append(f"somebody spoke to the agent on {moment(spoken)}")
    for name in LEARNT:
        newest = max(_newer(home, name, created, saved), default=None)
        if newest:
            reasons.append(f"{newest[1][:200]} was changed on {moment(newest[0])}")
    return reasons


def _last_said(home: str, question: str) -> float:
    """Time of the last message of a user, without our own questions; 0.0: there is none, or it cannot be read."""
    query = "SELECT max(timestamp) FROM messages WHERE role = 'user' AND instr(coalesce(content, ''), ?) = 0"
    try:
        with sqlite.reading(os.path.join(home, FILE_NAME), seconds=_SECONDS) as database:
            if database is None:
                return 0.0
            (when,) = database.execute(query, (question,)).fetchone()
    except OpsError:
        # A damaged database must not block the restore that repairs it.
        return 0.0
    return float(when) if isinstance(when, (int, float)) else 0.0


def _newer(home: str, name: str, created: float, saved: dict[str, str]) -> Iterator[tuple[float, str]]:
    """Time and path of files at or below *name* that changed since the backup and differ from it."""
    top = os.path.join(home, name)
    for path in [top] if not os.path.isdir(top) else _files(top):
        try:
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_mtime <= created:
                continue
            relative = os.path.relpath(path, home)
            if saved.get(relative) != _sha256(path):
                yield status.st_mtime, relative
        except OSError:
            continue  # gone meanwhile, or not readable and so in no backup


def _files(top: str) -> Iterator[str]:
    for directory, _names, files in os.walk(top):
        yield from (os.path.join(directory, file) for file in files)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    file = open_regular(path)
    if file is None:
        return ""
    with file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
