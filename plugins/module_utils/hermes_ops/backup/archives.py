# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a profile's home, consistent while its gateway runs.

SQLite's files go through SQLite's own backup interface. Hermes replaces its JSON and text files by a rename (0.18.2
and 0.19.0, utils.py: atomic_json_write and its like), so reading one is consistent by itself.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import re
import shutil
import socket
import sqlite3
import stat
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from .. import __version__
from ..agent.sessions import DATABASE_ERRORS
from ..host.installation import Installation
from ..supervise import gateway
from ..system.errors import OpsError
from ..system.files import Owner, acting_as, ensure_directory, failure, read_json, sync_directory
from ..system.process import run_filter
from . import tarstream as archive

# Of the home itself: what a gateway writes about the process that it is, what it makes again, what grows without
# being anybody's memory, and the homes of other profiles (0.19.0: hermes_cli/backup.py, hermes_cli/profiles.py,
# gateway/platforms/base.py, hermes_cli/models.py).
LEFT_OUT = {
    "profiles",
    "logs",
    "cache",
    "backups",
    "state-snapshots",
    "checkpoints",
    "hermes-agent",
    "gateway_state.json",
    "gateway-starts.log",
    "processes.json",
    # Ours, see restore.py.
    ".hermes-ops-restore",
    ".hermes-ops-set-aside",
}
LEFT_OUT_SUFFIXES = (".pid", ".lock", "_cache", "_cache.json")
# At any depth, like every directory that says itself that it is a cache (https://bford.info/cachedir/).
LEFT_OUT_ANYWHERE = {".cache", ".venv", "__pycache__", "node_modules"}
CACHE_TAG = "CACHEDIR.TAG"
# Where a restore puts a home together, inside of that home.
STAGING = ".hermes-ops-restore"
# Copies of it that editors and Hermes leave (.env.bak, .env_*.tmp) hold the same secrets.
ENV = ".env"
# Before the recipient's public key, where .env is to be encrypted.
AGE = "age:"

SQLITE_MAGIC = b"SQLite format 3\0"
# What SQLite keeps beside a database; belongs to the live file, never to a copy.
SQLITE_COMPANIONS = ("-wal", "-shm", "-journal")
# Seconds to wait for a writer that holds a database.
SQLITE_TIMEOUT = 30.0
# Seconds to wait for another backup.
LOCK_TIMEOUT = 900.0
# Seconds by which a clock may have been put back since, and nothing is thought of it.
FAST_CLOCK = 24 * 3600.0
AGE_TIMEOUT = 60.0

SUFFIX = ".tar.gz"
_PARTIAL = ".partial"
_STAMP = r"\d{8}T\d{6}Z"


@dataclass(frozen=True)
class Settings:
    """``/etc/hermes-ops/backup.json``.

    :param keep: how many archives of each profile stay on this host
    :param env: what becomes of ``.env`` in them: ``exclude``, ``include``, ``encrypt``
    :param age_recipient: for whom it is encrypted: a public key of age or SSH
    :param restic_repository: where copies go off the host, as restic calls it; ``""``: nowhere
    :param restic_password: of the repository
    :param restic_environment: what its back end wants to know, e.g. ``AWS_ACCESS_KEY_ID``
    :param restic_keep_daily: for how many days, weeks and months one copy each stays there
    """

    keep: int = 7
    env: str = "exclude"
    age_recipient: str = ""
    restic_repository: str = ""
    restic_password: str = ""
    restic_environment: dict[str, str] = field(default_factory=dict)
    restic_keep_daily: int = 7
    restic_keep_weekly: int = 4
    restic_keep_monthly: int = 6

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise OpsError("keep is less than 1", fix="declare 1 or more")
        if self.env not in ENV_CHOICES:
            raise OpsError(f"env is {self.env!r}", fix=f"declare one of {', '.join(ENV_CHOICES)}")
        if self.env == "encrypt" and not self.age_recipient:
            raise OpsError("age_recipient is missing", fix="make a pair with age-keygen and declare its public key")
        if self.age_recipient and not re.fullmatch(r"age1[a-z0-9]+|ssh-(ed25519|rsa) \S+( .*)?", self.age_recipient):
            raise OpsError("age_recipient is no public key", fix="declare one that begins with age1 or ssh-")
        if self.restic_repository and not self.restic_password:
            raise OpsError("restic_password is missing", fix="declare one, and keep it elsewhere as well")
        for name, value in self.restic_environment.items():
            if not re.fullmatch(r"[A-Za-z_]\w*", name) or not isinstance(value, str):
                raise OpsError(f"restic_environment: {name!r} is no variable with a text", fix="declare NAME: text")
        keeps = (self.restic_keep_daily, self.restic_keep_weekly, self.restic_keep_monthly)
        if min(keeps) < 0 or not any(keeps):
            raise OpsError("restic_keep_… would keep nothing", fix="declare 1 or more for one of them")

    def env_of(self, choice: str | None = None) -> str:
        """What :func:`create` takes for it.

        :param choice: instead of what is declared
        """
        choice = choice or self.env
        if choice != "encrypt":
            return choice
        if not self.age_recipient:
            raise OpsError("nobody is declared to encrypt .env for", fix="declare backup_age_recipient")
        return AGE + self.age_recipient


