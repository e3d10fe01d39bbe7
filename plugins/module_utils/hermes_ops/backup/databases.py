# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The SQLite files of a home, copied by SQLite's own backup interface while an agent writes to them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import urllib.parse
from typing import BinaryIO

from ..agent.sessions import DATABASE_ERRORS
from ..system.errors import OpsError
from ..system.files import Owner, acting_as
from . import tarstream

SQLITE_MAGIC = b"SQLite format 3\0"
# What SQLite keeps beside a database; belongs to the live file, never to a copy.
SQLITE_COMPANIONS = ("-wal", "-shm", "-journal")
# Seconds to wait for a writer that holds a database.
SQLITE_TIMEOUT = 30.0


def copy_database(source: str, target: str, owner: Owner) -> None:
    """Copy the live database *source* to *target* by SQLite's own backup interface.

    *source* is read with the rights of *owner*, so that what SQLite makes beside it is the owner's, too. *target* is
    ours: it is made (0600) with the rights that we have.

    :raises OpsError: it is damaged, locked for too long, or the disk would be full
    """
    try:
        copy_open_database(source, target, owner)
    except DATABASE_ERRORS as error:
        raise OpsError(f"cannot be copied by SQLite ({error})", where=source, fix=_DATABASE_FIX) from None


_DATABASE_FIX = "see whether it is sound: sqlite3 FILE 'PRAGMA integrity_check'"


def copy_open_database(source: str, target: str, owner: Owner) -> None:
    with acting_as(owner):
        size = sum(os.stat(path).st_size for path in (source, f"{source}-wal") if os.path.exists(path))
    tarstream.check_space(os.path.dirname(target), size)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(target)) as copy:
        # No journal: while we act as the owner none could be made in our directory. Reading opens the file now.
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        copy.execute("SELECT count(*) FROM sqlite_master").fetchall()
        with acting_as(owner), contextlib.closing(read_only(source)) as live:
            # Python would wait for ever for one that is locked; this waits its time, and then we may read.
            live.execute("BEGIN")
            live.execute("SELECT count(*) FROM sqlite_master").fetchall()
            # In one step: with several a busy writer makes SQLite begin again and again. In WAL mode, which is what
            # Hermes uses, no writer waits for us.
            live.backup(copy, pages=-1)
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    os.fsync(descriptor)
    os.close(descriptor)


def read_only(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{urllib.parse.quote(path)}?mode=ro", uri=True, timeout=SQLITE_TIMEOUT)


def open_regular(path: str, owner: Owner) -> BinaryIO | None:
    """*path* for reading; None when it is gone, or no longer a regular file."""
    with acting_as(owner):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
    file = os.fdopen(descriptor, "rb")
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return file
    file.close()
    return None


def is_database_at(path: str) -> bool:
    try:
        file = open_regular(path, Owner.current())
    except OSError:
        return False
    if file is None:
        return False
    with file:
        return is_database(file)


def is_database(file: BinaryIO) -> bool:
    return os.pread(file.fileno(), len(SQLITE_MAGIC), 0) == SQLITE_MAGIC
