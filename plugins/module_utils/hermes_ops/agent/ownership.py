# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives files that root left in an agent's home, for example by ``sudo hermes``, to the agent's user.

The agent's user searches for them, because root must not walk a tree that the agent controls. Root then opens each
find by descriptors, and gives it away only if nobody can have linked or mounted it there: it belongs to root, is a
directory or a file with exactly one name, and lies in the same mount as the home. A file that root kept beside the
home, in a directory of the same user, may have been moved into it (docs/security.md).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import Account, failure, open_directory
from ..system.walk import Entry, walk
from ..system.worker import work

# Levels of directories that are searched. Files of a `sudo hermes` do not lie that deep.
_DEPTH = 64
# Entries that are examined, and finds that are returned, in one search.
_ENTRIES = 500_000
_FINDS = 1_000
# The form of what :func:`find` returns, see :func:`answer.fits`.
FOUND = {"paths": [str], "complete": object}
# Rounds of giving files back: each directory that is given to the agent's user may reveal more files of root.
ROUNDS = 50
_PROTECTED_LINKS = "/proc/sys/fs/protected_hardlinks"


def find(home: str, skipped: Iterable[str]) -> dict[str, Any]:
    """Search for files of root, as the agent's user.

    :param skipped: directories of the home that are not searched
    :returns: ``paths``: the first finds, as paths below the home, ``""`` for the home itself; ``complete``: whether
        everything was examined
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


def check(home: str, account: Account) -> None:
    """:raises OpsError: when the path of *home* leads through another user's link, or *home* belongs to another user"""
    descriptor = open_directory(home)
    try:
        uid = os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
    if uid not in (0, account.uid):
        raise OpsError(
            f"belongs to user id {uid}, not to {account.name!r}",
            where=home,
            fix=f"declare that user, or change the owner: chown -R --from={uid} {account.name}: {home}",
        )


def give_back(home: str, account: Account, paths: Iterable[str], *, mend: bool) -> list[str]:
    """Give the finds of :func:`find` at *paths* to *account*, as root, where that is safe.

    :param mend: whether to change the owner; otherwise nothing is changed
    :returns: the paths that are given, or without *mend* would be
    """
    top = open_directory(home)
    given = []
    try:
        mount = _mount(top)
        # Without protected hard links, somebody could link a file of root into the home, and its first name could be
        # removed before the names are counted here. Without that protection only directories are given.
        files = _links_are_protected()
        for path in paths:
            for descriptor in _reach(top, path):
                status = os.fstat(descriptor)
                safe = _may_be_given(status) and (files or stat.S_ISDIR(status.st_mode))
                if not safe or _mount(descriptor) != mount:
                    continue
                given.append(path)
                if mend:
                    # By descriptor, because another file may have the name by now.
                    os.chown(f"/proc/self/fd/{descriptor}", account.uid, account.gid)
    finally:
        os.close(top)
    return given


def give_all(home: str, account: Account, skipped: Iterable[str]) -> None:
    """As root, have a worker find the files of root in *home*, and give them to *account*.

    :param skipped: directories of the home that are not searched
    """
    for _round in range(ROUNDS):
        found = work(account, "agent.ownership:find", home, list(skipped))
        paths = found["paths"] if fits(found, FOUND) else []
        if not paths or not os.path.lexists(home) or not give_back(home, account, paths, mend=True):
            return


def _may_be_given(status: os.stat_result) -> bool:
    """Whether *status* is that of a directory of root, or a file of root with exactly one name."""
    if status.st_uid != 0:
        return False
    return stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)


def _reach(top: int, path: str) -> Iterator[int]:
    """One descriptor of the entry at *path* below *top*; nothing when it is missing or behind a link."""
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
    """The id of the descriptor's mount. Unlike the device, it differs between bind mounts of one file system."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as stream:
        return next(line for line in stream if line.startswith("mnt_id:"))


def _links_are_protected() -> bool:
    """Whether users cannot hard-link files that they cannot write (proc(5), protected_hardlinks)."""
    try:
        with open(_PROTECTED_LINKS, encoding="ascii") as stream:
            return stream.read().strip() != "0"
    except OSError:
        return False
