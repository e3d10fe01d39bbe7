# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies a home from one user to another, byte for byte.

An agent wrote the content, so all of this runs in a :mod:`worker`: :func:`send` as the present owner of the home,
:func:`receive` as its future owner, with a pipe of root between them. :mod:`stream` does the copying and keeps links,
holes, times and modes. Comparing :func:`survey` of both homes shows whether everything arrived.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from typing import Any

from ..system import trees
from ..system.errors import OpsError
from ..system.files import failure, read_text, write_atomic
from ..system.text import printable
from .stream import Writer, extents, unpack

# The file of Hermes' cron jobs, which holds absolute paths (0.18.2 and 0.19.0 cron/jobs.py: create_job).
JOBS = "cron/jobs.json"
# The keys of a job that hold a path. A job refuses a script outside of its home's scripts/, and silently ignores a
# missing directory (0.19.0 cron/scheduler.py: _run_job_script, run_job).
JOB_PATHS = ("script", "workdir")
# Bytes of the jobs file that are read; a larger file does not parse then, and is left alone.
_JOBS_LIMIT = 16 * 2**20
# Records of the past: a path in them has no effect.
_HISTORY = ("logs/", "sessions/", "cron/output/")
_DATABASES = (".db", ".db-wal", ".db-shm", ".db-journal")
_CHUNK = 1 << 16
# Names that are listed; further ones are only counted.
_LISTED = 20


def survey(home: str, leave_out: list[str], roots: list[str]) -> dict[str, Any]:
    """A summary of the contents of *home*.

    :param leave_out: patterns (fnmatch) of names in *home* that are ignored
    :param roots: directories; files and links that name a path in one of them are listed
    :returns: ``digest`` of all names, kinds, modes, contents and times; ``entries``: their number; ``size`` on disk in
        bytes; ``naming``: paths below *home* of files and links that name one of *roots*; ``more``: how many further
        ones there are
    :raises OpsError: something in it cannot be read, or cannot be copied
    """
    needles = [os.fsencode(root) for root in roots]
    digests, size, naming, more = [], 0, [], 0
    for path, relative, status in _entries(home, leave_out):
        kind, what, named = stat.S_IFMT(status.st_mode), "", False
        if kind == stat.S_IFREG:
            what, named = _read(path, needles)
            what += f" {status.st_size} {status.st_mtime_ns}"
            named = named and not relative.startswith(_HISTORY) and not relative.endswith(_DATABASES)
        elif kind == stat.S_IFLNK:
            target = os.fsencode(os.readlink(path))
            what, named = target.hex(), any(_is_in(target, needle) for needle in needles)
        if named and len(naming) < _LISTED:
            naming.append(printable(relative))
        elif named:
            more += 1
        size += status.st_blocks * 512
        # send() drops these two bits, so they must not make a difference.
        mode = stat.S_IMODE(status.st_mode) & ~(stat.S_ISUID | stat.S_ISGID)
        entry = f"{os.fsencode(relative).hex()} {kind:o} {mode:o} {what}"
        digests.append(hashlib.sha256(entry.encode()).digest())
    whole = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    return {"digest": whole, "entries": len(digests), "size": size, "naming": sorted(naming), "more": more}


def _entries(home: str, leave_out: list[str]) -> Iterator[tuple[str, str, os.stat_result]]:
    """Path, path below *home*, and status of every entry that can be copied. Sockets are skipped.

    :raises OpsError: an entry cannot be read, is on another mount, or is a device
    """
    device = os.lstat(home).st_dev
    waiting = [home]
    while waiting:
        directory = waiting.pop()
        with _refusing(directory):
            try:
                names = sorted(os.listdir(directory))
            except FileNotFoundError:
                # The directory vanished, because the gateway may still run.
                names = []
        for name in names:
            path = os.path.join(directory, name)
            if directory == home and _is_left_out(name, leave_out):
                continue
            with _refusing(path):
                try:
                    status = os.lstat(path)
                except FileNotFoundError:
                    continue
            if status.st_dev != device:
                raise OpsError("is a separate mount, which would not be copied", where=path, fix="unmount it")
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                raise OpsError("is a device, which the agent's user cannot create", where=path, fix="remove it")
            if stat.S_ISSOCK(status.st_mode):
                continue
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)
            yield path, os.path.relpath(path, home), status


