# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies, compares and puts back the files of a home that a release may migrate. Runs in workers, as the agent's user.

These are the SQLite files and config.yaml. Sources: Hermes 0.18.2 and 0.19.0, hermes_state.py (table schema_version,
migrated when the file is opened, never back), hermes_cli/config.py (``_config_version``).

Root passes two directories as descriptors, one for copies and one for replaced files: no path leads the agent there.
The copies hold what the agent wrote, and are never opened as databases. A migration shows in a file's mark, which root
stores when the copy is made.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import sqlite3
import stat
import time
from typing import Any, BinaryIO

from ..agent import config, sessions
from ..backup import databases, meanwhile, selection
from ..system import sqlite, trees
from ..system.errors import OpsError
from ..system.files import failure, read_bytes

# The databases that Hermes itself keeps and migrates (0.18.2 and 0.19.0).
HERMES_DATABASES = frozenset({"state.db", "kanban.db", "response_store.db", "cron/executions.db"})
# Largest config.yaml, in bytes; one of Hermes has a few kilobytes.
LARGEST_CONFIG = 4 * 2**20
# Seconds for reading a schema, and for waiting for a writer while the agent runs.
SCHEMA_SECONDS = 10.0
BUSY_SECONDS = 30.0
_PARTIAL = ".partial"
# Bytes that stay free on the disk of replaced files.
_SPARED = 64 * 2**20
_BLOCK = 1 << 20
# A file that was changed less than this many seconds ago may be changed again within the same mtime.
_SETTLED_SECONDS = 1.0
_CONFIG_VERSION = re.compile(rb"^_config_version:[ \t]*([^\s#]+)", re.M)
_MADE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# Metadata of a database and of its log; it differs after every write.
Look = list[list[int]]


def size(home: str) -> int:
    """Bytes that the databases of *home* take on disk."""
    total = 0
    for name in selection.databases(home):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(os.path.join(home, name))
            total += min(status.st_size, status.st_blocks * 512)
    return total


# Copying.


def copy_ahead(home: str, copies: int, strict: bool, budget: int) -> dict[str, Look]:
    """Copy every database byte for byte while the agent goes on working, so that little is left for :func:`complete`.

    :param copies: descriptor of an empty directory
    :param strict: a database of Hermes that cannot be copied is an error; if False, it is left out. Others always are
    :param budget: bytes that the copies may take
    :returns: database -> the metadata of its files before they were copied
    :raises OpsError: config.yaml, or with *strict* a database of Hermes, cannot be copied
    """
    _read_config(home)
    seen: dict[str, Look] = {}
    copied = _Copies(home, copies, strict, budget)
    for name in selection.databases(home):
        look = _look(home, name)
        with copied.trying(name):
            # Opened as a database, too: an error costs nothing here, but downtime once the agent is stopped.
            with _open_database(home, name, BUSY_SECONDS) as (_database, stream):
                copied.transfer(stream, name)
            seen[name] = look
    return seen


def complete(home: str, copies: int, strict: bool, budget: int, seen: dict[str, Look]) -> dict[str, str]:
    """Bring the copies up to date while the agent is stopped. Only files that changed since take time.

    :param seen: what :func:`copy_ahead` returned
    :returns: path -> mark, of every copy, including config.yaml
    :raises OpsError: see :func:`copy_ahead`
    """
    marks: dict[str, str] = {}
    copied = _Copies(home, copies, strict, budget)
    for name in selection.databases(home):
        with copied.trying(name):
            # Closing any descriptor of a file drops SQLite's locks on it, so the stream is closed last.
            with _open_database(home, name, SCHEMA_SECONDS) as (database, stream):
                mark = _schema(database)
                logged = _is_logged(home, name)
                if not logged and seen.get(name) != _look(home, name):
                    copied.transfer(stream, name)
                elif logged:
                    _transfer_logged(home, name, database, copied)
            marks[name] = mark
    for name in seen.keys() - marks.keys():
        copied.leave_out(name)
    text = _read_config(home)
    if text is not None:
        with copied.opened(config.FILE_NAME) as target:
            target.truncate()
            target.write(text)
        marks[config.FILE_NAME] = _config_version(text)
    os.fsync(copies)
    return marks


class _Copies:
    """The directory of copies, with its budget: ``left``, in bytes."""

    def __init__(self, home: str, directory: int, strict: bool, budget: int) -> None:
        self.home, self.directory, self.strict, self.left = home, directory, strict, budget

    @contextlib.contextmanager
    def trying(self, name: str) -> Any:
        """A damaged database of the agent's own must not block an update, nor a damaged one of Hermes a rollback."""
        try:
            yield
        except (OpsError, OSError, *sqlite.ERRORS) as error:
            where = os.path.join(self.home, name)
            if self.strict and name in HERMES_DATABASES and os.path.lexists(where):
                if isinstance(error, OSError):
                    raise failure("copied", where, error) from None
                if isinstance(error, OpsError):
                    raise
                raise OpsError(f"cannot be copied ({error})", where=where, fix="see: hermes doctor") from None
            self.leave_out(name)

    def leave_out(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self.directory)

    @contextlib.contextmanager
    def opened(self, name: str) -> Any:
        """The copy of *name*, opened for writing, and synced to disk afterwards."""
        parent, file = os.path.split(name)
        directory = _open_below(self.directory, parent, make=True)
        try:
            with open(os.open(file, _MADE, 0o600, dir_fd=directory), "r+b") as target:
                yield target
                target.flush()
                os.fsync(target.fileno())
            os.fsync(directory)
        finally:
            os.close(directory)

    def transfer(self, source: BinaryIO, name: str) -> None:
        size = os.fstat(source.fileno()).st_size
        if size > self.left:
            raise OpsError("is too large to be copied", where=os.path.join(self.home, name), fix="free space")
        self.left -= size
        with self.opened(name) as target:
            _transfer(source, target)


