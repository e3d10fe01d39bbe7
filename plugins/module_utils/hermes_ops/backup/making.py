# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a profile's home, consistent while its gateway runs.

SQLite's files go through SQLite's own backup interface. Hermes replaces its JSON and text files by a rename (0.18.2
and 0.19.0, utils.py: atomic_json_write and its like), so reading one is consistent by itself.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import socket
import sqlite3
import stat
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from .. import __version__
from ..agent.sessions import DATABASE_ERRORS
from ..host.installation import Installation
from ..supervise import gateway
from ..system.errors import OpsError
from ..system.files import Owner, acting_as, ensure_directory, failure, read_json, sync_directory
from ..system.process import run_filter
from . import selection, tarstream
from .archives import free_name, pattern
from .databases import copy_open_database, is_database, open_regular, read_only
from .selection import ENV, link_target, status_of, walk
from .settings import AGE

# Seconds to wait for another backup.
LOCK_TIMEOUT = 900.0
AGE_TIMEOUT = 60.0
_PARTIAL = ".partial"


def create(host: Installation, profile: dict[str, Any], directory: str, *, env: str = "exclude") -> str:
    """Make an archive of the profile's home in *directory*.

    :param profile: one of ``host.profiles``
    :param env: ``.env`` is left out (``exclude``), in it as it is (``include``), or encrypted: ``age:<recipient>``
    :returns: its path; mode 0600, complete and on disk
    :raises OpsError: it could not be made, and nothing of it is left
    """
    if not os.path.isdir(directory):
        ensure_directory(directory, mode=0o700)
    with _alone(host) as work:
        # What a killed one left.
        for name in os.listdir(directory):
            if re.fullmatch(pattern(profile["name"]) + re.escape(_PARTIAL), name):
                os.unlink(os.path.join(directory, name))
        path = free_name(directory, profile["name"])
        partial = path + _PARTIAL
        try:
            with tarstream.compressed(partial) as out:
                _write(host, profile, out, work, env)
            os.rename(partial, path)
            sync_directory(directory)
        except OSError as error:
            raise failure("written", path, error) from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
    return path


def stream(host: Installation, profile: dict[str, Any], out: BinaryIO, *, env: str = "exclude") -> dict[str, Any]:
    """Write the same, not compressed, to *out*.

    :returns: what :func:`verify` says of it
    :raises OpsError: it ended early; what *out* has is no backup
    """
    with _alone(host) as work:
        return _write(host, profile, out, work, env)


def refuse_unfinished(host: Installation) -> None:
    """:raises OpsError: when a home may be half of what it was"""
    if host.unfinished("restore"):
        raise OpsError(
            "a restore is under way or was interrupted",
            fix="wait for it, or have it undone: hermes-ops restore --recover",
        )


@contextlib.contextmanager
def _alone(host: Installation) -> Iterator[str]:
    """Only one at a time makes a backup, and has a directory of its own for what is larger than memory."""
    with host.lock("backup", timeout=LOCK_TIMEOUT):
        refuse_unfinished(host)
        work = os.path.join(host.ops_dir, "backup.work")
        shutil.rmtree(work, ignore_errors=True)
        ensure_directory(work, mode=0o700)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _write(host: Installation, profile: dict[str, Any], out: BinaryIO, work: str, env: str) -> dict[str, Any]:
    home, owner = profile["home"], host.owner
    problems: dict[str, str] = {}
    outside: dict[str, str] = {}
    with acting_as(owner):
        mode = _mode(status_of(home))
    with tarstream.Writer(out, _about(host, profile, env)) as writer:
        writer.directory(tarstream.HOME, mode)
        for path, status in walk(home, owner, problems):
            name = f"{tarstream.HOME}/{path}"
            if path.split("/", 1)[0].startswith(ENV) and env != "include":
                continue
            if stat.S_ISDIR(status.st_mode):
                writer.directory(name, _mode(status))
            elif stat.S_ISLNK(status.st_mode):
                target = link_target(home, path, owner)
                if target is not None and tarstream.stays_inside(path, target):
                    writer.link(name, target)
                elif target is not None:
                    outside[path] = target
            else:
                problem = _add_file(writer, name, os.path.join(home, path), owner, work)
                if problem:
                    problems[path] = problem
        if env.startswith(AGE):
            _seal(writer, home, owner, env[len(AGE) :])
        return writer.finish(problems=problems, outside=outside)