ENV_CHOICES = ("exclude", "include", "encrypt")


@dataclass(frozen=True)
class Archive:
    """A complete archive on this host. ``created``: seconds since 1970; ``size``: bytes."""

    path: str
    profile: str
    created: float
    size: int


def directory_of(host: Installation) -> str:
    """Where archives lie unless somebody says otherwise."""
    return os.path.join(host.ops_dir, "backups")


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
            if re.fullmatch(_pattern(profile["name"]) + re.escape(_PARTIAL), name):
                os.unlink(os.path.join(directory, name))
        path = _free_name(directory, profile["name"])
        partial = path + _PARTIAL
        try:
            with archive.compressed(partial) as out:
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


def verify(path: str) -> dict[str, Any]:
    """Read the archive *path* from its first byte to its last and compare all with its checksums.

    :returns: what it says of itself, see :mod:`archive`
    :raises OpsError: it is damaged, incomplete, or holds what no backup holds
    """
    with archive.opened(path) as source:
        return archive.read(source, path, archive.Nowhere())


def extract(source: str | BinaryIO, directory: str, owner: Owner) -> dict[str, Any]:
    """Put the home in an archive into *directory*, which must not exist or be empty, as *owner* throughout.

    :param source: path of an archive, or the tar stream itself
    :returns: like :func:`verify`
    :raises OpsError: likewise; what *directory* holds by then is to be thrown away
    """
    sink = archive.Directory(directory, owner)
    if isinstance(source, str):
        with archive.opened(source) as stream:
            manifest = archive.read(stream, source, sink)
    else:
        manifest = archive.read(source, "the stream", sink)
    sink.finish()
    return manifest


def archives(directory: str, profile: str | None = None) -> list[Archive]:
    """The complete archives in *directory*, of all profiles or one, oldest first; see :func:`age_key`."""
    found = []
    for name in os.listdir(directory) if os.path.isdir(directory) else []:
        match = re.fullmatch(_pattern(None), name)
        if not match or profile not in (None, match["profile"]):
            continue
        path = os.path.join(directory, name)
        created = datetime.datetime.strptime(match["stamp"] + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
        found.append(Archive(path, match["profile"], created, os.stat(path).st_size))
    return sorted(found, key=lambda each: (age_key(each.created), each.path))


def age_key(created: float) -> tuple[bool, float]:
    """Sorts what was made at *created* (seconds since 1970), oldest first.

    What was made with a clock that was fast comes before all else: nobody knows how old it is, and it must not be the
    newest for years.
    """
    return created <= time.time() + FAST_CLOCK, created


def prune(directory: str, profile: str, keep: int) -> list[str]:
    """Remove all but the newest *keep* archives of *profile*; returns their paths."""
    surplus = [each.path for each in archives(directory, profile)[: -max(keep, 1)]]
    for path in surplus:
        os.unlink(path)
    return surplus


def databases(home: str) -> list[str]:
    """The SQLite files of a home, relative to it. Call it with the rights of its owner."""
    me = Owner.current()
    return sorted(
        path
        for path, status in _walk(home, me, {})
        if stat.S_ISREG(status.st_mode) and _is_database_at(os.path.join(home, path))
    )


def replaced(home: str) -> list[str]:
    """The names in *home* that a restore replaces: what belongs to a backup, and what belongs to its databases.

    Call it with the rights of its owner.
    """
    names = {name for name, _status in _entries(home, top=True)}
    companions = {name + end for name in names for end in SQLITE_COMPANIONS}
    return sorted(names | (companions & set(os.listdir(home))))


def copy_database(source: str, target: str, owner: Owner) -> None:
    """Copy the live database *source* to *target* by SQLite's own backup interface.

    *source* is read with the rights of *owner*, so that what SQLite makes beside it is the owner's, too. *target* is
    ours: it is made (0600) with the rights that we have.

    :raises OpsError: it is damaged, locked for too long, or the disk would be full
    """
    try:
        _copy_database(source, target, owner)
    except DATABASE_ERRORS as error:
        raise OpsError(f"cannot be copied by SQLite ({error})", where=source, fix=_DATABASE_FIX) from None


_DATABASE_FIX = "see whether it is sound: sqlite3 FILE 'PRAGMA integrity_check'"


def _copy_database(source: str, target: str, owner: Owner) -> None:
    with acting_as(owner):
        size = sum(os.stat(path).st_size for path in (source, f"{source}-wal") if os.path.exists(path))
    archive.check_space(os.path.dirname(target), size)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(target)) as copy:
        # No journal: while we act as the owner none could be made in our directory. Reading opens the file now.
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        copy.execute("SELECT count(*) FROM sqlite_master").fetchall()
        with acting_as(owner), contextlib.closing(_read_only(source)) as live:
            # Python would wait for ever for one that is locked; this waits its time, and then we may read.
            live.execute("BEGIN")
            live.execute("SELECT count(*) FROM sqlite_master").fetchall()
            # In one step: with several a busy writer makes SQLite begin again and again. In WAL mode, which is what
            # Hermes uses, no writer waits for us.
            live.backup(copy, pages=-1)
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    os.fsync(descriptor)
    os.close(descriptor)


