# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory to be copied into an agent's home: read as the user that owns it, unpacked as the agent's user.

Its content is not trusted, because it may be another agent's. Root only opens the directory, and an unnamed file that
receives the content.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from ..system.answer import Maybe, fits
from ..system.errors import OpsError
from ..system.files import Account, failure, open_directory
from ..system.walk import walk
from ..system.worker import Limits, work

SKILL_FILE = "SKILL.md"
TEXT_SUFFIX = ".md"
# Directories that are generated and not part of a skill.
LEFT_OUT = frozenset({".git", ".venv", "__pycache__", "node_modules", "venv"})
# Limits for texts and scripts, which is all that a skill holds: bytes, number of entries, levels of directories.
LARGEST_FILE = 32 * 2**20
LARGEST = 256 * 2**20
_ENTRIES = 20_000
_DEPTH = 32
_LIMITS = Limits(seconds=300, answer=16 * 2**20, file=LARGEST)
_FORM = {"entries": {str: (str, object, int, Maybe(int))}, "left_out": [str]}
_FILE, _DIRECTORY, _OTHER = "file", "directory", "other"


@dataclass(frozen=True)
class Entry:
    """One entry of a parcel.

    :param kind: ``file``, ``directory`` or ``other`` (a link, a pipe, a mount)
    :param offset: where its content begins; None when the content was not copied
    """

    kind: str
    executable: bool
    size: int
    offset: int | None


class Parcel:
    """The entries of a directory, and the content of its texts and skills.

    :param name: the directory's name
    :param index: the result of :func:`pack`
    :param descriptor: a descriptor of the file that :func:`pack` wrote
    """

    def __init__(self, name: str, index: Mapping[str, Any], descriptor: int) -> None:
        self.name = name
        self.entries = {path: Entry(*entry) for path, entry in index["entries"].items()}
        self.left_out: list[str] = index["left_out"]
        self._paths = sorted(self.entries)
        self._descriptor = descriptor

    def below(self, directory: str) -> list[str]:
        """Every path below *directory*, sorted."""
        if not directory:
            return self._paths
        # "0" is the character after "/", so the range holds every path that begins with *directory* and "/".
        first, last = (bisect.bisect_left(self._paths, directory + end) for end in "/0")
        return self._paths[first:last]

    def is_file(self, path: str) -> bool:
        return path in self.entries and self.entries[path].kind == _FILE

    def is_directory(self, path: str) -> bool:
        return not path or (path in self.entries and self.entries[path].kind == _DIRECTORY)

    def read(self, path: str) -> bytes:
        entry = self.entries[path]
        if entry.offset is None:
            raise OpsError("was not copied", where=path, fix="run again when nobody changes it")
        return os.pread(self._descriptor, entry.size, entry.offset)

    def text(self, path: str) -> str:
        """:raises OpsError: when it is not UTF-8"""
        try:
            return self.read(path).decode("utf-8")
        except UnicodeDecodeError:
            raise OpsError("is not UTF-8 text", where=path, fix="save it as UTF-8") from None


# As root


@contextlib.contextmanager
def packed(path: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The arguments *index* and *descriptor* of a :class:`Parcel` of the directory *path*.

    :raises OpsError: when it is not a directory, cannot be read, or holds too much
    """
    with contextlib.ExitStack() as stack:
        top = open_directory(path)
        stack.callback(os.close, top)
        status = os.fstat(top)
        account = Account(f"uid {status.st_uid}", status.st_uid, status.st_gid, path)
        if os.geteuid() != 0:
            account = Account.current()
        file = stack.enter_context(tempfile.TemporaryFile())
        number = file.fileno()
        index = work(account, "agent.parcel:pack", top, number, limits=_LIMITS, descriptors=(top, number), where=path)
        if not fits(index, _FORM) or len(index["entries"]) > _ENTRIES:
            raise OpsError("the worker that read it gave a malformed answer", where=path, fix="see what lies there")
        yield index, number


# As the user that owns the directory


def pack(top: int, target: int) -> dict[str, Any]:
    """Write the content of all texts and skills below the directory *top* to the file *target*.

    :returns: ``entries``: path -> fields of :class:`Entry`; ``left_out``: paths
    :raises OpsError: when the directory holds more than a parcel may, or something cannot be read
    """
    found: dict[str, os.stat_result] = {}
    left_out: list[str] = []
    device = os.fstat(top).st_dev
    for entry in walk(top, depth=_DEPTH, enter=lambda entry: entry.name not in LEFT_OUT):
        if len(found) == _ENTRIES:
            raise OpsError(f"holds more than {_ENTRIES} files", fix="name a directory that holds the skills only")
        if entry.is_directory and entry.path.count("/") >= _DEPTH:
            raise OpsError(f"is nested more than {_DEPTH} levels deep", where=entry.path, fix="move it away")
        if entry.name in LEFT_OUT:
            left_out.append(entry.path)
        else:
            found[entry.path] = entry.status
    skills = {path.rpartition("/")[0] for path in found if path.rpartition("/")[2] == SKILL_FILE}
    entries: dict[str, tuple[str, bool, int, int | None]] = {}
    with open(target, "wb", closefd=False) as stream:
        for path, status in found.items():
            kind = _kind(status, device)
            offset, size = None, 0
            if kind == _FILE and (path.endswith(TEXT_SUFFIX) or any(parent in skills for parent in parents(path))):
                offset = stream.tell()
                size = _copy(top, path, stream, LARGEST - offset)
            entries[path] = (kind, bool(status.st_mode & 0o111), size, offset)
    return {"entries": entries, "left_out": left_out}


def parents(path: str) -> list[str]:
    """The directories that contain *path*, from the top one, ``""``, down."""
    parts = path.split("/")
    return ["/".join(parts[:number]) for number in range(len(parts))]


def _kind(status: os.stat_result, device: int) -> str:
    if stat.S_ISDIR(status.st_mode):
        return _DIRECTORY if status.st_dev == device else _OTHER
    return _FILE if stat.S_ISREG(status.st_mode) else _OTHER


def _copy(top: int, path: str, stream: IO[bytes], room: int) -> int:
    """Copy the file *path* below *top*, if it fits into *room* bytes; return its size."""
    with _opened(top, path) as descriptor:
        largest = min(LARGEST_FILE, room)
        if os.fstat(descriptor).st_size > largest:
            raise OpsError(
                f"is too large: skills and texts may have {LARGEST_FILE} bytes per file, and {LARGEST} in total",
                where=path,
                fix="move it away",
            )
        copied = 0
        while copied <= largest:
            part = os.read(descriptor, 1 << 20)
            if not part:
                return copied
            stream.write(part)
            copied += len(part)
    raise OpsError("grows while it is read", where=path, fix="run again when nobody changes it")


@contextlib.contextmanager
def _opened(top: int, path: str) -> Iterator[int]:
    """A descriptor of the file *path* below *top*.

    :raises OpsError: when the path meanwhile leads through a link, or not to a regular file
    """
    *directories, name = path.split("/")
    descriptor = os.dup(top)
    try:
        for directory in directories:
            descriptor = _step(descriptor, directory, os.O_DIRECTORY)
        descriptor = _step(descriptor, name, os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OpsError("is no longer a regular file", where=path, fix="run again when nobody changes it")
        yield descriptor
    except OSError as error:
        raise failure("read", path, error) from None
    finally:
        os.close(descriptor)


def _step(descriptor: int, name: str, flags: int) -> int:
    below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=descriptor)
    os.close(descriptor)
    return below
