# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a home has learnt since a backup of it was made."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from typing import Any

from ..agent import sessions
from ..host.installation import Installation
from ..supervise import health
from ..system.errors import OpsError
from ..system.files import acting_as, read_bytes
from . import tarstream
from .archives import FAST_CLOCK

# What an agent learns by itself or is taught, besides its conversations.
LEARNT = ("memories", "skills", "cron/jobs.json", "config.yaml", "SOUL.md", "webhook_subscriptions.json")


def learnt_since(host: Installation, home: str, manifest: dict[str, Any]) -> list[str]:
    """What the home knows that a backup cannot: one reason for each thing, ready to be read.

    A home to which nobody ever said anything has learnt nothing, however new its files are: site.yml just wrote them.

    :param manifest: of the backup
    """
    since = manifest["created"]
    spoken = _last_said(host, home)
    if not spoken:
        return []
    if since > time.time() + FAST_CLOCK:
        return [f"it was made with a clock that was fast ({moment_of(since)}), and nobody knows when"]
    reasons = []
    if spoken > since:
        reasons.append(f"somebody spoke to the agent on {moment_of(spoken)}")
    with acting_as(host.owner):
        for name in LEARNT:
            newest = max(_newer(home, name, manifest), default=None)
            if newest:
                reasons.append(f"{newest[1]} was changed on {moment_of(newest[0])}")
    return reasons


def _last_said(host: Installation, home: str) -> float:
    """When somebody said the last thing that was no question of ours; 0.0: never, or that cannot be read."""
    query = "SELECT max(timestamp) FROM messages WHERE role = 'user' AND instr(coalesce(content, ''), ?) = 0"
    try:
        with sessions.reading(home, host.owner) as database:
            if database is None:
                return 0.0
            (when,) = database.execute(query, (health.REPLY_PROMPT,)).fetchone()
    except OpsError:
        # That is why one restores.
        return 0.0
    return float(when or 0.0)


def _newer(home: str, name: str, manifest: dict[str, Any]) -> Iterator[tuple[float, str]]:
    """Files at or below *name* that were changed since the backup and are not as in it."""
    top = os.path.join(home, name)
    paths = [top] if not os.path.isdir(top) else []
    for directory, _names, files in os.walk(top):
        paths += [os.path.join(directory, file) for file in files]
    for path in paths:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode) or status.st_mtime <= manifest["created"]:
            continue
        relative = os.path.relpath(path, home)
        saved = manifest["members"].get(f"{tarstream.HOME}/{relative}", {}).get("sha256")
        if saved != hashlib.sha256(read_bytes(path) or b"").hexdigest():
            yield status.st_mtime, relative


def refuse_newer(reasons: list[str], manifest: dict[str, Any]) -> None:
    if reasons:
        raise OpsError(
            f"the home knows more than the backup of {moment_of(manifest['created'])}: {'; '.join(reasons)}",
            fix="say --force; what is there is set aside, not lost",
        )


def moment_of(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
