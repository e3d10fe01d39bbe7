# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a home has learnt since a backup of it was made. For workers: they read what an agent wrote."""

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
    """What *home* knows that a backup cannot: one reason for each thing, ready to be read.

    A home to which nobody ever said anything has learnt nothing, however new its files are: site.yml just wrote them.

    :param question: what our own health checks say to an agent; no conversation
    :param created: when the backup was made, seconds since 1970
    :param saved: path -> SHA-256 of what is in it
    """
    spoken = _last_said(home, question)
    if not spoken:
        return []
    if created > time.time() + FAST_CLOCK:
        return [f"it was made with a clock that was fast ({moment(created)}), and nobody knows when"]
    reasons = []
    if spoken > created:
        reasons.append(f"somebody spoke to the agent on {moment(spoken)}")
    for name in LEARNT:
        newest = max(_newer(home, name, created, saved), default=None)
        if newest:
            reasons.append(f"{newest[1][:200]} was changed on {moment(newest[0])}")
    return reasons


def _last_said(home: str, question: str) -> float:
    """When somebody said the last thing that was no question of ours; 0.0: never, or that cannot be read."""
    query = "SELECT max(timestamp) FROM messages WHERE role = 'user' AND instr(coalesce(content, ''), ?) = 0"
    try:
        with sqlite.reading(os.path.join(home, FILE_NAME), seconds=_SECONDS) as database:
            if database is None:
                return 0.0
            (when,) = database.execute(query, (question,)).fetchone()
    except OpsError:
        # That is why one restores.
        return 0.0
    return float(when) if isinstance(when, (int, float)) else 0.0


def _newer(home: str, name: str, created: float, saved: dict[str, str]) -> Iterator[tuple[float, str]]:
    """Files at or below *name* that were changed since the backup and are not as in it."""
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
            continue  # gone meanwhile, or nothing that could be in a backup


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
