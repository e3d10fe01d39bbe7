# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The format of a backup: a tar stream that says what it is first and what must have been in it last.

::

    about.json        format, profile, host, time, versions
    home/…            the files: regular ones, directories, links that stay inside
    env.age           .env as age encrypted it; only where that was asked for
    checksums.json    SHA-256, size and mode of all of these; an archive without it is incomplete

Written and read in one pass with bounded memory, so that it can be a file, a pipe to restic or one from it. Nothing
here knows Hermes. The reader trusts nothing: an archive may come from another host, a bad disk or a bad neighbour.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..system.errors import OpsError
from ..system.files import Owner, acting_as, failure, open_directory

FORMAT = 1
ABOUT = "about.json"
CHECKSUMS = "checksums.json"
HOME = "home"
SEALED_ENV = "env.age"

# What about.json says, besides ``format``: whose home, on which host, when (seconds since 1970), by which kit; the
# release and its version (texts, or None), the schema version of each database, how .env is in it, and where it was.
ABOUT_KEYS: dict[str, Any] = {
    "profile": str,
    "host": str,
    "created": (int, float),
    "kit": str,
    "release": (str, type(None)),
    "version": (str, type(None)),
    "schemas": dict,
    "env": str,
}
# What checksums.json says besides ``members``, by path: what could not be written as it was, and why; and links that
# lead out of the home, which are not in it, with where they lead.
NOTES = ("problems", "outside")

CHUNK = 1024 * 1024
# Bytes that are left free where we write: an agent whose volume is full cannot even say so.
RESERVE = 64 * 1024 * 1024
# Bytes of what has to be held in memory as a whole: headers of tar (two paths), and our own members by name.
_HEADER_LIMIT = 16 * 1024
_LIMITS = {ABOUT: 1024 * 1024, SEALED_ENV: 4 * 1024 * 1024, CHECKSUMS: 256 * 1024 * 1024}
# Linux, PATH_MAX.
_PATH_LIMIT = 4096
# Seconds since 1970 that every file system can write down.
_LATEST = 2**31 - 1
# What may follow the last member: tar fills up with zeros.
_PADDING_LIMIT = 64 * 1024

_FIX = "take another one: hermes-ops backups"


def check_space(directory: str, size: int) -> None:
    """:raises OpsError: when *size* more bytes would leave less than :data:`RESERVE` free in *directory*"""
    status = os.statvfs(directory)
    if status.f_bavail * status.f_frsize < size + RESERVE:
        raise OpsError(
            f"has no room for {size // CHUNK + 1} MiB more with {RESERVE // CHUNK} MiB left free",
            where=directory,
            fix="free space",
        )


class _Careful(io.RawIOBase):
    """A file that is written until the disk is nearly full."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.stream = os.fdopen(descriptor, "wb", buffering=0)
        self.unchecked = CHUNK

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.unchecked >= CHUNK:
            check_space(os.path.dirname(self.path), len(data))
            self.unchecked = 0
        self.unchecked += len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[self.stream.write(view) :]
        except OSError as error:
            raise failure("written", self.path, error) from None
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


@contextlib.contextmanager
def compressed(path: str) -> Iterator[BinaryIO]:
    """Write *path* (0600, must not exist) through gzip; it is on disk when the block ends.

    :raises OpsError: when the disk would be full
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise failure("written", path, error) from None
    with contextlib.closing(_Careful(path, descriptor)) as file:
        # The level that is quick: a nightly job shares the host with agents.
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1) as stream:
            yield stream
        os.fsync(descriptor)


