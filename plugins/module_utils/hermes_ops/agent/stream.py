# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory as a stream of bytes, with its links, holes, times and modes.

A worker cannot start a program, so tar(1) is not used. For each entry the stream holds a length, a JSON header of that
length, and for a file its parts in ascending order: each part's position, its length, and its bytes. An empty part ends
a file, a header of length 0 ends the stream. A stream without that end, or with bytes after it, is refused.

The agent can write the directory while it is read, so the receiver trusts nothing in the stream.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import failure

_LENGTH = struct.Struct(">I")
_PART = struct.Struct(">QI")
_CHUNK = 1 << 20
# Bytes of a header: two paths (PATH_MAX is 4096), each up to six times as long in JSON.
_HEADER_LIMIT = 1 << 16
# The bits of a mode that are kept. Set-user-ID and set-group-ID are not.
_MODE = 0o1777
# The keys of every header, and the allowed forms of a header for each kind of entry. Other kinds are refused.
_HEADER = {"name": str, "kind": int, "mode": int, "mtime": int}
_FORMS = {
    stat.S_IFDIR: (_HEADER,),
    stat.S_IFIFO: (_HEADER,),
    stat.S_IFLNK: ({**_HEADER, "target": str},),
    stat.S_IFREG: ({**_HEADER, "size": int}, {**_HEADER, "same": str}),
}


class Writer:
    """Writes a stream to the descriptor *out*."""

    def __init__(self, out: int) -> None:
        self._out = out
        # For files with several names: device and inode -> the name that was sent first.
        self._names: dict[tuple[int, int], str] = {}

    def add(self, path: str, name: str, status: os.stat_result) -> None:
        """Add the entry at *path*.

        :param name: the entry's path in the stream; "" for the directory itself, which comes first
        :param status: the entry's status, read before
        :raises OpsError: the entry cannot be read, is no longer the file that it was, or became shorter while it was
            read
        """
        kind = stat.S_IFMT(status.st_mode)
        header = {
            "name": name,
            "kind": kind,
            "mode": stat.S_IMODE(status.st_mode) & _MODE,
            "mtime": status.st_mtime_ns,
        }
        with _copying(name):
            if kind == stat.S_IFLNK:
                self._header(header, target=os.readlink(path))
            elif kind != stat.S_IFREG:
                self._header(header)
            elif status.st_nlink > 1 and (status.st_dev, status.st_ino) in self._names:
                self._header(header, same=self._names[status.st_dev, status.st_ino])
            else:
                self._names.update({(status.st_dev, status.st_ino): name} if status.st_nlink > 1 else {})
                self._file(header, path)

    def end(self) -> None:
        with _copying("the end"):
            self._write(_LENGTH.pack(0))

    def _header(self, header: dict[str, Any], **more: Any) -> None:
        data = json.dumps({**header, **more}).encode()
        self._write(_LENGTH.pack(len(data)) + data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._out, view) :]

    def _file(self, header: dict[str, Any], path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OpsError(f"cannot be copied: {header['name']}: is no longer a file")
            self._header(header, size=status.st_size)
            for start, end in extents(descriptor, status.st_size):
                while start < end and (part := os.pread(descriptor, min(_CHUNK, end - start), start)):
                    self._write(_PART.pack(start, len(part)) + part)
                    start += len(part)
            self._write(_PART.pack(0, 0))
            if os.fstat(descriptor).st_size < status.st_size:
                # The header says how long the file was; the receiver would fill the missing end with a hole.
                what = f"cannot be copied: {header['name']}: was cut short meanwhile"
                raise OpsError(what, fix="see what works in the home")
        finally:
            os.close(descriptor)


def extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each part of a file of *size* bytes that holds data; the rest are holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        yield start, end


def unpack(source: BinaryIO, directory: str) -> None:
    """Make *directory* from the stream *source*, up to the end of *source*.

    :raises OpsError: the directory cannot be written, or the stream is not exactly one whole directory
    """
    try:
        os.mkdir(directory, 0o700)
    except OSError as error:
        raise failure("made", directory, error) from None
    made: dict[str, dict[str, Any]] = {}
    while (length := _LENGTH.unpack(_exactly(source, _LENGTH.size))[0]) != 0:
        if length > _HEADER_LIMIT:
            raise _nonsense()
        header = _header(_exactly(source, length))
        name, kind = header["name"], header["kind"]
        above, _slash, last = name.rpartition("/")
        # An entry may only lie in a directory that this stream made, so that no name leads out of *directory*.
        if bool(name) != bool(made) or (name and (above not in made or last in ("", ".", ".."))):
            raise _nonsense()
        path = os.path.join(directory, name)
        with _copying(name):
            if kind == stat.S_IFDIR:
                if name:
                    os.mkdir(path, 0o700)
                made[name] = header
            elif kind == stat.S_IFLNK:
                os.symlink(header["target"], path)
                os.utime(path, ns=(header["mtime"],) * 2, follow_symlinks=False)
            elif "same" in header:
                if header["same"].rpartition("/")[0] not in made:
                    raise _nonsense()
                os.link(os.path.join(directory, header["same"]), path, follow_symlinks=False)
            elif kind == stat.S_IFIFO:
                os.mkfifo(path)
                _finish(path, header)
            else:
                _receive(source, path, header)
    if not made or source.read(1):
        raise _nonsense()
    for name, header in reversed(made.items()):
        # Modes and times of directories come last: a mode can forbid writing, and each write changes the time.
        with _copying(name):
            _finish(os.path.join(directory, name), header)


def _header(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise _nonsense() from None
    for kind, forms in _FORMS.items():
        if any(fits(header, form) and header["kind"] == kind for form in forms):
            return header
    raise _nonsense()


def _receive(source: BinaryIO, path: str, header: dict[str, Any]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    end = 0
    try:
        while (part := _PART.unpack(_exactly(source, _PART.size)))[1]:
            start, length = part
            if length > _CHUNK or start < end or start + length > header["size"]:
                raise _nonsense()
            end, data = start + length, memoryview(_exactly(source, length))
            while data:
                data = data[os.pwrite(descriptor, data, end - len(data)) :]
        os.ftruncate(descriptor, header["size"])
        _finish(descriptor, header)
    finally:
        os.close(descriptor)


def _finish(path: str | int, header: dict[str, Any]) -> None:
    os.chmod(path, header["mode"] & _MODE)
    os.utime(path, ns=(header["mtime"],) * 2)


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise OpsError("cannot be copied: not all of it came", fix="see why the other side stopped")
    return data


def _nonsense() -> OpsError:
    return OpsError("cannot be copied: what comes is no directory", fix="see what works in the home")


@contextlib.contextmanager
def _copying(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot be copied: {name or 'the directory'}: {error.strerror}"
        raise OpsError(what, fix="free space, and see what works in the home") from None