def _read_only(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{urllib.parse.quote(path)}?mode=ro", uri=True, timeout=SQLITE_TIMEOUT)


def refuse_unfinished(host: Installation) -> None:
    """:raises OpsError: when a home may be half of what it was"""
    for job in ("restore", "separate"):
        if host.unfinished(job):
            raise OpsError(
                f"a {job} is under way or was interrupted",
                fix=f"wait for it, or have it undone: hermes-ops {job} --recover",
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


def _pattern(profile: str | None) -> str:
    name = r"[a-z0-9][a-z0-9_-]{0,63}" if profile is None else re.escape(profile)
    return rf"(?P<profile>{name})-(?P<stamp>{_STAMP}){re.escape(SUFFIX)}"


def _free_name(directory: str, profile: str) -> str:
    while True:
        path = os.path.join(directory, f"{profile}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}{SUFFIX}")
        if not os.path.lexists(path):
            return path
        time.sleep(0.1)


def _write(host: Installation, profile: dict[str, Any], out: BinaryIO, work: str, env: str) -> dict[str, Any]:
    home, owner = profile["home"], host.owner_of(profile)
    problems: dict[str, str] = {}
    outside: dict[str, str] = {}
    with acting_as(owner):
        mode = _mode(_status(home))
    with archive.Writer(out, _about(host, profile, env)) as writer:
        writer.directory(archive.HOME, mode)
        for path, status in _walk(home, owner, problems):
            name = f"{archive.HOME}/{path}"
            if path.split("/", 1)[0].startswith(ENV) and env != "include":
                continue
            if stat.S_ISDIR(status.st_mode):
                writer.directory(name, _mode(status))
            elif stat.S_ISLNK(status.st_mode):
                target = _target(home, path, owner)
                if target is not None and archive.stays_inside(path, target):
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
        "schemas": _schemas(profile["home"], host.owner_of(profile)),
        "env": "encrypt" if env.startswith(AGE) else env,
    }


def _schemas(home: str, owner: Owner) -> dict[str, int]:
    """The schema version of each database that says one: as Hermes writes it (state.db), or as SQLite keeps it."""
    found: dict[str, int] = {}
    with acting_as(owner):
        for path in databases(home):
            with (
                contextlib.suppress(*DATABASE_ERRORS),
                contextlib.closing(_read_only(os.path.join(home, path))) as live,
            ):
                named = live.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone()
                query = "SELECT max(version) FROM schema_version" if named else "PRAGMA user_version"
                (version,) = live.execute(query).fetchone()
                if isinstance(version, int):
                    found[path] = version
    return found


def _status(home: str) -> os.stat_result:
    try:
        return os.stat(home)
    except OSError as error:
        raise failure("read", home, error) from None


def _walk(home: str, owner: Owner, problems: dict[str, str]) -> Iterator[tuple[str, os.stat_result]]:
    """All that belongs to a backup of *home*: path relative to it, and status; a directory before what is in it.

    :param problems: takes what cannot be looked at
    """
    todo = [""]
    while todo:
        directory = todo.pop()
        with acting_as(owner):
            try:
                entries = _entries(os.path.join(home, directory), top=not directory)
            except (FileNotFoundError, NotADirectoryError):
                continue  # the running agent removed it meanwhile
            except OSError as error:
                problems[directory or "."] = f"cannot be read ({error.strerror})"
                continue
        below = []
        for name, status in entries:
            path = os.path.join(directory, name)
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                below.append(path)
        todo += reversed(below)


def _entries(directory: str, *, top: bool) -> list[tuple[str, os.stat_result]]:
    names = sorted(os.listdir(directory))
    found: list[tuple[str, os.stat_result]] = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            found.append((name, os.lstat(os.path.join(directory, name))))
    return [(name, status) for name, status in found if not _left_out(directory, name, status, top=top)]


def _left_out(directory: str, name: str, status: os.stat_result, *, top: bool) -> bool:
    if top and (name in LEFT_OUT or name.endswith(LEFT_OUT_SUFFIXES)):
        return True
    if stat.S_ISDIR(status.st_mode):
        return name in LEFT_OUT_ANYWHERE or os.path.lexists(os.path.join(directory, name, CACHE_TAG))
    if not stat.S_ISREG(status.st_mode):
        return not stat.S_ISLNK(status.st_mode)
    # An unfinished file of ours (files.write_atomic), a lock that holds nothing, what belongs to a live database.
    if (name.startswith(".") and name.endswith(".hermes-ops")) or (name.endswith(".lock") and not status.st_size):
        return True
    stem = next((name[: -len(end)] for end in SQLITE_COMPANIONS if name.endswith(end)), None)
    return stem is not None and _is_database_at(os.path.join(directory, stem))


def _target(home: str, path: str, owner: Owner) -> str | None:
    """Where a link leads; one into the home is made relative, so that it does so in any other place, too."""
    with acting_as(owner):
        try:
            target = os.readlink(os.path.join(home, path))
        except OSError:
            return None
    if os.path.isabs(target) and os.path.commonpath([os.path.normpath(target), home]) == home:
        return os.path.relpath(target, os.path.dirname(os.path.join(home, path)))
    return target


def _open(path: str, owner: Owner) -> BinaryIO | None:
    """*path* for reading; None when it is gone, or no longer a regular file."""
    with acting_as(owner):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
    file = os.fdopen(descriptor, "rb")
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return file
    file.close()
    return None


def _add_file(writer: archive.Writer, name: str, path: str, owner: Owner, work: str) -> str | None:
    """Add a file.

    :returns: why what is in the archive is not the file, None when all is well or it vanished meanwhile
    """
    try:
        file = _open(path, owner)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if file is None:
        return None
    with file:
        status = os.fstat(file.fileno())
        if not _is_database(file):
            return _add_plain(writer, name, file, status)
    # Closed by now: a close would take away the locks that SQLite sets.
    copy = os.path.join(work, "database")
    try:
        _copy_database(path, copy, owner)
        with open(copy, "rb") as file:
            return _add_plain(writer, name, file, status)
    except sqlite3.OperationalError as error:
        return f"cannot be copied by SQLite ({error}), so it is not in it"
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        file = _open(path, owner)
        if file is None:
            return None
        with file:
            _add_plain(writer, name, file, os.fstat(file.fileno()))
        return f"is damaged ({error}); it is in it as it lies there"
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)


