# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archives that are kept on this host."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import time
from dataclasses import dataclass

from ..host.installation import Installation
from .learnt import FAST_CLOCK

SUFFIX = ".tar.gz"
_STAMP = r"\d{8}T\d{6}Z"


@dataclass(frozen=True)
class Archive:
    """A complete archive on this host. ``created``: seconds since 1970; ``size``: bytes."""

    path: str
    agent: str
    created: float
    size: int


def directory_of(host: Installation) -> str:
    """The default directory of archives."""
    return os.path.join(host.ops_dir, "backups")


def listed(directory: str, agent: str | None = None) -> list[Archive]:
    """The complete archives in *directory*, of all agents or one, :func:`in_order`."""
    found = []
    for name in os.listdir(directory) if os.path.isdir(directory) else []:
        match = re.fullmatch(pattern(None), name)
        if not match or agent not in (None, match["agent"]):
            continue
        path = os.path.join(directory, name)
        try:
            created = datetime.datetime.strptime(match["stamp"] + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
        except ValueError:
            continue  # not a date, so not a name of ours
        # A backup that ends now removes older ones.
        with contextlib.suppress(FileNotFoundError):
            found.append(Archive(path, match["agent"], created, os.stat(path).st_size))
    return in_order(found)


def in_order(found: list[Archive]) -> list[Archive]:
    """*found*, oldest first; see :func:`age_key`."""
    return sorted(found, key=lambda each: (age_key(each.created), each.path))


def age_key(created: float) -> tuple[bool, float]:
    """A key that sorts times (*created*, seconds since 1970), oldest first.

    A time in the future comes before all others. The clock was fast, so the age is unknown, and such an archive must
    not count as the newest for years.
    """
    return created <= time.time() + FAST_CLOCK, created


def prune(directory: str, agent: str, keep: int) -> list[str]:
    """Remove all but the newest *keep* archives of *agent*; returns their paths."""
    removed = [each.path for each in surplus(listed(directory, agent), keep)]
    for path in removed:
        os.unlink(path)
    return removed


def surplus(found: list[Archive], keep: int) -> list[Archive]:
    """All but the newest *keep* of *found*, the archives of one agent, oldest first."""
    return found[: -max(keep, 1)]


def agent_of(path: str) -> str | None:
    """The agent that the archive *path* is named after; None when it is not named like an archive."""
    match = re.fullmatch(pattern(None), os.path.basename(path))
    return match["agent"] if match else None


def pattern(agent: str | None) -> str:
    name = r"[a-z0-9][a-z0-9_-]{0,63}" if agent is None else re.escape(agent)
    return rf"(?P<agent>{name})-(?P<stamp>{_STAMP}){re.escape(SUFFIX)}"


def free_name(directory: str, agent: str) -> str:
    while True:
        path = os.path.join(directory, f"{agent}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}{SUFFIX}")
        if not os.path.lexists(path):
            return path
        time.sleep(0.1)
