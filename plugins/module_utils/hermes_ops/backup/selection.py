# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selects the files of a home that belong to a backup. Runs in workers, because an agent made these files."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from ..system.files import failure, mount_of
from .databases import SQLITE_COMPANIONS, is_database_at

# Left out at the top of the home: state of the gateway's process, files that Hermes makes again, files that grow and
# are no memory, and the homes of other profiles (0.19.0: hermes_cli/backup.py, hermes_cli/profiles.py,
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
}
LEFT_OUT_SUFFIXES = (".pid", ".lock", "_cache", "_cache.json")
# Left out at any depth.
LEFT_OUT_ANYWHERE = {".cache", ".venv", "__pycache__", "node_modules"}
# Prefix of the kit's own directories in a home; left out at any depth.
OURS = ".hermes-ops-"
# Prefix of the directory in the home in which a restore assembles the new content; the time follows.
STAGING = f"{OURS}restore-"
# A file that marks its directory as a cache (https://bford.info/cachedir/).
CACHE_TAG = "CACHEDIR.TAG"
_CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
# Everything that an agent learns or is taught, besides its conversations. Never left out as a cache.
LEARNT = ("memories", "skills", "cron/jobs.json", "config.yaml", "SOUL.md", "webhook_subscriptions.json")
# Used as a prefix: copies that editors and Hermes leave (.env.bak, .env_*.tmp) hold the same secrets.
ENV = ".env"
# Most names in one directory; they are sorted in memory.
NAMES_LIMIT = 200_000

Note = Callable[[str, str], object]


def databases(home: str) -> list[str]:
    """The SQLite files of a home, relative to it."""
    return sorted(
        path
        for path, status in walk(home, _nowhere, _nowhere)
        if stat.S_ISREG(status.st_mode) and is_database_at(os.path.join(home, path))
    )


def replaced(names: list[str], *, keep_env: bool) -> list[str]:
    """The *names* in a home that a restore replaces.

    Only the name decides: even a pipe, or a directory marked as a cache, gives way to the backup.
    """
    return sorted(name for name in names if not _stays(name) and not (keep_env and name.startswith(ENV)))


def _stays(name: str) -> bool:
    return name in LEFT_OUT or name in LEFT_OUT_ANYWHERE or name.endswith(LEFT_OUT_SUFFIXES) or name.startswith(OURS)


def _nowhere(_path: str, _why: str) -> None:
    pass


def walk(home: str, problem: Note, left_out: Note) -> Iterator[tuple[str, os.stat_result]]:
    """Everything that belongs to a backup of *home*: relative path, and status.

    In the order of an archive: a directory precedes its content, which precedes its next sibling; names are sorted.

    :param problem: called with each path that cannot be read, and the reason
    :param left_out: called with each path that is left out although its name belongs to a backup, and the reason
    :raises OpsError: when there is no home
    """
    descriptor = open_home(home)
    try:
        mount = mount_of(descriptor)
        names = _names("", descriptor, problem)
    finally:
        os.close(descriptor)
    todo = [("", iter(names))]
    while todo:
        directory, rest = todo[-1]
        name = next(rest, None)
        if name is None:
            todo.pop()
            continue
        path = os.path.join(directory, name)
        try:
            status = os.lstat(os.path.join(home, path))
            if not _belongs(home, path, status, left_out):
                continue
            below = None
            if stat.S_ISDIR(status.st_mode):
                below = _below(home, path, mount, problem, left_out)
                if below is None:
                    continue
        except (FileNotFoundError, NotADirectoryError):
            continue  # the running agent removed it meanwhile
        except OSError as error:
            problem(path, f"cannot be read ({error.strerror})")
            continue
        yield path, status
        if below:
            todo.append((path, iter(below)))


def open_home(home: str) -> int:
    """A descriptor of the directory *home*.

    :raises OpsError: when there is none
    """
    try:
        return os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise failure("read", home, error) from None


def _below(home: str, path: str, mount: int, problem: Note, left_out: Note) -> list[str] | None:
    """The names in a directory; None when the directory itself is left out."""
    full = os.path.join(home, path)
    try:
        descriptor = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError as error:
        problem(path, f"cannot be read ({error.strerror})")
        return []
    try:
        if mount_of(descriptor) != mount:
            left_out(path, "something else is mounted there")
            return None
        return _names(path, descriptor, problem)
    finally:
        os.close(descriptor)


def _names(path: str, descriptor: int, problem: Note) -> list[str]:
    names = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) > NAMES_LIMIT:
                problem(path or ".", f"holds more than {NAMES_LIMIT} names, so none of them is in the backup")
                return []
    return sorted(names)


def _belongs(home: str, path: str, status: os.stat_result, left_out: Note) -> bool:
    name = os.path.basename(path)
    if name in LEFT_OUT_ANYWHERE or name.startswith(OURS) or ("/" not in path and _stays(name)):
        return False
    full = os.path.join(home, path)
    if stat.S_ISDIR(status.st_mode):
        if "/" in path and not is_learnt(path) and _is_cache(full):
            left_out(path, f"is marked as a cache ({CACHE_TAG})")
            return False
        return True
    if not stat.S_ISREG(status.st_mode):
        if not stat.S_ISLNK(status.st_mode):
            left_out(path, "is a pipe, a socket or a device")
            return False
        return True
    # An unfinished file of ours (files.write_atomic), an empty lock, or a companion of a live database.
    if (name.startswith(".") and name.endswith(".hermes-ops")) or (name.endswith(".lock") and not status.st_size):
        return False
    stem = next((full[: -len(end)] for end in SQLITE_COMPANIONS if name.endswith(end)), None)
    return stem is None or not is_database_at(stem)


def is_learnt(path: str) -> bool:
    """Whether *path* (below a home) is at or below one of :data:`LEARNT`."""
    return any(path == name or path.startswith(f"{name}/") for name in LEARNT)


def _is_cache(directory: str) -> bool:
    with contextlib.suppress(OSError):
        tag = os.path.join(directory, CACHE_TAG)
        descriptor = os.open(tag, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, len(_CACHE_SIGNATURE)) == _CACHE_SIGNATURE
        finally:
            os.close(descriptor)
    return False


def link_target(home: str, path: str) -> str | None:
    """The target of a link. A target in the home is made relative, so that it works wherever the home is restored.

    :returns: None when the link is gone
    """
    try:
        target = os.readlink(os.path.join(home, path))
    except OSError:
        return None
    if os.path.isabs(target) and os.path.commonpath([os.path.normpath(target), home]) == home:
        return os.path.relpath(target, os.path.dirname(os.path.join(home, path)))
    return target