class Writer:
    """Writes one archive to *out*. Every directory has to come before what is in it.

    A context manager: left by an error, it writes no end.

    :param about: what :data:`ABOUT_KEYS` names
    """

    def __init__(self, out: BinaryIO, about: dict[str, Any]) -> None:
        self.out: BinaryIO | None = out
        self.about = {"format": FORMAT, **about}
        self.members: dict[str, dict[str, Any]] = {}
        self.tar = tarfile.open(  # noqa: SIM115 - closed with this object
            fileobj=self,
            mode="w|",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        )
        self._json(ABOUT, self.about)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        if kind is not None:
            self.out = None
        self.tar.close()

    def write(self, data: bytes) -> int:
        """For tarfile, which would finish a tar even while it is thrown away."""
        return self.out.write(data) if self.out else len(data)

    def directory(self, name: str, mode: int) -> None:
        self._add(self._header(name, tarfile.DIRTYPE, mode=mode))
        self.members[name] = {"mode": mode}

    def link(self, name: str, target: str) -> None:
        """:param target: one that :func:`stays_inside`"""
        header = self._header(name, tarfile.SYMTYPE, mode=0o777)
        header.linkname = target
        self._add(header)
        self.members[name] = {"link": target}

    def file(self, name: str, stream: BinaryIO, size: int, *, mode: int, mtime: float) -> bool:
        """Write *size* bytes of *stream*; when it ends before, zeros stand for the rest.

        :returns: whether all was there
        """
        source = _Hashing(stream, size)
        header = self._header(name, tarfile.REGTYPE, mode=mode)
        header.size, header.mtime = size, int(mtime)
        self._add(header, source)
        self.members[name] = {"sha256": source.digest.hexdigest(), "size": size, "mode": mode}
        return not source.missing

    def data(self, name: str, data: bytes) -> None:
        self.file(name, io.BytesIO(data), len(data), mode=0o600, mtime=0)

    def finish(self, **notes: dict[str, str]) -> dict[str, Any]:
        """Write the last member.

        :param notes: :data:`NOTES`
        :returns: what :func:`read` will
        """
        members = dict(self.members)
        self._json(CHECKSUMS, {"members": members, **notes})
        return {**self.about, "members": members, **notes}

    def _json(self, name: str, value: Any) -> None:
        # Names that are no UTF-8 survive as the surrogates that Python makes of them.
        self.data(name, json.dumps(value, sort_keys=True).encode())

    @staticmethod
    def _header(name: str, kind: bytes, *, mode: int) -> tarfile.TarInfo:
        header = tarfile.TarInfo(name)
        header.type, header.mode = kind, mode
        return header

    def _add(self, header: tarfile.TarInfo, source: Any = None) -> None:
        self.tar.addfile(header, source)
        # tarfile remembers every header that it ever wrote.
        self.tar.members = []


class _Hashing:
    """Reads exactly *size* bytes, and their digest with them."""

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


def stays_inside(path: str, target: str) -> bool:
    """Whether the symbolic link *path* (relative to the home) to *target* can only lead into the home.

    ``..`` counts only where it comes first: there it climbs real directories. After a name it might climb from
    wherever another link leads.
    """
    if target.startswith("/") or not target or "\0" in target or len(target) > _PATH_LIMIT:
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    climbs = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return ".." not in parts[climbs:] and climbs <= path.count("/")