@contextlib.contextmanager
def _open_database(home: str, name: str, wait: float) -> Any:
    """The database *name*, and a stream of its file. While it is open, later writes stay in the log.

    :raises OpsError: it cannot be read
    """
    path = os.path.join(home, name)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open(os.open(path, _READ), "rb"))
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OpsError("is not a regular file", where=path, fix="move it away")
        database = stack.enter_context(sqlite.reading(path, seconds=SCHEMA_SECONDS, wait=wait))
        if database is None:
            raise OpsError("is gone", where=path)
        database.execute("BEGIN")
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield database, stream


def _look(home: str, name: str) -> Look:
    """Metadata that changes when the database is written."""
    found: Look = []
    for suffix in ("", "-wal", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(os.path.join(home, name + suffix))
            # An empty log is no change: a reader creates one.
            if status.st_size or not suffix:
                found.append([status.st_ino, status.st_size, status.st_mtime_ns])
    newest = max((when for _inode, _size, when in found), default=0) / 1e9
    return found if abs(time.time() - newest) > _SETTLED_SECONDS else [[time.monotonic_ns()]]


def _is_logged(home: str, name: str) -> bool:
    """Whether part of the database is not in its file yet, but in a log beside it."""
    for suffix in ("-wal", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            if os.stat(os.path.join(home, name + suffix)).st_size:
                return True
    return False


def _transfer_logged(home: str, name: str, database: sqlite3.Connection, copied: _Copies) -> None:
    """Copy a database that is partly in its log, because its writer was killed or still runs."""
    # SQLite needs a path to write to, and none leads to the copies: so a whole file is made in the home first.
    directory, file = os.path.split(os.path.join(home, name))
    # A random name, so that the agent cannot have taken it.
    whole = os.path.join(directory, f".{file}.{secrets.token_hex(8)}.hermes-ops")
    try:
        with contextlib.closing(sqlite3.connect(whole)) as target:
            target.execute("PRAGMA synchronous = OFF")
            database.backup(target, pages=-1)
        with open(os.open(whole, _READ), "rb") as stream:
            copied.transfer(stream, name)
    finally:
        for suffix in ("", *databases.SQLITE_COMPANIONS):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(whole + suffix)


def _schema(database: sqlite3.Connection) -> str:
    """A digest of everything that a migration changes: versions and table definitions."""
    found = database.execute("PRAGMA user_version").fetchall()
    found += sorted(database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"), key=repr)
    if any(row[1:2] == ("schema_version",) for row in found):
        found += sorted(database.execute("SELECT * FROM schema_version"), key=repr)
    return hashlib.sha256(repr(found).encode("utf-8", "surrogateescape")).hexdigest()


def _read_config(home: str) -> bytes | None:
    path = os.path.join(home, config.FILE_NAME)
    text = read_bytes(path, LARGEST_CONFIG + 1)
    if text is not None and len(text) > LARGEST_CONFIG:
        raise OpsError(f"is larger than {LARGEST_CONFIG // 2**20} MB", where=path, fix="see what fills it")
    return text


def _config_version(text: bytes) -> str:
    match = _CONFIG_VERSION.search(text)
    return match[1][:100].decode("latin-1") if match else ""


def _transfer(source: BinaryIO, target: BinaryIO) -> None:
    """Make *target* the same as *source* by writing only the blocks that differ. Holes stay holes.

    Most blocks of a large database do not differ, and reading is faster than writing.
    """
    length = 0
    while block := source.read(_BLOCK):
        target.seek(length)
        present = target.read(len(block))
        if block != present.ljust(len(block), b"\0"):
            target.seek(length)
            target.write(block)
        length += len(block)
    target.truncate(length)


# Putting back.


def put_back(
    home: str,
    top: int,
    copies: int,
    aside: int,
    marks: dict[str, str],
    compare: bool,
    since: float,
    question: str,
) -> dict[str, Any]:
    """Put back each frozen file that has been migrated since; the file it replaces is set aside.

    Everything is a rename, which needs no space if home and copies share a file system. Can be killed at any point and
    repeated, until it returns.

    :param top: descriptor of *home*, opened by root. A worker has mounts of its own: from a directory that it opened
        itself, nothing could be renamed to one that root opened
    :param aside: descriptor of a directory, empty until something is put back
    :param marks: what :func:`complete` returned
    :param compare: False: put every file back, even if it was not migrated, and open none
    :param since: when the copies were made, for :func:`meanwhile.save`; ``question`` likewise
    :returns: ``back``: paths below the home; ``failed``: path -> why it could not be put back; ``came``: number of the
        messages that came in meanwhile
    """
    back: list[str] = []
    failed: dict[str, str] = {}
    for name, mark in sorted(marks.items()):
        try:
            begun = _is_aside(name, aside)
            if begun or not compare or _mark(home, name) != mark:
                if name == sessions.FILE_NAME and compare and not begun:
                    meanwhile.save(home, since, question, aside)
                _exchange(top, name, copies, aside)
                back.append(name)
        except OpsError as error:
            failed[name] = str(error)
        except OSError as error:
            failed[name] = str(failure("put back", os.path.join(home, name), error))
    return {"back": back, "failed": failed, "came": meanwhile.saved(aside)}


def _mark(home: str, name: str) -> str | None:
    """The present mark of *name*; None when it cannot be read, which counts as migrated."""
    try:
        if name == config.FILE_NAME:
            text = _read_config(home)
            return None if text is None else _config_version(text)
        with _open_database(home, name, SCHEMA_SECONDS) as (database, _stream):
            return _schema(database)
    except (OpsError, OSError, *sqlite.ERRORS):
        return None


def _is_aside(name: str, aside: int) -> bool:
    return any(_exists(name + suffix, aside) for suffix in ("", *databases.SQLITE_COMPANIONS))


def _exchange(top: int, name: str, copies: int, aside: int) -> None:
    """Put one copy back. The step that needs space comes first: if it fails, the home is unchanged."""
    if not _exists(name, copies):
        return  # put back by an earlier run, which was killed
    parent, file = os.path.split(name)
    partial = f".{file}{_PARTIAL}"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(PermissionError):
            os.fchmod(top, stat.S_IMODE(os.fstat(top).st_mode) | 0o700)
        directory = _closing(stack, _open_below(top, parent, make=True))
        saved = _closing(stack, _open_below(copies, parent))
        gone = _closing(stack, _open_below(aside, parent, make=True))
        # An error leaves the partial file, and so does a rename when both names are links to one file already.
        stack.callback(_remove, partial, directory)
        _remove(partial, directory)
        _bring(file, saved, partial, directory)
        if not _exists(file, gone):
            # The database last: while it is still in the home, it may need its companions.
            for suffix in (*databases.SQLITE_COMPANIONS, ""):
                with contextlib.suppress(FileNotFoundError):
                    _take(file + suffix, directory, gone)
            os.fsync(gone)
        os.rename(partial, file, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
        os.unlink(file, dir_fd=saved)


def _closing(stack: contextlib.ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _open_below(top: int, path: str, *, make: bool = False) -> int:
    """A descriptor of the directory *path* below *top*, through no link.

    :param make: create missing directories, and give those without permissions the mode 0700
    """
    descriptor = os.dup(top)
    try:
        for name in filter(None, path.split("/")):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=descriptor)
                mode = os.lstat(name, dir_fd=descriptor).st_mode
                if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
                    os.chmod(name, stat.S_IMODE(mode) | 0o700, dir_fd=descriptor)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(name, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OpsError("is not a directory, or is a symbolic link", where=path, fix="move it away") from None
        raise
    return descriptor


def _exists(name: str, directory: int) -> bool:
    try:
        os.lstat(name, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _remove(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        os.chmod(name, 0o700, dir_fd=directory)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            trees.empty(below)
        finally:
            os.close(below)
        os.rmdir(name, dir_fd=directory)


def _take(name: str, directory: int, gone: int) -> None:
    """Move *name* aside, even to another file system."""
    try:
        os.rename(name, name, src_dir_fd=directory, dst_dir_fd=gone)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    status, free = os.lstat(name, dir_fd=directory), os.fstatvfs(gone)
    if not stat.S_ISREG(status.st_mode) or status.st_size > free.f_bavail * free.f_frsize - _SPARED:
        # Not a regular file, or one that would fill our disk or take hours: it stays in the home under another name.
        os.rename(name, f"{name}.set-aside", src_dir_fd=directory, dst_dir_fd=directory)
        return
    partial = name + _PARTIAL
    _copy_whole(name, directory, partial, gone)
    os.rename(partial, name, src_dir_fd=gone, dst_dir_fd=gone)
    os.fsync(gone)
    os.unlink(name, dir_fd=directory)


def _bring(file: str, saved: int, partial: str, directory: int) -> None:
    """Make *partial* the same as the copy: by a hard link, which needs no space, or by copying between file systems."""
    try:
        os.link(file, partial, src_dir_fd=saved, dst_dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
            raise
        _copy_whole(file, saved, partial, directory)


def _copy_whole(name: str, directory: int, partial: str, target: int) -> None:
    with (
        open(os.open(name, _READ, dir_fd=directory), "rb") as source,
        open(os.open(partial, _MADE, 0o600, dir_fd=target), "r+b") as copy,
    ):
        try:
            _transfer(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        except OSError:
            _remove(partial, target)
            raise
