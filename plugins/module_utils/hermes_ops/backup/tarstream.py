# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The format of a backup: a tar stream. Its first member describes it, its last one proves that it is complete.

::

    about.json        format, agent, host, time, versions
    home/…            the files: regular ones, directories, symbolic links
    env.age           .env, encrypted by age; only on request
    summary.json      the number of members before it, one SHA-256 over all of them, and notes; an archive without it
                      is incomplete

A directory precedes its content, all of its content precedes its next sibling, and names are sorted. So a duplicate
member is found without remembering the others: reading and writing take the same little memory for ten files and for
ten million. Nothing here knows Hermes. The reader trusts nothing: an archive may come from another host, a bad disk, a
hostile neighbour, or the agent itself.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import math
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Protocol

from ..system import answer
from ..system.errors import OpsError

FORMAT = 2
ABOUT = "about.json"
SUMMARY = "summary.json"
HOME = "home"
SEALED_ENV = "env.age"

# The keys of about.json besides ``format``: the agent and host, the time (seconds since 1970), the version of the kit,
# the release and its version (None: there was no release), and how .env is included.
ABOUT_KEYS: dict[str, Any] = {
    "agent": str,
    "host": str,
    "created": (int, float),
    "kit": str,
    "release": (str, type(None)),
    "version": (str, type(None)),
    "env": str,
}
# The keys of summary.json besides ``members`` and ``sha256``. Each maps paths: ``problems`` to the reason why a file
# could not be written as it was; ``left_out`` to the reason why a path was left out although its name belongs to a
# backup; ``schemas`` to the schema version of a database.
NOTES: dict[str, Any] = {"problems": str, "left_out": str, "schemas": int}

CHUNK = 1024 * 1024
# Longest path below the home, in bytes. A restore puts it below a longer path, within PATH_MAX of Linux (4096).
PATH_LIMIT = 3072
# Most bytes of all notes together.
NOTES_LIMIT = 256 * 1024
# Most bytes of data that is held in memory as a whole: headers of tar (two paths), and our own members by name.
_HEADER_LIMIT = 16 * 1024
_LIMITS = {ABOUT: 64 * 1024, SEALED_ENV: 1024 * 1024, SUMMARY: 2 * NOTES_LIMIT}
# Longest target of a link, in bytes: PATH_MAX of Linux.
_TARGET_LIMIT = 4096
# Latest time that every file system can store, in seconds since 1970.
_LATEST = 2**31 - 1
# Most bytes after the last member: tar pads the end with zeros.
_PADDING_LIMIT = 64 * 1024

_FIX = "take another one: hermes-ops backups"


class _Members:
    """The members of an archive so far: their order, number and common checksum."""

    def __init__(self) -> None:
        self.count = 0
        self.digest = hashlib.sha256()
        # The directories that may still get entries: path, mode, name of the last entry.
        self.open: list[tuple[str, int, str]] = []

    def add(self, *line: Any) -> None:
        self.count += 1
        self.digest.update(json.dumps(line).encode() + b"\n")

    def place(self, name: str) -> list[tuple[str, int]] | None:
        """Make *name* the next member below :data:`HOME`.

        :returns: path and mode of the directories that are complete now, innermost first; None: *name* is not allowed
            at this position
        """
        if name == HOME:
            return None if self.open else []
        parent, _slash, last = name.rpartition("/")
        done = []
        while self.open and self.open[-1][0] != parent:
            done.append(self.open.pop()[:2])
        if not self.open or last <= self.open[-1][2]:
            return None
        self.open[-1] = (*self.open[-1][:2], last)
        return done

    def enter(self, name: str, mode: int) -> None:
        self.open.append((name, mode, ""))

    def leave(self) -> list[tuple[str, int]]:
        """All directories that are still open, innermost first."""
        return [each[:2] for each in reversed(self.open)]

    def said(self) -> dict[str, Any]:
        return {"members": self.count, "sha256": self.digest.hexdigest()}


