# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Walks a directory tree by descriptors.

No link is followed, at any depth, even while somebody else renames directories in the tree.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Most levels of directories that are measured; each takes a descriptor.
_DEPTH = 100


@dataclass(frozen=True)
class Entry:
    """One entry below a directory.

    :param path: its path below that directory
    :param status: its own status, not that of a link's target
    :param directory: a descriptor of its parent directory, open until the next entry is requested
    """

    path: str
    status: os.stat_result
    directory: int

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


def walk(top: int, *, depth: int, enter: Callable[[Entry], bool] = lambda _entry: True) -> Iterator[Entry]:
    """The entries below *top*, each directory before its contents. Other file systems are not entered.

    Entries that vanish meanwhile, and the contents of unreadable directories, are skipped.

    :param top: a descriptor of a directory, which stays open
    :param depth: how many levels of directories are entered; each open level takes one descriptor
    :param enter: whether to enter this directory
    """
    device = os.fstat(top).st_dev
    opened = [(top, "", _list(top))]
    try:
        while opened:
            directory, prefix, entries = opened[-1]
            entry = _next(directory, prefix, entries)
            if entry is None:
                opened.pop()
                if directory != top:
                    os.close(directory)
                continue
            yield entry
            same = entry.status.st_dev == device
            if not (entry.is_directory and same and len(opened) <= depth and enter(entry)):
                continue
            with contextlib.suppress(OSError):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                below = os.open(entry.name, flags, dir_fd=directory)
                opened.append((below, f"{entry.path}/", _list(below)))
    finally:
        for directory, _prefix, _entries in opened[1:]:
            os.close(directory)


def size(top: int, seconds: float) -> tuple[int, bool]:
    """The size of everything below the directory *top*. For a worker, as the owner of the tree.

    :param seconds: for counting
    :returns: bytes on the disk, and whether that is all: not when the time was up, or a directory cannot be entered
    """
    deadline = time.monotonic() + seconds
    total, complete, linked = 0, True, set[int]()
    for entry in walk(top, depth=_DEPTH):
        status = entry.status
        if entry.is_directory:
            open_to_us = status.st_uid == os.geteuid() and status.st_mode & 0o500 == 0o500
            complete &= open_to_us and entry.path.count("/") < _DEPTH
        elif status.st_nlink > 1:
            if status.st_ino in linked:
                continue
            linked.add(status.st_ino)
        total += status.st_blocks * 512
        if time.monotonic() > deadline:
            return total, False
    return total, complete


def _list(directory: int) -> Iterator[str]:
    """Names in *directory*, one at a time, because there may be millions."""
    try:
        with os.scandir(directory) as entries:
            yield from (entry.name for entry in entries)
    except OSError:
        return


def _next(directory: int, prefix: str, names: Iterator[str]) -> Entry | None:
    for name in names:
        with contextlib.suppress(OSError):
            return Entry(prefix + name, os.lstat(name, dir_fd=directory), directory)
    return None
