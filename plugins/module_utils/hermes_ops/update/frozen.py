# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release may migrate in a home, kept as it was before, and the way back.

That is the SQLite files and config.yaml. Sources: Hermes 0.18.2 and 0.19.0, hermes_state.py (table schema_version,
migrated when the file is opened, never back), hermes_cli/config.py (``_config_version``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from ..agent import config
from ..agent.sessions import DATABASE_ERRORS
from ..backup import databases, selection
from ..system.errors import OpsError
from ..system.files import (
    Owner,
    acting_as,
    ensure_directory,
    failure,
    open_directory,
    read_bytes,
    sync_directory,
    write_atomic,
)

# What Hermes itself keeps, and migrates (0.18.2 and 0.19.0).
HERMES_DATABASES = frozenset({"state.db", "kanban.db", "response_store.db", "cron/executions.db"})
_PARTIAL = ".partial"
_BLOCK = 1 << 20
# A file that was changed that recently may have been changed once more without a trace in its time.
_SETTLED_SECONDS = 1.0
_CONFIG_VERSION = re.compile(rb"^_config_version:[ \t]*([^\s#]+)", re.M)


class Frozen:
    """The copies of one home.

    ::

        <directory>/<path below the home>    the copy: a file without companions
        <aside>/<path below the home>        what stood in the home when the copy was put back

    :param home: where the agent's files are; its owner's
    :param directory: root's; the copies
    :param aside: root's; empty until something is put back
    :param strict: a database of Hermes that cannot be copied is an error; else it is left out, like others always
    """

    def __init__(self, home: str, owner: Owner, directory: str, aside: str, *, strict: bool = True) -> None:
        self.home = home
        self.owner = owner
        self.directory = directory
        self.aside = aside
        self.strict = strict
        # Path -> what its files looked like before they were copied.
        self._seen: dict[str, list[tuple[int, ...]]] = {}

    # There.

    def copy_ahead(self) -> None:
        """Copy everything while the agent goes on working, so that little is left for :meth:`complete`.

        Makes the directories that :meth:`put_back` will need: it may have to work on a disk that is full.

        :raises OpsError: when a database cannot be read, or the disk is full
        """
        with _reported(self.directory):
            for path in (self.directory, self.aside):
                ensure_directory(path, mode=0o700)
            for name in self._databases():
                for path in (self.directory, self.aside):
                    ensure_directory(os.path.dirname(os.path.join(path, name)), mode=0o700)
                self._seen[name] = self._look(name)
                self._try(self._copy, name)

    def complete(self) -> None:
        """Bring the copies up to date, now that the agent is stopped; only what changed since costs time.

        :raises OpsError: see :meth:`copy_ahead`
        """
        with _reported(self.directory):
            present = self._databases()
            for name in present:
                if name not in self._seen:
                    for path in (self.directory, self.aside):
                        ensure_directory(os.path.dirname(os.path.join(path, name)), mode=0o700)
                    self._try(self._copy, name)
                elif self._seen[name] != self._look(name):
                    self._try(self._refresh, name)
            for name in self._seen.keys() - set(present):
                self._leave_out(name)
            with acting_as(self.owner):
                text = read_bytes(os.path.join(self.home, config.FILE_NAME))
            if text is not None:
                write_atomic(os.path.join(self.directory, config.FILE_NAME), text, mode=0o600)

    def _databases(self) -> list[str]:
        with acting_as(self.owner):
            return selection.databases(self.home)

    def _look(self, name: str) -> list[tuple[int, ...]]:
        """By what one sees whether a database was written to."""
        found = []
        with acting_as(self.owner):
            for suffix in ("", "-wal", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(os.path.join(self.home, name + suffix))
                    # An empty one is made by whoever reads.
                    if status.st_size or not suffix:
                        found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        newest = max(when for _inode, _size, when in found) / 1e9 if found else 0.0
        return found if abs(time.time() - newest) > _SETTLED_SECONDS else [(time.monotonic_ns(),)]

    def _try(self, copy: Callable[[str], None], name: str) -> None:
        """A damaged or locked database among an agent's own files must keep nobody from an update, nor one of Hermes
        from going back."""
        try:
            copy(name)
        except (OpsError, OSError, *DATABASE_ERRORS):
            own = name in HERMES_DATABASES and os.path.lexists(os.path.join(self.home, name))
            if own and self.strict:
                raise
            self._leave_out(name)

    def _leave_out(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.directory, name))

    def _copy(self, name: str) -> None:
        target = os.path.join(self.directory, name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        databases.copy_database(os.path.join(self.home, name), target, self.owner)
        sync_directory(os.path.dirname(target))

    def _refresh(self, name: str) -> None:
        """Copy again what differs; most of a large database does not, and reading is faster than writing."""
        source, target = os.path.join(self.home, name), os.path.join(self.directory, name)
        with contextlib.ExitStack() as stack:
            with acting_as(self.owner):
                # SQLite's locks on a file go with any descriptor of it: that one is closed last.
                stream = stack.enter_context(open(source, "rb"))
                connection = stack.enter_context(contextlib.closing(_connect(source)))
                # As long as we read, nobody moves pages from the log to the file.
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                whole = not any(_size(source + suffix) for suffix in ("-wal", "-journal"))
            if whole:
                _transfer(stream, target)
        if not whole:
            self._copy(name)

    # And back.

    def put_back(self) -> list[str]:
        """Give the home back what was frozen, where it has been migrated since; what stood there goes aside.

        Everything is a rename: needs no space where home and copies share a file system, and can be killed
        anywhere and called again, until it returns.

        :returns: paths below the home
        :raises OpsError: when the home cannot be changed
        """
        back = []
        with _reported(self.home):
            for name in sorted(self._copies()):
                if self._is_aside(name) or self._migrated(name):
                    self._exchange(name)
                    back.append(name)
        return back

    def _copies(self) -> set[str]:
        """What was frozen, also where a run that was killed has put it back already."""
        found = set()
        for top in (self.directory, self.aside):
            for directory, _names, files in os.walk(top):
                found |= {os.path.relpath(os.path.join(directory, file), top) for file in files}
        return {name for name in found if not name.endswith((*databases.SQLITE_COMPANIONS, _PARTIAL))}

    def _is_aside(self, name: str) -> bool:
        return any(
            os.path.lexists(os.path.join(self.aside, name + suffix)) for suffix in ("", *databases.SQLITE_COMPANIONS)
        )

    def _migrated(self, name: str) -> bool:
        copy, path = os.path.join(self.directory, name), os.path.join(self.home, name)
        if name == config.FILE_NAME:
            with acting_as(self.owner):
                text = read_bytes(path)
            return text is None or _config_version(text) != _config_version(read_bytes(copy) or b"")
        with acting_as(self.owner):
            present = schema(path)
        return present is None or present != schema(copy, immutable=True)

    def _exchange(self, name: str) -> None:
        """What needs space comes first: when that fails, the home still has what it had."""
        file = os.path.basename(name)
        copy, gone = os.path.join(self.directory, name), os.path.join(self.aside, name)
        if not os.path.exists(copy):
            return  # by a run that was killed afterwards
        partial = f".{file}{_PARTIAL}"
        ensure_directory(os.path.dirname(gone), mode=0o700)
        directory = open_directory(os.path.dirname(os.path.join(self.home, name)))
        try:
            _remove(partial, directory)
            _bring(copy, partial, directory)
            os.chown(partial, self.owner.uid, self.owner.gid, dir_fd=directory, follow_symlinks=False)
            if not os.path.lexists(gone):
                # The database last: as long as it is here, it may need the others.
                for suffix in (*databases.SQLITE_COMPANIONS, ""):
                    with contextlib.suppress(FileNotFoundError):
                        _take(file + suffix, directory, gone + suffix)
                sync_directory(os.path.dirname(gone))
            os.rename(partial, file, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        finally:
            # Still there after an error, or when it was the same file already.
            _remove(partial, directory)
            os.close(directory)
        os.unlink(copy)


def schema(path: str, *, immutable: bool = False) -> list[Any] | None:
    """All by which a migration shows: versions and table definitions; None when there is no readable database.

    :param immutable: nobody writes to it, and nothing may be made beside it
    """
    if not os.path.isfile(path):
        return None
    try:
        connection = _connect(path, immutable=immutable)
        try:
            found = connection.execute("PRAGMA user_version").fetchall()
            found += sorted(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"), key=repr)
            if any(row[1:2] == ("schema_version",) for row in found):
                found += sorted(connection.execute("SELECT * FROM schema_version"), key=repr)
            return found
        finally:
            connection.close()
    except DATABASE_ERRORS:
        return None


def _connect(path: str, *, immutable: bool = False) -> sqlite3.Connection:
    options = "mode=ro&immutable=1" if immutable else "mode=ro"
    return sqlite3.connect(f"file:{urllib.parse.quote(path)}?{options}", uri=True, isolation_level=None)


def _config_version(text: bytes) -> bytes | None:
    match = _CONFIG_VERSION.search(text)
    return match[1] if match else None


def _transfer(source: Any, target: str) -> None:
    """Make *target* the same as *source* by writing the blocks that differ."""
    with open(target, "r+b") as copy:
        size = 0
        while True:
            block = source.read(_BLOCK)
            copy.seek(size)
            if block != copy.read(len(block)) or not block:
                copy.seek(size)
                copy.write(block)
            size += len(block)
            if not block:
                break
        copy.truncate(size)
        copy.flush()
        os.fsync(copy.fileno())


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _remove(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _take(name: str, directory: int, target: str) -> None:
    """Rename, also to another file system."""
    try:
        os.rename(name, target, src_dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        partial = target + _PARTIAL
        with open(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=directory), "rb") as source:
            _write_whole(source, os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        os.rename(partial, target)
        sync_directory(os.path.dirname(target))
        os.unlink(name, dir_fd=directory)


def _bring(copy: str, name: str, directory: int) -> None:
    """Let *name* be the same as *copy*: by a link, which needs no space, or on another file system by copying."""
    try:
        os.link(copy, name, dst_dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
            raise
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(copy, "rb") as source:
            _write_whole(source, os.open(name, flags, 0o600, dir_fd=directory))


def _write_whole(source: Any, descriptor: int) -> None:
    with open(descriptor, "wb") as target:
        shutil.copyfileobj(source, target, _BLOCK)
        target.flush()
        os.fsync(target.fileno())


@contextlib.contextmanager
def _reported(where: str) -> Iterator[None]:
    """What the operating system or SQLite says, as our own error."""
    try:
        yield
    except OSError as error:
        raise failure("copied", error.filename if isinstance(error.filename, str) else where, error) from None
    except DATABASE_ERRORS as error:
        raise OpsError(f"a database cannot be read ({error})", where=where, fix="see: hermes doctor") from None
