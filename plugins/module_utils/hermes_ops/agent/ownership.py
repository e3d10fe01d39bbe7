# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What root left in an agent's home, such as a ``sudo hermes``, is given to the agent's user.

The agent's user finds it, so that root walks through no tree of the agent's. Root then goes to each find by
descriptors, and gives away only what nobody could have led it to: a file or directory of root's that has this one
name, and that lies in the home's own mount.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from ..system.errors import OpsError
from ..system.files import Owner, failure, open_directory
from ..system.walk import Entry, walk

# What a `sudo hermes` leaves lies not as deep.
_DEPTH = 64
# Entries that are looked at, and finds at once.
_ENTRIES = 500_000
_FINDS = 1_000
_PROTECTED_LINKS = "/proc/sys/fs/protected_hardlinks"


def find(home: str, skipped: Iterable[str]) -> dict[str, Any]:
    """Look for what is root's; as the agent's user.

    :param skipped: directories of the home that are not looked into
    :returns: ``paths`` below the home, ``""`` for itself, the first ones; ``complete``: everything was looked at
    """
    try:
        status = os.stat(home)
        top = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return {"paths": [], "complete": True}
    except PermissionError:
        return {"paths": [""], "complete": True}
    except OSError as error:
        raise failure("read", home, error) from None
    skipped = set(skipped)

    def enter(entry: Entry) -> bool:
        return entry.path not in skipped

    paths = [""] if status.st_uid == 0 else []
    try:
        for number, entry in enumerate(walk(top, depth=_DEPTH, enter=enter)):
            if number == _ENTRIES or len(paths) == _FINDS:
                return {"paths": paths, "complete": False}
            if entry.path not in skipped and _may_be_given(entry.status):
                paths.append(entry.path)
    finally:
        os.close(top)
    return {"paths": paths, "complete": True}


def check(home: str, owner: Owner) -> None:
    """:raises OpsError: when *home* is reached through somebody else's link, or is another user's"""
    descriptor = open_directory(home)
    try:
        uid = os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
    if uid not in (0, owner.uid):
        raise OpsError(
            f"belongs to the user with the number {uid}, not to {owner.name!r}",
            where=home,
            fix=f"declare that user, or give it all: chown -R --from={uid} {owner.name}: {home}",
        )


def give_back(home: str, owner: Owner, paths: Iterable[str], *, mend: bool) -> list[str]:
    """Give what :func:`find` found at *paths* to *owner*, as far as it is safe; as root.

    :param mend: else only say what would be given
    :returns: the paths that were
    """
    top = open_directory(home)
    given = []
    try:
        mount = _mount(top)
        # Another name of a file could be made by somebody else, and its first one removed, before we look.
        files = _links_are_protected()
        for path in paths:
            for descriptor in _reach(top, path):
                status = os.fstat(descriptor)
                safe = _may_be_given(status) and (files or stat.S_ISDIR(status.st_mode))
                if not safe or _mount(descriptor) != mount:
                    continue
                given.append(path)
                if mend:
                    # The thing itself, whatever has its name by now.
                    os.chown(f"/proc/self/fd/{descriptor}", owner.uid, owner.gid)
    finally:
        os.close(top)
    return given


def _may_be_given(status: os.stat_result) -> bool:
    """Whether it is root's, and a directory, or a file that has no other name."""
    if status.st_uid != 0:
        return False
    return stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)


def _reach(top: int, path: str) -> Iterator[int]:
    """A descriptor of what lies at *path* below *top*, reached through no link; none when there is nothing."""
    descriptor = os.dup(top)
    try:
        names = path.split("/") if path else []
        for number, name in enumerate(names):
            if name in ("", ".", ".."):
                return
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_DIRECTORY if number < len(names) - 1 else 0)
            try:
                below = os.open(name, flags, dir_fd=descriptor)
            except (OSError, ValueError):
                return
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _mount(descriptor: int) -> str:
    """The mount in which the descriptor lies: bind mounts of one file system differ."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as stream:
        return next(line for line in stream if line.startswith("mnt_id:"))


def _links_are_protected() -> bool:
    """Whether users can give no second name to what they could not write (proc(5), protected_hardlinks)."""
    try:
        with open(_PROTECTED_LINKS, encoding="ascii") as stream:
            return stream.read().strip() != "0"
    except OSError:
        return False
