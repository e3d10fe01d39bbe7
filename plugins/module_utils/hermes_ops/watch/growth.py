# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The growth of an adopted home, where nothing is removed until its limits are declared."""

from __future__ import annotations

import fnmatch
import itertools
import os

from ..agent import config, sessions
from ..description.declaration import GROWTH_LIMITS
from ..host.events import DAYS, EVENTS
from ..system import sqlite
from ..system.errors import OpsError
from .findings import Finding

_SESSION_DAYS: int = GROWTH_LIMITS["sessions"]["retention_days"]
_DAY = 86400.0
_SECONDS = 2.0
# Files of a directory that are looked at.
_MOST_FILES = 20_000


def old_sessions(home: str, managed_dir: str, now: float) -> int:
    """In a worker: how many sessions the limit of other agents would remove; 0 if one is declared for this agent.

    They are counted as Hermes selects them (0.18.2 and 0.19.0, hermes_state.py: prune_sessions).
    """
    try:
        if any(_is_decided(directory) for directory in (home, managed_dir)):
            return 0
        with sqlite.reading(os.path.join(home, sessions.FILE_NAME), seconds=_SECONDS, wait=1.0) as database:
            query = "SELECT count(*) FROM sessions WHERE ended_at IS NOT NULL AND started_at < ?"
            before = now - _SESSION_DAYS * _DAY
            return database.execute(query, (before,)).fetchone()[0] if database else 0
    except OpsError:
        # Other checks report a configuration or a database that cannot be read.
        return 0


def _is_decided(directory: str) -> bool:
    declared = config.read_config(os.path.join(directory, config.FILE_NAME)).get("sessions")
    return isinstance(declared, dict) and "auto_prune" in declared


def old_logs(home: str, now: float) -> int:
    """In a worker: how many logs of single events the rotation of other agents' logs would remove."""
    found = 0
    for directory, pattern in EVENTS:
        try:
            with os.scandir(os.path.join(home, directory)) as entries:
                for entry in itertools.islice(entries, _MOST_FILES):
                    if fnmatch.fnmatch(entry.name, pattern) and entry.is_file(follow_symlinks=False):
                        found += entry.stat(follow_symlinks=False).st_mtime < now - DAYS * _DAY
        except OSError:
            continue
    return found


def growth_findings(kept: tuple[int, int], agent: str) -> list[Finding]:
    """A finding if the limits of other agents would remove something.

    :param kept: how many :func:`old_sessions` and :func:`old_logs` there are
    """
    said = [
        f"{number} {noun}{'' if number == 1 else 's'} {limit}"
        for number, noun, limit in zip(
            kept,
            ("session", "log"),
            (
                f"that ended and began more than {_SESSION_DAYS} days ago (sessions.auto_prune)",
                f"older than {DAYS} days (logrotate_days)",
            ),
        )
        if number
    ]
    if not said:
        return []
    return [
        Finding(
            "unlimited",
            f"nothing is removed from its adopted home until that is declared; the limits of other agents would "
            f"remove {' and '.join(said)}",
            "back the home up, then declare the limits; or sessions.auto_prune: false to keep every session",
            False,
            agent,
        )
    ]
