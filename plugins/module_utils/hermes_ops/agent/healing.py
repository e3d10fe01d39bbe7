# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes over files in an agent's home that belong to another user, where nobody is root: in a container.

Such files come from ``podman exec --user root``, from a copy into the volume, or from an image that ran as another
user. Whoever owns a directory may replace any file in it, so a file that can be read is replaced by its copy. On a host
root gives such files back (:mod:`.ownership`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator

from ..system.errors import OpsError
from ..system.walk import Entry, walk
from . import home, parts
from .part import FILE_MODE

_DEPTH = 64
# Entries that are examined, so that no agent can delay its own start for ever.
_ENTRIES = 200_000
# Files that converging writes anew, so that the agent starts without them. What was in them is not lost: they are
# renamed.
_REPLACEABLE = (*parts.FILES.values(), home.SOUL)
_COPY = ".hermes-ops-copy"


def heal(path: str, *, check: bool) -> list[str]:
    """Take over what another user owns in the home at *path*, as far as the caller may.

    :param check: only say what would be done
    :returns: what was done, and what could not be, as sentences
    :raises OpsError: a directory without which Hermes cannot run cannot be written
    """
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, error.strerror) from None
    try:
        if not os.access(path, os.W_OK | os.X_OK):
            raise _unusable(path, "it belongs to another user")
        return [note for entry in _foreign(top) for note in _heal(path, entry, check)]
    finally:
        os.close(top)


def _foreign(top: int) -> Iterator[Entry]:
    """The entries that belong to another user, and are not on a file system that is mounted read-only."""
    own = os.geteuid()

    def enter(entry: Entry) -> bool:
        return entry.name != "lost+found"

    for number, entry in enumerate(walk(top, depth=_DEPTH, enter=enter)):
        if number == _ENTRIES:
            return
        if entry.status.st_uid != own and enter(entry) and not _is_read_only(entry):
            yield entry


def _is_read_only(entry: Entry) -> bool:
    """Whether it lies in a read-only mount: the platform's, such as plugins, and as it is meant to be."""
    try:
        descriptor = os.open(entry.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.directory)
    except OSError:
        return False
    try:
        return bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
    finally:
        os.close(descriptor)


def _heal(top: str, entry: Entry, check: bool) -> Iterator[str]:
    path = os.path.join(top, entry.path)
    if entry.is_directory:
        if not os.access(entry.name, os.W_OK | os.X_OK, dir_fd=entry.directory):
            if entry.path in home.DIRECTORIES:
                raise _unusable(path, "it belongs to another user")
            yield f"{path} belongs to user id {entry.status.st_uid}: the agent cannot write there"
        return
    if (
        not stat.S_ISREG(entry.status.st_mode)
        or _may(entry, os.R_OK | os.W_OK)
        or not os.access(".", os.W_OK | os.X_OK, dir_fd=entry.directory)
    ):
        return
    if _may(entry, os.R_OK):
        if not check:
            _copy(path, entry)
        yield f"{path} belonged to user id {entry.status.st_uid}: replaced by a copy"
    elif entry.path in _REPLACEABLE:
        aside = f"{entry.name}.of-{entry.status.st_uid}-{int(time.time())}"
        if not check:
            os.rename(entry.name, aside, src_dir_fd=entry.directory, dst_dir_fd=entry.directory)
        yield f"{path} belonged to user id {entry.status.st_uid} and could not be read: renamed to {aside}"
    else:
        yield f"{path} belongs to user id {entry.status.st_uid} and cannot be read"


def _may(entry: Entry, mode: int) -> bool:
    return os.access(entry.name, mode, dir_fd=entry.directory, follow_symlinks=False)


def _copy(path: str, entry: Entry) -> None:
    """Replace the file by a copy, which is whole before it gets the name."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    source = os.open(entry.name, flags, dir_fd=entry.directory)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(os.fdopen(source, "rb"))
        # What a killed start, or the agent, left there is not opened: it may be a pipe.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_COPY, dir_fd=entry.directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        target = os.open(_COPY, flags, FILE_MODE, dir_fd=entry.directory)
        writer = stack.enter_context(os.fdopen(target, "wb"))
        try:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fchmod(target, entry.status.st_mode & 0o700 | FILE_MODE)
            os.fsync(target)
            os.rename(_COPY, entry.name, src_dir_fd=entry.directory, dst_dir_fd=entry.directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(_COPY, dir_fd=entry.directory)
            raise OpsError(f"cannot be copied ({error.strerror})", where=path, fix="free space in the volume") from None


def _unusable(path: str, why: str | None) -> OpsError:
    return OpsError(
        f"cannot be used by user id {os.geteuid()}: {why}",
        where=path,
        fix=f"give it to that user: chown -R {os.geteuid()} {path}; on Kubernetes, declare fsGroup",
    )
