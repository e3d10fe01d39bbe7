# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a home into an archive. Runs in a worker, as the agent's user.

SQLite files are copied through SQLite's own backup interface. Hermes replaces its JSON and text files by a rename
(0.18.2 and 0.19.0, utils.py: atomic_json_write and similar functions), so a plain read of them is consistent.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import glob
import gzip
import io
import os
import stat
from typing import Any, BinaryIO, cast

from ..system import trees
from ..system.errors import OpsError
from ..system.files import failure
from . import databases, tarstream
from .databases import NotCopied, is_database, open_regular
from .selection import ENV, OURS, link_target, open_home, walk
from .space import check_space, no_room

# Largest .env that is encrypted, in bytes; one with a hundred secrets has a few thousand.
ENV_LIMIT = 2**20
# Most bytes of holes in all files together: they take no space in the home, but time and space in an archive.
HOLES_LIMIT = 1024 * 2**20
# The same for further names (hard links) of files that are in the archive already: each name gets a copy there, and no
# quota of the agent's user counts an archive, which is root's.
NAMES_LIMIT = 1024 * 2**20
# Files with several names that are remembered; the data of any further one counts as that of another name.
_REMEMBERED = 2_000_000
# Most seeks for the holes of one file.
_LOOKS = 10_000


def collect(
    descriptor: int, where: str, home: str, about: dict[str, Any], with_env: bool, sealed: str | None, packed: bool
) -> int:
    """Write an archive of *home*.

    :param descriptor: the archive is written to it
    :param where: path of the archive, for errors; "": it is a pipe
    :param about: see :data:`tarstream.ABOUT_KEYS`
    :param with_env: include ``.env`` in plain text
    :param sealed: ``.env``, encrypted; None: leave it out
    :param packed: compress with gzip
    :returns: the number of members
    """
    try:
        _sweep(home)
        with contextlib.closing(_Out(descriptor, where)) as file:
            if not packed:
                return Collection(home, with_env, sealed).write(cast(BinaryIO, file), about)
            # The fastest level: a nightly job shares the host with agents.
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1) as stream:
                return Collection(home, with_env, sealed).write(cast(BinaryIO, stream), about)
    except BrokenPipeError:
        raise OpsError("was not read to its end", where=where or "the stream") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            # A worker may not write files larger than the space that was free at its start.
            raise no_room(where) from None
        raise failure("written", where or "the stream", error) from None


def env_of(home: str) -> str | None:
    """``.env`` of *home* in base64, to be encrypted by the caller; None when there is none.

    :raises OpsError: it is larger than :data:`ENV_LIMIT`
    """
    file = open_regular(os.path.join(home, ENV))
    if file is None:
        return None
    with file:
        data = file.read(ENV_LIMIT + 1)
    if len(data) > ENV_LIMIT:
        raise OpsError(f"is larger than {ENV_LIMIT} bytes", where=os.path.join(home, ENV), fix="see what it holds")
    return base64.b64encode(data).decode()


def _sweep(home: str) -> None:
    """Remove copies of databases that a killed worker left."""
    for path in glob.glob(os.path.join(glob.escape(home), f"{OURS}copy-*")):
        with contextlib.suppress(OpsError, OSError):
            trees.remove(path)


class _Out(io.RawIOBase):
    """A descriptor as a stream. Writing ends with an OpsError before the disk is full."""

    def __init__(self, descriptor: int, where: str) -> None:
        self.descriptor, self.where = descriptor, where
        self.unchecked = tarstream.CHUNK

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.where and self.unchecked >= tarstream.CHUNK:
            check_space(self.descriptor, self.where, len(data))
            self.unchecked = 0
        self.unchecked += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        return len(data)


class _Notes:
    """The notes of an archive (:data:`tarstream.NOTES`); bounded, because a reader holds them in memory."""

    def __init__(self) -> None:
        self.notes: dict[str, dict[str, Any]] = {kind: {} for kind in tarstream.NOTES}
        self.size = 0
        self.more = 0

    def add(self, kind: str, path: str, what: str | int) -> None:
        # In JSON a byte that is not UTF-8 takes six characters.
        size = 6 * len(path) + 6 * len(str(what)) + 8
        if self.size + size > tarstream.NOTES_LIMIT:
            self.more += 1
            return
        self.size += size
        self.notes[kind][path] = what

    def all(self) -> dict[str, dict[str, Any]]:
        if self.more:
            self.notes["problems"]["."] = f"has {self.more} more of these notes, which do not fit into an archive"
        return self.notes