def _read(path: str, needles: list[bytes]) -> tuple[str, bool]:
    """The SHA-256 of a file, and whether it holds one of *needles*."""
    digest, named, tail, end = hashlib.sha256(), False, b"", 0
    overlap = max((len(needle) for needle in needles), default=1) - 1
    with _refusing(path), contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            for start, part in _blocks(descriptor):
                digest.update(b"%d " % start + part)
                text = tail + part if start == end else part
                named = named or any(needle in text for needle in needles)
                tail, end = text[-overlap:] if overlap else b"", start + len(part)
        finally:
            os.close(descriptor)
    return digest.hexdigest(), named


def _blocks(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """Position and content of each block of a file that does not consist of zeros, wherever its holes are.

    Holes are not read: an agent can make a file of them that is larger than anybody can read.
    """
    at = 0
    for start, end in extents(descriptor, os.fstat(descriptor).st_size):
        at = max(at, start - start % _CHUNK)
        while at < end and (part := os.pread(descriptor, _CHUNK, at)):
            if part.count(0) < len(part):
                yield at, part
            at += len(part)


@contextlib.contextmanager
def _refusing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failure("read", printable(path), error) from None


def _is_left_out(name: str, leave_out: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in leave_out)


def _is_in(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory + b"/")


def send(home: str, leave_out: list[str], descriptor: int) -> None:
    """Write *home* without *leave_out* to *descriptor*, for :func:`receive`.

    :raises OpsError: it could not be read, or was changed meanwhile
    """
    with _at(home):
        writer = Writer(descriptor)
        with _refusing(home):
            writer.add(home, "", os.lstat(home))
        for path, name, status in _entries(home, leave_out):
            writer.add(path, name, status)
        writer.end()


def receive(home: str, descriptor: int) -> None:
    """Create *home* from the stream in *descriptor*.

    :raises OpsError: it could not be written
    """
    with os.fdopen(descriptor, "rb") as source, _at(home):
        unpack(source, home)


@contextlib.contextmanager
def _at(home: str) -> Iterator[None]:
    """Add the home to errors of the stream, and make them safe for terminals."""
    try:
        yield
    except OpsError as error:
        raise OpsError(printable(error.what), where=error.where or home, fix=error.fix) from None


def who_works(home: str, leave_out: list[str]) -> list[str]:
    """The processes of this user that have a file in *home* open: process id and name of each."""
    inside = os.path.join(home, "")
    found = []
    for number in os.listdir("/proc"):
        if number.isdigit() and int(number) != os.getpid():
            opened = _opened(number)
            names = (path[len(inside) :].partition("/")[0] for path in opened if path.startswith(inside))
            if any(not _is_left_out(name, leave_out) for name in names):
                found.append(f"{number} ({_name(number)})")
    return found[:_LISTED]


def _opened(number: str) -> list[str]:
    paths = []
    # The process belongs to another user, or has ended.
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{number}/fd"):
            with contextlib.suppress(OSError):
                paths.append(os.readlink(f"/proc/{number}/fd/{name}"))
    return paths


def _name(number: str) -> str:
    try:
        with open(f"/proc/{number}/comm", "rb") as stream:
            return printable(stream.read(64).decode("utf-8", "replace").strip())
    except OSError:
        return "?"


def move_jobs(home: str, before: str, after: str) -> list[str]:
    """Adapt the paths of the cron jobs in *home*, which was at *before* and will be at *after*.

    :returns: the changes, one line each
    """
    path = os.path.join(home, JOBS)
    text = read_text(path, _JOBS_LIMIT)
    try:
        document = json.loads(text or "{}")
        jobs = document["jobs"]
    except (KeyError, TypeError, ValueError, RecursionError):
        jobs = None
    if not isinstance(jobs, list):
        # Hermes cannot use such a file either.
        return []
    changed = [line for job in jobs if isinstance(job, dict) for line in _move_job(job, before, after)]
    if changed:
        write_atomic(path, json.dumps(document, indent=2), mode=0o600)
    return changed


def _move_job(job: dict[str, Any], before: str, after: str) -> Iterator[str]:
    for key in JOB_PATHS:
        value = job.get(key)
        if isinstance(value, str) and (value == before or value.startswith(f"{before}/")):
            job[key] = after + value[len(before) :]
            yield printable(f"{job.get('name') or job.get('id')}: {key} is {job[key]}")


def discard(home: str) -> None:
    """Remove a copy of a home that was never used."""
    trees.remove(home)
