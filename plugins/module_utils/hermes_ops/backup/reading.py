# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks an archive, or extracts its home to a directory. Runs in workers."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from ..system.errors import OpsError
from ..system.files import failure, write_atomic
from . import learnt, tarstream
from .selection import ENV, STAGING, is_learnt
from .space import check_space


def check(descriptor: int, where: str, against: list[str] | None) -> dict[str, Any]:
    """Read an archive to its end.

    :param descriptor: of the archive, gzip or plain
    :param where: name of the archive, for errors
    :param against: the home that it would replace, and the question of :func:`learnt.since`; None: nothing is compared
    :returns: the fields of :class:`extracting.Manifest`
    """
    return _read(descriptor, where, _Remembering(), against)


def extract(descriptor: int, where: str, directory: str, links_out: bool, against: list[str] | None) -> dict[str, Any]:
    """Like :func:`check`, and extract the home to *directory*, which must be missing or empty.

    :param links_out: also make links that lead out of the home
    """
    manifest = _read(descriptor, where, Directory(directory, links_out), against)
    manifest["env_inside"] = os.path.lexists(os.path.join(directory, ENV))
    # All of it must be on disk before anybody relies on it.
    os.sync()
    return manifest


def put_env(home: str, stamp: str, text: str) -> None:
    """Write ``.env`` into the staging directory of a restore.

    :param text: in base64
    """
    write_atomic(os.path.join(home, STAGING + stamp, ENV), base64.b64decode(text), mode=0o600)


def _read(descriptor: int, where: str, sink: _Remembering, against: list[str] | None) -> dict[str, Any]:
    with open(descriptor, "rb", closefd=False) as file, tarstream.unpacked(file) as stream:
        manifest = tarstream.read(stream, where, sink)
    sealed = manifest["sealed_env"]
    manifest["sealed_env"] = None if sealed is None else base64.b64encode(sealed).decode()
    manifest["learnt"] = learnt.since(*against, manifest["created"], sink.learnt) if against else []
    return manifest


class _Remembering(tarstream.Nowhere):
    """Remembers the checksums of files that an agent learns (:data:`selection.LEARNT`).

    :ivar learnt: path -> SHA-256, of the first :attr:`LIMIT` files
    """

    LIMIT = 100_000

    def __init__(self) -> None:
        self.learnt: dict[str, str] = {}

    def hashed(self, path: str, sha256: str) -> None:
        if len(self.learnt) < self.LIMIT and is_learnt(path):
            self.learnt[path] = sha256


class Directory(_Remembering):
    """Extracts a home to the directory *path*.

    :raises OpsError: when *path* exists and is not empty
    """

    def __init__(self, path: str, links_out: bool) -> None:
        super().__init__()
        self.path, self.links_out = path, links_out
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if os.listdir(path):
                raise OpsError("is not empty", where=path, fix="name another directory") from None
        except OSError as error:
            raise failure("made", path, error) from None

    def directory(self, path: str) -> None:
        if path:
            with self._writing(path) as full:
                os.mkdir(full, 0o700)

    def left(self, path: str, mode: int) -> None:
        # Set last, because the mode may forbid writing into it.
        with self._writing(path) as full:
            os.chmod(full, mode)

    def link(self, path: str, target: str) -> None:
        if self.links_out or tarstream.stays_inside(path, target):
            with self._writing(path) as full:
                os.symlink(target, full)

    @contextlib.contextmanager
    def file(self, path: str, mode: int, mtime: int) -> Iterator[Callable[[bytes], None]]:
        with self._writing(path) as full:
            descriptor = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:

            def write(data: bytes) -> None:
                with self._writing(path):
                    # Zeros become a hole: they take hardly any space in an archive, and must not take it here.
                    if data.count(0) == len(data):
                        stream.seek(len(data), os.SEEK_CUR)
                        return
                    check_space(descriptor, full, len(data))
                    view = memoryview(data)
                    while view:
                        view = view[stream.write(view) :]

            yield write
            with self._writing(path):
                stream.truncate()
                os.fchmod(descriptor, mode)
                os.utime(descriptor, (mtime, mtime))

    @contextlib.contextmanager
    def _writing(self, path: str) -> Iterator[str]:
        full = os.path.join(self.path, path) if path else self.path
        try:
            yield full
        except OSError as error:
            raise failure("written", full, error) from None
