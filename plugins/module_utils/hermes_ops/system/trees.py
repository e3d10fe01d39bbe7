# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes directory trees that may be hostile. The time is proportional to the number of entries.

Directories deep in the tree are first moved up, so neither paths, stack nor open descriptors grow with the depth.
Links are removed, not followed. Mounts in the tree are not entered, not even bind mounts of the same file system.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator

from .errors import OpsError
from .files import failure, mount_of

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: str) -> None:
    """Remove *path* with its contents, even where their modes forbid it; a missing *path* is no error.

    :raises OpsError: something in it cannot be removed; everything else is removed
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        with _opened(path) as top:
            with _opened(os.path.dirname(path) or ".") as parent:
                if mount_of(parent) != mount_of(top):
                    raise OpsError("is not removed: something is mounted there", where=path, fix="unmount it")
            empty(top, path)
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise failure("removed", path, error) from None


def empty(directory: int, path: str = "") -> None:
    """Remove everything below *directory*, a descriptor, even where modes forbid it.

    :param path: the path of *directory*, for errors
    :raises OpsError: something cannot be removed; everything else is removed
    """
    mount = mount_of(directory)
    with contextlib.suppress(PermissionError):
        os.fchmod(directory, 0o700)
    token, number = os.urandom(8).hex(), itertools.count()
    while True:
        removed, failed = 0, None
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    _remove(entry.name, directory, mount, lambda: f".{token}.{next(number)}")
                    removed += 1
                except FileNotFoundError:
                    removed += 1
                except OSError as error:
                    failed = failed or failure("removed", os.path.join(path, entry.name), error)
        if failed and not removed:
            raise failed
        if not removed:
            return


def _remove(name: str, top: int, mount: int, free_name: Callable[[], str]) -> None:
    """Remove the entry *name* of the directory *top*; the directories in it are moved into *top*."""
    if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
        os.unlink(name, dir_fd=top)
        return
    with _opened(name, top) as directory:
        if mount_of(directory) != mount:
            raise OSError(errno.EBUSY, "something is mounted there")
        os.fchmod(directory, 0o700)
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=directory)
                    continue
                # Renaming a directory needs write permission for it: its entry `..` changes.
                with contextlib.suppress(PermissionError):
                    os.chmod(entry.name, 0o700, dir_fd=directory)
                os.rename(entry.name, free_name(), src_dir_fd=directory, dst_dir_fd=top)
    os.rmdir(name, dir_fd=top)


@contextlib.contextmanager
def _opened(name: str, directory: int | None = None) -> Iterator[int]:
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=directory)
        descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