def _is_database_at(path: str) -> bool:
    try:
        file = _open(path, Owner.current())
    except OSError:
        return False
    if file is None:
        return False
    with file:
        return _is_database(file)


def _is_database(file: BinaryIO) -> bool:
    return os.pread(file.fileno(), len(SQLITE_MAGIC), 0) == SQLITE_MAGIC


def _add_plain(writer: archive.Writer, name: str, file: BinaryIO, status: os.stat_result) -> str | None:
    """:param status: of what it is the content of"""
    before = os.fstat(file.fileno())
    data: BinaryIO = file
    size = before.st_size
    if size <= archive.CHUNK:
        # As a whole: one that gets shorter meanwhile is shorter, not wrong.
        content = file.read(archive.CHUNK)
        data, size = io.BytesIO(content), len(content)
    whole = writer.file(name, data, size, mode=_mode(status), mtime=max(status.st_mtime, 0))
    after = os.fstat(file.fileno())
    # One that grew is as it was when we began.
    rewritten = size > archive.CHUNK and after.st_mtime_ns != before.st_mtime_ns and after.st_size <= before.st_size
    return None if whole and not rewritten else "changed while it was read"


def _seal(writer: archive.Writer, home: str, owner: Owner, recipient: str) -> None:
    file = _open(os.path.join(home, ENV), owner)
    if file is None:
        return
    with file:
        # By standard input: nothing of it is in a list of processes or in a file.
        sealed = run_filter(["age", "--armor", "--recipient", recipient], file.read(), timeout=AGE_TIMEOUT)
    writer.data(archive.SEALED_ENV, sealed)