class Writer:
    """Writes one archive to *out*. Members must be added in order.

    A context manager: after an error it does not write the end of the archive.

    :param about: the values of :data:`ABOUT_KEYS`
    """

    def __init__(self, out: BinaryIO, about: dict[str, Any]) -> None:
        self.out: BinaryIO | None = out
        self.members = _Members()
        self.tar = tarfile.open(  # noqa: SIM115 - closed with this object
            fileobj=self,
            mode="w|",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        )
        self._json(ABOUT, {"format": FORMAT, **about})

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        if kind is not None:
            self.out = None
        self.tar.close()

    def write(self, data: bytes) -> int:
        """Called by tarfile. Drops the data after an error, because tarfile still writes the end of the archive."""
        return self.out.write(data) if self.out else len(data)

    def directory(self, name: str, mode: int) -> None:
        self._add(self._header(name, tarfile.DIRTYPE, mode=mode))
        self.members.add(name, "directory", mode)

    def link(self, name: str, target: str) -> None:
        header = self._header(name, tarfile.SYMTYPE, mode=0o777)
        header.linkname = target
        self._add(header)
        self.members.add(name, "link", target)

    def file(self, name: str, stream: BinaryIO, size: int, *, mode: int, mtime: float) -> bool:
        """Write *size* bytes of *stream*; if it ends early, the rest is zeros.

        :param mtime: seconds since 1970, as in ``st_mtime``
        :returns: whether *stream* had all of the bytes
        """
        source = _Hashing(stream, size)
        header = self._header(name, tarfile.REGTYPE, mode=mode)
        header.size, header.mtime = size, _moment(mtime)
        self._add(header, source)
        self.members.add(name, "file", mode, size, header.mtime, source.digest.hexdigest())
        return not source.missing

    def data(self, name: str, data: bytes) -> None:
        self.file(name, io.BytesIO(data), len(data), mode=0o600, mtime=0)

    def finish(self, notes: dict[str, dict[str, Any]]) -> int:
        """Write the last member.

        :param notes: :data:`NOTES`
        :returns: the number of members before it
        """
        said = self.members.said()
        self._json(SUMMARY, {**said, **notes})
        return said["members"]

    def _json(self, name: str, value: Any) -> None:
        # Names that are not UTF-8 survive as Python's surrogate escapes.
        self.data(name, json.dumps(value, sort_keys=True).encode())

    @staticmethod
    def _header(name: str, kind: bytes, *, mode: int) -> tarfile.TarInfo:
        header = tarfile.TarInfo(name)
        header.type, header.mode = kind, mode
        return header

    def _add(self, header: tarfile.TarInfo, source: Any = None) -> None:
        self.tar.addfile(header, source)
        # tarfile keeps every header that it ever wrote, which would take memory without bounds.
        self.tar.members = []