def _mode(status: os.stat_result) -> int:
    """Permission bits, without those that make a program somebody else."""
    return stat.S_IMODE(status.st_mode) & 0o777


def _about(host: Installation, profile: dict[str, Any], env: str) -> dict[str, Any]:
    release = gateway.current_release(host.root)
    stamp = read_json(os.path.join(host.root, "releases", release, "release.json")) or {} if release else {}
    return {
        "profile": profile["name"],
        "host": socket.gethostname(),
        "created": time.time(),
        "kit": __version__,
        "release": release,
        "version": stamp.get("version"),
        "schemas": _schemas(profile["home"], host.owner),
        "env": "encrypt" if env.startswith(AGE) else env,
    }


def _schemas(home: str, owner: Owner) -> dict[str, int]:
    """The schema version of each database that says one: as Hermes writes it (state.db), or as SQLite keeps it."""
    found: dict[str, int] = {}
    with acting_as(owner):
        for path in selection.databases(home):
            with (
                contextlib.suppress(*DATABASE_ERRORS),
                contextlib.closing(read_only(os.path.join(home, path))) as live,
            ):
                named = live.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone()
                query = "SELECT max(version) FROM schema_version" if named else "PRAGMA user_version"
                (version,) = live.execute(query).fetchone()
                if isinstance(version, int):
                    found[path] = version
    return found


def _add_file(writer: tarstream.Writer, name: str, path: str, owner: Owner, work: str) -> str | None:
    """Add a file.

    :returns: why what is in the archive is not the file, None when all is well or it vanished meanwhile
    """
    try:
        file = open_regular(path, owner)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if file is None:
        return None
    with file:
        status = os.fstat(file.fileno())
        if not is_database(file):
            return _add_plain(writer, name, file, status)
    # Closed by now: a close would take away the locks that SQLite sets.
    copy = os.path.join(work, "database")
    try:
        copy_open_database(path, copy, owner)
        with open(copy, "rb") as file:
            return _add_plain(writer, name, file, status)
    except sqlite3.OperationalError as error:
        return f"cannot be copied by SQLite ({error}), so it is not in it"
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        file = open_regular(path, owner)
        if file is None:
            return None
        with file:
            _add_plain(writer, name, file, os.fstat(file.fileno()))
        return f"is damaged ({error}); it is in it as it lies there"
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)


def _add_plain(writer: tarstream.Writer, name: str, file: BinaryIO, status: os.stat_result) -> str | None:
    """:param status: of what it is the content of"""
    before = os.fstat(file.fileno())
    data: BinaryIO = file
    size = before.st_size
    if size <= tarstream.CHUNK:
        # As a whole: one that gets shorter meanwhile is shorter, not wrong.
        content = file.read(tarstream.CHUNK)
        data, size = io.BytesIO(content), len(content)
    whole = writer.file(name, data, size, mode=_mode(status), mtime=max(status.st_mtime, 0))
    after = os.fstat(file.fileno())
    # One that grew is as it was when we began.
    rewritten = size > tarstream.CHUNK and after.st_mtime_ns != before.st_mtime_ns and after.st_size <= before.st_size
    return None if whole and not rewritten else "changed while it was read"


def _seal(writer: tarstream.Writer, home: str, owner: Owner, recipient: str) -> None:
    file = open_regular(os.path.join(home, ENV), owner)
    if file is None:
        return
    with file:
        # By standard input: nothing of it is in a list of processes or in a file.
        sealed = run_filter(["age", "--armor", "--recipient", recipient], file.read(), timeout=AGE_TIMEOUT)
    writer.data(tarstream.SEALED_ENV, sealed)
