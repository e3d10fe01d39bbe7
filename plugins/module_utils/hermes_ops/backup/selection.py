# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a home belongs to a backup, and what is left out."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from ..system.files import Owner, acting_as, failure
from .databases import SQLITE_COMPANIONS, is_database_at

# Of the home itself: what a gateway writes about the process that it is, what it makes again, what grows without
# being anybody's memory, and the homes of other profiles (0.19.0: hermes_cli/backup.py, hermes_cli/profiles.py,
# gateway/platforms/base.py, hermes_cli/models.py).
LEFT_OUT = {
    "profiles",
    "logs",
    "cache",
    "backups",
    "state-snapshots",
    "checkpoints",
    "hermes-agent",
    "gateway_state.json",
    "gateway-starts.log",
    "processes.json",
    # Ours, see restore.py.
    ".hermes-ops-restore",
    ".hermes-ops-set-aside",
}
LEFT_OUT_SUFFIXES = (".pid", ".lock", "_cache", "_cache.json")
# At any depth, like every directory that says itself that it is a cache (https://bford.info/cachedir/).
LEFT_OUT_ANYWHERE = {".cache", ".venv", "__pycache__", "node_modules"}
CACHE_TAG = "CACHEDIR.TAG"
# Where a restore puts a home together, inside of that home.
STAGING = ".hermes-ops-restore"
# Copies of it that editors and Hermes leave (.env.bak, .env_*.tmp) hold the same secrets.
ENV = ".env"


def databases(home: str) -> list[str]:
    """The SQLite files of a home, relative to it. Call it with the rights of its owner."""
    me = Owner.current()
    return sorted(
        path
        for path, status in walk(home, me, {})
        if stat.S_ISREG(status.st_mode) and is_database_at(os.path.join(home, path))
    )


def replaced(home: str) -> list[str]:
    """The names in *home* that a restore replaces: what belongs to a backup, and what belongs to its databases.

    Call it with the rights of its owner.
    """
    names = {name for name, _status in _entries(home, top=True)}
    companions = {name + end for name in names for end in SQLITE_COMPANIONS}
    return sorted(names | (companions & set(os.listdir(home))))


def status_of(home: str) -> os.stat_result:
    try:
        return os.stat(home)
    except OSError as error:
        raise failure("read", home, error) from None


def walk(home: str, owner: Owner, problems: dict[str, str]) -> Iterator[tuple[str, os.stat_result]]:
    """All that belongs to a backup of *home*: path relative to it, and status; a directory before what is in it.

    :param problems: takes what cannot be looked at
    """
    todo = [""]
    while todo:
        directory = todo.pop()
        with acting_as(owner):
            try:
                entries = _entries(os.path.join(home, directory), top=not directory)
            except (FileNotFoundError, NotADirectoryError):
                continue  # the running agent removed it meanwhile
            except OSError as error:
                problems[directory or "."] = f"cannot be read ({error.strerror})"
                continue
        below = []
        for name, status in entries:
            path = os.path.join(directory, name)
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                below.append(path)
        todo += reversed(below)


def _entries(directory: str, *, top: bool) -> list[tuple[str, os.stat_result]]:
    names = sorted(os.listdir(directory))
    found: list[tuple[str, os.stat_result]] = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            found.append((name, os.lstat(os.path.join(directory, name))))
    return [(name, status) for name, status in found if not _left_out(directory, name, status, top=top)]


def _left_out(directory: str, name: str, status: os.stat_result, *, top: bool) -> bool:
    if top and (name in LEFT_OUT or name.endswith(LEFT_OUT_SUFFIXES)):
        return True
    if stat.S_ISDIR(status.st_mode):
        return name in LEFT_OUT_ANYWHERE or os.path.lexists(os.path.join(directory, name, CACHE_TAG))
    if not stat.S_ISREG(status.st_mode):
        return not stat.S_ISLNK(status.st_mode)
    # An unfinished file of ours (files.write_atomic), a lock that holds nothing, what belongs to a live database.
    if (name.startswith(".") and name.endswith(".hermes-ops")) or (name.endswith(".lock") and not status.st_size):
        return True
    stem = next((name[: -len(end)] for end in SQLITE_COMPANIONS if name.endswith(end)), None)
    return stem is not None and is_database_at(os.path.join(directory, stem))


def link_target(home: str, path: str, owner: Owner) -> str | None:
    """Where a link leads; one into the home is made relative, so that it does so in any other place, too."""
    with acting_as(owner):
        try:
            target = os.readlink(os.path.join(home, path))
        except OSError:
            return None
    if os.path.isabs(target) and os.path.commonpath([os.path.normpath(target), home]) == home:
        return os.path.relpath(target, os.path.dirname(os.path.join(home, path)))
    return target