class _Hashing:
    """Reads exactly *size* bytes, padded with zeros if *stream* ends early, and computes their SHA-256."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream, self.left, self.missing = stream, size, 0
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        size = self.left if size < 0 else min(size, self.left)
        data = b"" if self.missing else self.stream.read(size)
        if len(data) < size:
            self.missing += size - len(data)
            data += bytes(size - len(data))
        self.left -= size
        self.digest.update(data)
        return data


def _moment(seconds: float) -> int:
    return int(min(max(seconds, 0), _LATEST))


def stays_inside(path: str, target: str) -> bool:
    """Whether the symbolic link *path* (relative to the home) to *target* can only lead into the home.

    ``..`` is allowed only at the start, where it climbs real directories. After a name it could climb from the target
    of another link.
    """
    if target.startswith("/") or not target or "\0" in target:
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    climbs = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return ".." not in parts[climbs:] and climbs <= path.count("/")


def fits(path: str) -> bool:
    """Whether an archive may hold *path* (below the home)."""
    return len(os.fsencode(path)) <= PATH_LIMIT


class _Header(tarfile.TarInfo):
    """A header of the kinds that :class:`Writer` makes. Others are refused before tarfile reads their data.

    tarfile would read a name of a gigabyte, or the map of a sparse file, into memory.
    """

    def _proc_member(self, *arguments: Any) -> tarfile.TarInfo:
        if self.type not in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.XHDTYPE):
            raise tarfile.ReadError(f"{self.name[:100]!r} is no file, directory or symbolic link")
        if self.size < 0 or (self.type == tarfile.XHDTYPE and self.size > _HEADER_LIMIT):
            raise tarfile.ReadError("a header is too long")
        return super()._proc_member(*arguments)

    def _sparse(self, *_arguments: Any) -> None:
        raise tarfile.ReadError("a file is sparse")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _sparse


class Sink(Protocol):
    """Receives a home from :func:`read`. Paths are relative to the home; ``""`` is the home itself."""

    def directory(self, path: str) -> None: ...

    def left(self, path: str, mode: int) -> None:
        """The directory *path* is complete; *mode* is its final mode."""

    def link(self, path: str, target: str) -> None: ...

    def file(self, path: str, mode: int, mtime: int) -> AbstractContextManager[Callable[[bytes], None]]: ...

    def hashed(self, path: str, sha256: str) -> None:
        """The file *path* is complete and has this checksum."""


class Nowhere:
    """A :class:`Sink` for an archive that is only checked."""

    def directory(self, path: str) -> None:
        pass

    def left(self, path: str, mode: int) -> None:
        pass

    def link(self, path: str, target: str) -> None:
        pass

    @contextlib.contextmanager
    def file(self, path: str, mode: int, mtime: int) -> Iterator[Callable[[bytes], None]]:
        yield lambda data: None

    def hashed(self, path: str, sha256: str) -> None:
        pass


def read(source: BinaryIO, where: str, sink: Sink) -> dict[str, Any]:
    """Check an archive from its first byte to its last, and pass the content of ``home/`` to *sink* on the way.

    :param source: the tar stream, not compressed
    :param where: name of the archive, for errors
    :returns: the content of about.json and of summary.json in one, and ``sealed_env`` (bytes, or None)
    :raises OpsError: it is incomplete, is no backup, or holds a path that could leave the directory; discard what
        *sink* has received by then
    """
    reader = _Reader(source, where)
    about = reader.json(reader.next(ABOUT), ABOUT)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise reader.refused("has another format", fix="restore it with the kit that made it")
    if not _says(about, ABOUT_KEYS) or not math.isfinite(about["created"]):
        raise reader.refused(f"has an {ABOUT} with missing or wrong fields")
    sealed = None
    while (member := reader.next()).name != SUMMARY:
        if member.name == SEALED_ENV and sealed is None:
            sealed = reader.whole(member, SEALED_ENV)
        else:
            _take(reader, member, sink)
    if not reader.members.open:
        raise reader.refused("holds no home")
    for path, mode in reader.members.leave():
        sink.left(path[len(HOME) + 1 :], mode)
    said = reader.members.said()
    summary = reader.json(member, SUMMARY)
    reader.finish()
    if not isinstance(summary, dict) or {key: summary.get(key) for key in said} != said:
        raise reader.refused("does not match its checksum")
    for notes, kind in NOTES.items():
        if not answer.fits(summary.get(notes), {str: kind}):
            raise reader.refused(f"has a {SUMMARY} with missing or wrong fields")
    return {
        **{key: about[key] for key in ABOUT_KEYS},
        **{key: summary[key] for key in ("members", *NOTES)},
        "sealed_env": sealed,
    }


def _says(value: dict[str, Any], keys: dict[str, Any]) -> bool:
    return all(isinstance(value.get(key), kind) and value.get(key) is not True for key, kind in keys.items())


def _take(reader: _Reader, member: tarfile.TarInfo, sink: Sink) -> None:
    name = member.name
    top, _slash, path = name.partition("/")
    parts = name.split("/")
    if top != HOME or not fits(path) or "\0" in name or {"", ".", ".."} & set(parts):
        raise reader.refused(f"holds {name[:100]!r}, which is not below {HOME}/")
    complete = reader.members.place(name)
    if complete is None:
        raise reader.refused(f"holds {name[:100]!r} twice, without its directory, or out of order")
    for directory, mode in complete:
        sink.left(directory[len(HOME) + 1 :], mode)
    mode = member.mode & 0o777
    if member.type == tarfile.DIRTYPE:
        reader.members.enter(name, mode)
        reader.members.add(name, "directory", mode)
        sink.directory(path)
    elif member.type == tarfile.SYMTYPE and path:
        target = member.linkname
        if not target or "\0" in target or len(os.fsencode(target)) > _TARGET_LIMIT:
            raise reader.refused(f"holds a link without a valid target: {name[:100]!r}")
        reader.members.add(name, "link", target)
        sink.link(path, target)
    elif member.type == tarfile.REGTYPE and path:
        with sink.file(path, mode, reader.moment(member)) as write:
            digest = reader.copy(member, write)
        sink.hashed(path, digest)
    else:
        raise reader.refused(f"holds {name[:100]!r}, which is not a directory")


class _Reader:
    """Reads members with tarfile, and reports every defect of an archive as an OpsError."""

    def __init__(self, source: BinaryIO, where: str) -> None:
        self.source, self.where = source, where
        self.members = _Members()
        with self._damage():
            self.tar = tarfile.open(  # noqa: SIM115 - closed with this object
                fileobj=source, mode="r|", tarinfo=_Header, encoding="utf-8", errors="surrogateescape"
            )

    def refused(self, what: str, *, fix: str = _FIX) -> OpsError:
        return OpsError(what, where=self.where, fix=fix)

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except OpsError:
            raise
        except (tarfile.TarError, EOFError, OSError, OverflowError, RecursionError, ValueError, zlib.error) as error:
            raise self.refused(f"is damaged, or no backup ({error or type(error).__name__})") from None

    def next(self, wanted: str | None = None) -> tarfile.TarInfo:
        with self._damage():
            member = self.tar.next()
            self.tar.members = []
        if member is None:
            raise self.refused("is incomplete: it was not written to its end")
        if wanted and member.name != wanted:
            raise self.refused(f"is no backup: it does not begin with {wanted}")
        if member.size < 0:
            raise self.refused(f"holds {member.name[:100]!r} with an impossible size")
        return member

    def moment(self, member: tarfile.TarInfo) -> int:
        if not math.isfinite(member.mtime):
            raise self.refused(f"holds {member.name[:100]!r} with an impossible time")
        return _moment(member.mtime)

    def copy(self, member: tarfile.TarInfo, write: Callable[[bytes], object]) -> str:
        """Pass the content of *member* to *write*, and return its checksum."""
        digest = hashlib.sha256()
        with self._damage():
            stream: Any = self.tar.extractfile(member)
        left = member.size
        while left:
            with self._damage():
                data = stream.read(min(CHUNK, left))
                if not data:
                    raise EOFError
            left -= len(data)
            digest.update(data)
            write(data)
        content, mode = digest.hexdigest(), member.mode & 0o777
        self.members.add(member.name, "file", mode, member.size, self.moment(member), content)
        return content

    def whole(self, member: tarfile.TarInfo, name: str) -> bytes:
        if member.type != tarfile.REGTYPE or member.size > _LIMITS[name]:
            raise self.refused(f"holds a {name} that is too large or not a file")
        chunks: list[bytes] = []
        self.copy(member, chunks.append)
        return b"".join(chunks)

    def json(self, member: tarfile.TarInfo, name: str) -> Any:
        data = self.whole(member, name)
        with self._damage():
            return json.loads(data)

    def finish(self) -> None:
        """Check that nothing follows. Reading to the end also makes gzip verify its own checksum."""
        with self._damage():
            if self.tar.next() is not None:
                raise self.refused(f"goes on after {SUMMARY}")
            rest = self.source.read(_PADDING_LIMIT + 1)
        if len(rest) > _PADDING_LIMIT or rest.strip(b"\0"):
            raise self.refused("goes on after its end")


@contextlib.contextmanager
def unpacked(file: BinaryIO) -> Iterator[BinaryIO]:
    """The tar stream in *file*, gzip or plain.

    :param file: buffered
    """
    if re.match(rb"\x1f\x8b", file.peek(2)):  # type: ignore[attr-defined]
        with gzip.GzipFile(fileobj=file) as stream:
            yield stream
    else:
        yield file
