# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of directories that somebody hostile made, removed. For workers: it takes as long as there are files."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import stat

from .errors import OpsError
from .files import failure

# Names that are looked at together; a directory may have millions.
_BATCH = 4096


def remove(path: str) -> None:
    """Remove the directory *path* with all that is in it; no error when it is not there. A link is not followed.

    :raises OpsError: something of it cannot be removed, e.g. because it is mounted there
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        os.chmod(path, 0o700)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            empty(directory)
        finally:
            os.close(directory)
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise failure("removed", path, error) from None


def empty(directory: int) -> None:
    """Remove all that is below *directory*, a descriptor, also where it forbids that.

    What lies deep is first moved up: however deep it is, no path, stack or number of descriptors grows with it.

    :raises OpsError: something cannot be removed
    """
    while names := _names(directory):
        for name in names:
            try:
                _remove(name, directory)
            except OSError as error:
                raise failure("removed", name, error) from None


def _remove(name: str, top: int) -> None:
    if not _is_directory(name, top):
        return
    os.chmod(name, 0o700, dir_fd=top)
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        if os.fstat(directory).st_dev != os.fstat(top).st_dev:
            raise OpsError("is another file system", where=name, fix="unmount it there")
        while names := _names(directory):
            for below in names:
                if _is_directory(below, directory):
                    # Moving a directory writes into it.
                    os.chmod(below, 0o700, dir_fd=directory)
                    os.rename(below, f".{secrets.token_hex(8)}", src_dir_fd=directory, dst_dir_fd=top)
    finally:
        os.close(directory)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=top)


def _is_directory(name: str, directory: int) -> bool:
    """Whether *name* is a directory; what is none is removed."""
    try:
        if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
            return True
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    return False


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in itertools.islice(entries, _BATCH)]