class _Header(tarfile.TarInfo):
    """A header as :class:`Writer` makes them; no other is even looked into.

    tarfile would read a name of a gigabyte into memory, or the map of a sparse file, because somebody wrote so.
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


class Nowhere:
    """Where :func:`read` puts what it only checks."""

    def directory(self, path: str, mode: int) -> None:
        pass

    def link(self, path: str, target: str) -> None:
        pass

    @contextlib.contextmanager
    def file(self, path: str, size: int, mode: int, mtime: int) -> Iterator[Any]:
        yield None


class Directory(Nowhere):
    """Where :func:`read` puts a home: *path*, with the rights of *owner* throughout.

    :raises OpsError: when *path* is there and not empty
    """

    def __init__(self, path: str, owner: Owner) -> None:
        self.path, self.owner = path, owner
        self.modes: list[tuple[str, int]] = []
        _make_empty(path, owner)

    def directory(self, path: str, mode: int) -> None:
        full = os.path.join(self.path, path)
        with acting_as(self.owner), self._writing(full):
            if path:
                os.mkdir(full, 0o700)
            self.modes.append((full, mode))

    def link(self, path: str, target: str) -> None:
        full = os.path.join(self.path, path)
        with acting_as(self.owner), self._writing(full):
            os.symlink(target, full)

    @contextlib.contextmanager
    def file(self, path: str, size: int, mode: int, mtime: int) -> Iterator[Any]:
        full = os.path.join(self.path, path)
        check_space(self.path, size)
        with acting_as(self.owner), self._writing(full):
            descriptor = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:

            def write(data: bytes) -> None:
                with self._writing(full):
                    stream.write(data)

            yield write
            with self._writing(full):
                stream.flush()
                os.fchmod(descriptor, mode)
                os.utime(descriptor, (mtime, mtime))

    def finish(self) -> None:
        """Give the directories their modes, from below: one of them may forbid to write into it."""
        with acting_as(self.owner):
            for path, mode in reversed(self.modes):
                os.chmod(path, mode)

    @staticmethod
    @contextlib.contextmanager
    def _writing(path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise failure("written", path, error) from None


def _make_empty(path: str, owner: Owner) -> None:
    try:
        with acting_as(owner):
            if os.listdir(path):
                raise OpsError("is not empty", where=path, fix="name another directory")
        return
    except FileNotFoundError:
        pass
    except OSError as error:
        raise failure("read", path, error) from None
    parent, name = os.path.split(path)
    descriptor = open_directory(parent)
    try:
        os.mkdir(name, 0o700, dir_fd=descriptor)
        if os.geteuid() == 0:
            os.chown(name, owner.uid, owner.gid, dir_fd=descriptor, follow_symlinks=False)
    except OSError as error:
        raise failure("made", path, error) from None
    finally:
        os.close(descriptor)


def read(source: BinaryIO, where: str, sink: Nowhere) -> dict[str, Any]:
    """Check an archive from its first byte to its last, and hand what is in ``home/`` to *sink* meanwhile.

    :param source: the tar stream, not compressed
    :param where: what errors call it
    :returns: the content of about.json and checksums.json in one, and ``sealed_env`` where .env is in it encrypted
    :raises OpsError: it is not whole, not ours, or holds something that could get out of the directory; what *sink*
        has by then is to be thrown away
    """
    reader = _Reader(source, where)
    about = reader.json(reader.next(ABOUT), ABOUT)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise reader.refused("is of another format", fix="restore it with the kit that made it")
    if not all(isinstance(about.get(key), kind) for key, kind in ABOUT_KEYS.items()):
        raise reader.refused(f"has an {ABOUT} that does not say what it must")
    sealed = checksums = None
    while checksums is None:
        member = reader.next()
        name = member.name
        if name in reader.members:
            raise reader.refused(f"holds {name!r} twice")
        if name == CHECKSUMS:
            checksums = reader.json(member, name)
        elif name == SEALED_ENV:
            sealed = reader.whole(member, name)
        else:
            _take(reader, member, sink)
    reader.finish()
    if not isinstance(checksums, dict) or checksums.get("members") != reader.members:
        raise reader.refused("does not hold what its checksums say")
    if HOME not in reader.members:
        raise reader.refused("holds no home")
    for notes in NOTES:
        values = checksums.get(notes)
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            raise reader.refused(f"has a {CHECKSUMS} that does not say what it must")
    return {**about, **checksums, **({} if sealed is None else {"sealed_env": sealed})}


def _take(reader: _Reader, member: tarfile.TarInfo, sink: Nowhere) -> None:
    name = member.name
    top, _slash, path = name.partition("/")
    parts = name.split("/")
    if top != HOME or len(name) > _PATH_LIMIT or "\0" in name or {"", ".", ".."} & set(parts):
        raise reader.refused(f"holds {name[:100]!r}, which is not below {HOME}/")
    if path and set(reader.members.get(os.path.dirname(name), ("link",))) != {"mode"}:
        raise reader.refused(f"holds {name!r} outside of any directory of it")
    mode = member.mode & 0o777
    if member.type == tarfile.DIRTYPE:
        reader.members[name] = {"mode": mode}
        sink.directory(path, mode)
    elif member.type == tarfile.SYMTYPE and path:
        if not stays_inside(path, member.linkname):
            raise reader.refused(f"holds a link that leads out of the home: {name!r}")
        reader.members[name] = {"link": member.linkname}
        sink.link(path, member.linkname)
    elif member.type == tarfile.REGTYPE and path:
        with sink.file(path, member.size, mode, int(min(max(member.mtime, 0), _LATEST))) as write:
            reader.copy(member, write)
    else:
        raise reader.refused(f"holds {name!r} as something else than a directory")


class _Reader:
    """tarfile, with one kind of error for all that may be wrong with an archive."""

    def __init__(self, source: BinaryIO, where: str) -> None:
        self.source, self.where = source, where
        self.members: dict[str, dict[str, Any]] = {}
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
        return member

    def copy(self, member: tarfile.TarInfo, write: Any) -> None:
        """Pass the content of *member* to *write* (None: to nobody) and remember its checksum."""
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
            if write:
                write(data)
        self.members[member.name] = {"sha256": digest.hexdigest(), "size": member.size, "mode": member.mode & 0o777}

    def whole(self, member: tarfile.TarInfo, name: str) -> bytes:
        if member.type != tarfile.REGTYPE or not 0 <= member.size <= _LIMITS[name]:
            raise self.refused(f"holds a {name} that cannot be true")
        chunks: list[bytes] = []
        self.copy(member, chunks.append)
        if name == CHECKSUMS:
            del self.members[name]
        return b"".join(chunks)

    def json(self, member: tarfile.TarInfo, name: str) -> Any:
        data = self.whole(member, name)
        with self._damage():
            return json.loads(data)

    def finish(self) -> None:
        """Read what follows, which must be nothing: only so gzip compares its own checksum."""
        with self._damage():
            if self.tar.next() is not None:
                raise self.refused(f"goes on after {CHECKSUMS}")
            rest = self.source.read(_PADDING_LIMIT + 1)
        if len(rest) > _PADDING_LIMIT or rest.strip(b"\0"):
            raise self.refused("goes on after its end")


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The tar stream in the file *path*, gzip or plain.

    :raises OpsError: when there is no such file
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed by the with below
    except OSError as error:
        raise failure("read", path, error) from None
    with file:
        if re.match(rb"\x1f\x8b", file.peek(2)):
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream
        else:
            yield file
