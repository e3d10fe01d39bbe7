# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies the SQLite files of a home by SQLite's own backup interface, while an agent writes to them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..system import sqlite, trees
from ..system.errors import OpsError
from ..system.files import Account, failure
from ..system.worker import Limits, work
from . import space

SQLITE_MAGIC = b"SQLite format 3\0"
# Suffixes of the files that SQLite keeps beside a live database; a copy never has them.
SQLITE_COMPANIONS = ("-wal", "-shm", "-journal")
# Seconds to wait for a writer that holds a database.
SQLITE_TIMEOUT = 30.0
# Seconds that copying or checking a large database may take.
_COPY_SECONDS = 3600.0
# Seconds that reading a schema's version may take.
_SCHEMA_SECONDS = 2.0
# What open(2) says of a file that was removed meanwhile, or replaced by a link or a socket; or a directory above it.
_REPLACED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
# Prefix of a directory for a copy, see selection.OURS.
_SCRATCH = ".hermes-ops-copy-"


class NotCopied(Exception):
    """SQLite cannot copy a database.

    :param locked: another process holds it, so a plain read of the file would be inconsistent, too
    """

    def __init__(self, why: str, *, locked: bool) -> None:
        super().__init__(why)
        self.locked = locked


def copy_database(source: str, target: str, account: Account) -> None:
    """Copy the live database *source* to *target* by SQLite's own backup interface, as *account*.

    :param target: created (0600) by this process, with its own rights
    :raises OpsError: *source* is damaged or locked for too long, or the copy would fill the disk
    """
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise failure("written", target, error) from None
    try:
        limits = Limits(seconds=_COPY_SECONDS, file=space.free(descriptor))
        work(account, "backup.databases:copy_into", source, descriptor, limits=limits, descriptors=[descriptor])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_into(source: str, descriptor: int) -> None:
    """The worker's part of :func:`copy_database`."""
    try:
        with scratch(os.path.dirname(source)) as directory:
            copy = os.path.join(directory, "database")
            copy_live(source, copy)
            with open(copy, "rb") as stream, open(descriptor, "wb", closefd=False) as out:
                shutil.copyfileobj(stream, out, 1 << 20)
    except NotCopied as error:
        fix = "see whether it is sound: sqlite3 FILE 'PRAGMA integrity_check'"
        raise OpsError(f"cannot be copied by SQLite ({error})", where=source, fix=fix) from None
    except OSError as error:
        raise failure("copied", source, error) from None


@contextlib.contextmanager
def scratch(parent: str) -> Iterator[str]:
    """A temporary directory for copies, in *parent*, on the disk of the originals: /tmp may be small, or in memory."""
    path = tempfile.mkdtemp(prefix=_SCRATCH, dir=parent)
    try:
        yield path
    finally:
        with contextlib.suppress(OpsError, OSError):
            trees.remove(path)


def copy_live(source: str, target: str) -> None:
    """Copy a database that another process may be writing to. Runs in workers.

    :param target: must not exist
    :raises NotCopied: the database is damaged, or locked for too long
    :raises OpsError: the copy would fill the disk
    """
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        space.check_space(descriptor, target, sum(_size(source + end) for end in ("", "-wal")))
    finally:
        os.close(descriptor)
    try:
        with contextlib.closing(sqlite3.connect(target)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            copy.execute("SELECT count(*) FROM sqlite_master").fetchall()
            with sqlite.reading(source, seconds=_COPY_SECONDS, wait=SQLITE_TIMEOUT) as live:
                if live is None:
                    raise FileNotFoundError(source)
                try:
                    # Takes the read lock, with a timeout. live.backup() alone would wait for ever on a locked database.
                    live.execute("BEGIN")
                    live.execute("SELECT count(*) FROM sqlite_master").fetchall()
                    # In one step: with several, a busy writer makes SQLite start over again and again. In WAL mode,
                    # which Hermes uses, writers do not wait for this.
                    live.backup(copy, pages=-1)
                except sqlite.ERRORS as error:
                    locked = isinstance(error, sqlite3.OperationalError)
                    raise NotCopied(str(error), locked=locked) from None
    except OpsError as error:
        raise NotCopied(error.what, locked=False) from None
    except sqlite.ERRORS as error:
        raise NotCopied(str(error), locked=False) from None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def schema_version(copy: str) -> int | None:
    """The schema version of a database: from the table that Hermes writes (state.db), else SQLite's user_version.

    :param copy: path of a database that nobody writes to
    :returns: None when it cannot be read
    """
    with contextlib.suppress(OpsError), sqlite.reading(copy, seconds=_SCHEMA_SECONDS, immutable=True) as database:
        if database is None:
            return None
        named = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone()
        query = "SELECT max(version) FROM schema_version" if named else "PRAGMA user_version"
        (version,) = database.execute(query).fetchone()
        return version if isinstance(version, int) else None
    return None


def check(home: str, names: list[str]) -> dict[str, str]:
    """The defects that SQLite finds in databases, by name; sound ones are left out. Nobody may write to them."""
    wrong = {}
    for name in names:
        try:
            with sqlite.reading(os.path.join(home, name), seconds=_COPY_SECONDS) as database:
                row: Any = database.execute("PRAGMA quick_check(1)").fetchone() if database else ("ok",)
                said = str(row[0])
        except OpsError as error:
            said = error.what
        if said != "ok":
            wrong[name] = said[:200]
    return wrong


def open_regular(path: str) -> BinaryIO | None:
    """*path*, opened for reading; None when it is gone, or no longer a regular file.

    :raises OSError: it cannot be read; among others BlockingIOError, when a process holds a lease on it (fcntl(2))
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _REPLACED:
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def is_database_at(path: str) -> bool:
    try:
        file = open_regular(path)
    except OSError:
        return False
    if file is None:
        return False
    with file:
        return is_database(file)


def is_database(file: BinaryIO) -> bool:
    return os.pread(file.fileno(), len(SQLITE_MAGIC), 0) == SQLITE_MAGIC