class Collection:
    """Writes one home into one archive; the parameters are those of :func:`collect`."""

    def __init__(self, home: str, with_env: bool, sealed: str | None) -> None:
        self.home, self.with_env, self.sealed = home, with_env, sealed
        self.notes = _Notes()
        self.holes = 0
        # The numbers of the files with several names so far, and the bytes of all of their further names.
        self.named: set[int] = set()
        self.names = 0

    def write(self, out: BinaryIO, about: dict[str, Any]) -> int:
        """:returns: the number of members"""
        home = open_home(self.home)
        mode = _mode(os.fstat(home))
        os.close(home)
        with tarstream.Writer(out, about) as writer:
            writer.directory(tarstream.HOME, mode)
            for path, status in walk(self.home, self._problem, self._left_out):
                if path.split("/", 1)[0].startswith(ENV) and not self.with_env:
                    continue
                if not tarstream.fits(path):
                    # Paths below it are longer still; each gets a note of its own.
                    self._problem(path, "is not in the backup: its path is too long")
                    continue
                self._add(writer, path, status)
            if self.sealed is not None:
                writer.data(tarstream.SEALED_ENV, self.sealed.encode())
            return writer.finish(self.notes.all())

    def _problem(self, path: str, why: str) -> None:
        self.notes.add("problems", path, why)

    def _left_out(self, path: str, why: str) -> None:
        self.notes.add("left_out", path, why)

    def _add(self, writer: tarstream.Writer, path: str, status: os.stat_result) -> None:
        name = f"{tarstream.HOME}/{path}"
        if stat.S_ISDIR(status.st_mode):
            writer.directory(name, _mode(status))
        elif stat.S_ISLNK(status.st_mode):
            target = link_target(self.home, path)
            if target is not None:
                writer.link(name, target)
            if target is not None and not tarstream.stays_inside(path, target):
                self._left_out(path, f"leads out of the home, to {target}: only the link itself is in the backup")
        else:
            try:
                self._add_file(writer, name, path)
            except (PermissionError, BlockingIOError) as error:
                # Its mode, or a lease that a process holds on it.
                self._problem(path, f"cannot be read ({error.strerror})")

    def _add_file(self, writer: tarstream.Writer, name: str, path: str) -> None:
        full = os.path.join(self.home, path)
        file = open_regular(full)
        if file is None:
            return  # the running agent removed it meanwhile
        with file:
            status = os.fstat(file.fileno())
            holes = _holes(file.fileno(), status)
            if self.holes + holes > HOLES_LIMIT:
                self._problem(
                    path, f"is not in the backup: {holes // 2**20} of its {status.st_size // 2**20} MiB are holes"
                )
                return
            self.holes += holes
            if not self._may_have_name(path, status):
                return
            if not is_database(file):
                self._add_plain(writer, name, path, file, status)
                return
        # The file must be closed by now: a later close would drop the locks that SQLite sets on it (POSIX).
        self._add_database(writer, name, path, status)

    def _may_have_name(self, path: str, status: os.stat_result) -> bool:
        """Whether the file at *path*, perhaps a further name of one in the archive, still fits into it."""
        if status.st_nlink < 2 or not status.st_size:
            return True
        if status.st_ino not in self.named and len(self.named) < _REMEMBERED:
            self.named.add(status.st_ino)
            return True
        if self.names + status.st_size > NAMES_LIMIT:
            self._problem(path, "is not in the backup: further names (hard links) of its files would make it too large")
            return False
        self.names += status.st_size
        return True

    def _add_database(self, writer: tarstream.Writer, name: str, path: str, status: os.stat_result) -> None:
        full = os.path.join(self.home, path)
        try:
            with databases.scratch(self.home) as directory:
                copy = os.path.join(directory, "database")
                databases.copy_live(full, copy)
                version = databases.schema_version(copy)
                if version is not None:
                    self.notes.add("schemas", path, version)
                with open(copy, "rb") as file:
                    self._add_plain(writer, name, path, file, status)
        except FileNotFoundError:
            return  # the running agent removed it meanwhile
        except NotCopied as error:
            if error.locked:
                self._problem(path, f"is not in the backup: SQLite cannot copy it ({error})")
                return
            file = open_regular(full)
            if file is None:
                return
            with file:
                self._add_plain(writer, name, path, file, os.fstat(file.fileno()))
            self._problem(path, f"is damaged ({error}); the backup holds it as it is")

    def _add_plain(
        self, writer: tarstream.Writer, name: str, path: str, file: BinaryIO, status: os.stat_result
    ) -> None:
        """:param status: of the file in the home, which *file* is or is a copy of"""
        before = os.fstat(file.fileno())
        data: BinaryIO = file
        size = before.st_size
        large = size > tarstream.CHUNK
        if not large:
            # Read in one piece: if the file shrinks meanwhile, its archived size shrinks, too, and nothing is padded.
            content = file.read(tarstream.CHUNK)
            data, size = io.BytesIO(content), len(content)
        whole = writer.file(name, data, size, mode=_mode(status), mtime=status.st_mtime)
        after = os.fstat(file.fileno())
        # A file that grew is archived as it was at the start, which is no problem.
        if not whole or (large and after.st_mtime_ns != before.st_mtime_ns and after.st_size <= before.st_size):
            self._problem(path, "changed while it was read")


def _mode(status: os.stat_result) -> int:
    """Permission bits, without set-user-ID, set-group-ID and sticky."""
    return stat.S_IMODE(status.st_mode) & 0o777


def _holes(descriptor: int, status: os.stat_result) -> int:
    """Bytes of a file that are holes; leaves the position at its start."""
    if status.st_size <= status.st_blocks * 512:
        return 0
    data, at = 0, 0
    for _look in range(_LOOKS):
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            break
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        data += at - start
    os.lseek(descriptor, 0, os.SEEK_SET)
    return status.st_size - data
