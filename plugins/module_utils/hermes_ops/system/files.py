# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are never half written, and directories nobody can swap under us."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import pwd
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import OpsError, Refused


@dataclass(frozen=True)
class Account:
    """A UNIX user as this host knows it: its name, its id, the id of its primary group, its home."""

    name: str
    uid: int
    gid: int
    home: str

    @classmethod
    def named(cls, name: str) -> Account:
        """Look *name* up in the host's user database.

        :raises OpsError: when there is no such user
        """
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise OpsError(
                f"there is no user {name!r} on this host",
                fix="run the role base, or create the user",
            ) from None
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)

    @classmethod
    def of(cls, user: str) -> Account:
        """The user of an agent: a name, or the number of a container's user, who has none.

        No name consists of digits (schema.USER_NAME).

        :raises OpsError: there is no user of this name
        """
        return cls(user, int(user), int(user), "/") if user.isdecimal() else cls.named(user)

    @classmethod
    def current(cls) -> Account:
        uid = os.geteuid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            # The platform chose the id of a container's processes. It has no name there.
            return cls(str(uid), uid, os.getegid(), os.environ.get("HOME", "/"))
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


@contextlib.contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """Touch files with *account*'s rights while root.

    A home belongs to its agent, and the agent may put a symbolic link anywhere in it: root must not
    follow it. No effect when we already are that user.
    """
    if os.geteuid() == account.uid:
        yield
        return
    if os.geteuid() != 0:
        raise OpsError(f"cannot act as {account.name!r} without being root", fix="run as root (become: true)")
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        try:
            os.setgroups([account.gid])
            os.setegid(account.gid)
            os.seteuid(account.uid)
            yield
        finally:
            # A handler that raises in the middle of what follows would leave us half somebody else.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def read_bytes(path: str, limit: int = -1) -> bytes | None:
    """The content of *path*, or None when there is no such file.

    :param limit: so many bytes at most; negative: all
    :raises OpsError: when it cannot be read, or is not a regular file
    """
    try:
        # A pipe in its place must not make us wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            # Nor is one of /proc, which tells about the processes of others: reached by a link of an agent's only.
            if not stat.S_ISREG(status.st_mode) or status.st_dev == os.stat("/proc").st_dev:
                raise OpsError("is not a regular file", where=path, fix="move it away")
            return stream.read(limit)
    except FileNotFoundError:
        if os.path.islink(path):
            # Taken for no file, it would be replaced by one.
            raise OpsError(
                "is a symbolic link to nothing, or to what its agent may not see",
                where=path,
                fix="replace the symbolic link by what it stands for",
            ) from None
        return None
    except OSError as error:
        raise failure("read", path, error) from None


# What to do about an error of the operating system.
_FIXES = {
    errno.EACCES: "give its directory the right owner and mode",
    errno.EBUSY: "unmount what is mounted there",
    errno.EDQUOT: "free space",
    errno.EISDIR: "move it away",
    errno.ELOOP: "replace the symbolic link by what it stands for",
    errno.ENOENT: "make its directory",
    errno.ENOSPC: "free space",
    errno.EPERM: "give its directory the right owner and mode",
    errno.EROFS: "mount the file system writable",
}


def failure(verb: str, path: str, error: OSError) -> OpsError:
    """What the operating system says of *path*, as an error with its fix.

    :param verb: what cannot be done with it, e.g. ``written``
    """
    return OpsError(
        f"cannot be {verb} ({error.strerror})",
        where=path,
        fix=_FIXES.get(error.errno or 0, "see the kernel's log: dmesg"),
    )


def read_text(path: str, largest: int | None = None) -> str | None:
    """Like :func:`read_bytes`, decoded as UTF-8.

    :param largest: bytes; None: any size
    :raises OpsError: when it is larger, or is not UTF-8; says which line
    """
    data = read_bytes(path, -1 if largest is None else largest + 1)
    if data is None:
        return None
    if largest is not None and len(data) > largest:
        raise OpsError(f"is larger than {largest} bytes", where=path, fix="move it away; it was left as it is")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OpsError(
            "is not UTF-8 text", where=f"{path}:{line}", fix="save it as UTF-8; it was left as it is"
        ) from None


def read_json(path: str, largest: int | None = None) -> Any | None:
    """The JSON value in *path*, or None when there is no such file.

    :param largest: bytes; None: any size
    :raises OpsError: when it is larger, or is not JSON; says which line
    """
    text = read_text(path, largest)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", error)
        raise OpsError(
            f"is not JSON ({reason})",
            where=f"{path}:{line}",
            fix="repair or remove it; it was left as it is",
        ) from None


# Ends the name of a file that is being written.
_UNFINISHED = ".hermes-ops"


def write_atomic(path: str, data: bytes | str, *, mode: int) -> None:
    """Replace *path* by *data*, or leave it exactly as it was.

    The new content and its mode are complete and on disk before the name is switched; a symbolic link at *path*
    is replaced, not followed.

    :param mode: permission bits, e.g. ``0o600``
    :raises OpsError: when the disk is full, read-only, or the directory is missing
    """
    if isinstance(data, str):
        data = data.encode("utf-8")
    directory, name = os.path.split(path)
    temporary = None
    try:
        _sweep(directory, name)
        descriptor, temporary = _new_file(directory, name)
        with os.fdopen(descriptor, "wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        temporary = None
        sync_directory(directory)
    except OSError as error:
        raise failure("written", path, error) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _new_file(directory: str, name: str) -> tuple[int, str]:
    """A new file for the content of *name*, open for writing, and its path. Nobody can have put a file there before."""
    # The module tempfile would take each process and each worker some milliseconds to import.
    path = os.path.join(directory, f".{name}.{os.urandom(8).hex()}{_UNFINISHED}")
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), path


def _sweep(directory: str, name: str) -> None:
    """Remove what a writer of *name* left that was killed; it may hold secrets. A living one locks its file."""
    for path in glob.glob(os.path.join(glob.escape(directory), f".{glob.escape(name)}.*{_UNFINISHED}")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(descriptor)


def mount_of(descriptor: int) -> int:
    """The number of the mount that an open file lies on; a bind mount has its own, unlike its ``st_dev``."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb", buffering=0) as stream:
        return next(int(line.split()[1]) for line in stream.read().splitlines() if line.startswith(b"mnt_id:"))


def write_json(path: str, value: Any, *, mode: int = 0o600) -> None:
    """Write *value* as indented JSON with :func:`write_atomic`; unless *mode* says more, for our eyes only.

    ASCII only: what others wrote may be text that no encoding has.
    """
    write_atomic(path, json.dumps(value, indent=2) + "\n", mode=mode)


def allocate(path: str, size: int) -> None:
    """Make the file *path*, of *size* bytes that nothing else on that disk can use until it is removed.

    :raises OpsError: the disk has no such space, or something is there already; then nothing is left
    """
    made = False
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        made = True
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        if made:
            os.unlink(path)
        raise failure("written", path, error) from None


def sync_directory(path: str) -> None:
    """Make renames and removals in *path* survive a power cut."""
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tree(directory: str, files: Mapping[str, bytes]) -> None:
    """Write new *files* below *directory*, readable by all whatever our umask is; nothing is synced.

    :param files: content, by path below *directory*
    :raises OSError: one of them is there already, or cannot be written
    """
    for name, data in files.items():
        path = os.path.join(directory, name)
        ensure_directory(os.path.dirname(path), mode=0o755)
        with open(path, "xb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), 0o644)


def ensure_directory(path: str, *, mode: int) -> bool:
    """Make *path* a directory with *mode*; parents are made like it. True when anything changed.

    :raises OpsError: when something else stands there
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            ensure_directory(parent, mode=mode)
        try:
            os.mkdir(path, mode)
            # Whatever our umask took away.
            os.chmod(path, mode)
        except OSError as error:
            raise failure("made", path, error) from None
        return True
    if not stat.S_ISDIR(status.st_mode):
        raise OpsError("is not a directory", where=path, fix="move it away")
    if stat.S_IMODE(status.st_mode) == mode:
        return False
    os.chmod(path, mode)
    return True


def check_trusted(path: str, fix: str) -> None:
    """Make sure that nobody but root can put something else in the place of the directory *path*.

    For what root writes: every directory on the way is root's, and where others may write the sticky bit keeps them
    from renaming what is not theirs. Nothing is checked where we are not root.

    :raises OpsError: with *fix*, when somebody could
    """
    if os.geteuid() != 0:
        return
    directory, below = path, True
    while True:
        try:
            status = os.lstat(directory)
        except FileNotFoundError:
            status = None
        if status is not None:
            open_to_others = status.st_mode & 0o022 and (below or not status.st_mode & stat.S_ISVTX)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or open_to_others:
                raise OpsError(
                    f"cannot be trusted: {directory} is not a directory that only root can change",
                    where=path,
                    fix=fix,
                )
        if directory == os.sep:
            return
        directory, below = os.path.dirname(directory), False


def check_own(path: str, *, secret: bool = False) -> str:
    """*path*, if it is a file and nobody but root can put something else there.

    :param secret: nobody but its owner may read it either
    :raises OpsError: somebody can, or there is no such file
    """
    real = os.path.realpath(path)
    fix = "give the file and all directories above it to root, writable by root only"
    try:
        status = os.stat(real)
    except OSError as error:
        raise OpsError(f"cannot be read ({error.strerror})", where=path, fix="put it there, as root's") from None
    if not stat.S_ISREG(status.st_mode):
        raise OpsError("is not a regular file", where=path, fix="name a file")
    # The way to it, and where it leads.
    for each in (os.path.dirname(path), os.path.dirname(real)):
        check_trusted(os.path.realpath(each), fix)
    if os.geteuid() == 0 and (status.st_uid != 0 or status.st_mode & 0o022):
        raise OpsError("can be changed by somebody other than root", where=path, fix=fix)
    if secret and status.st_mode & 0o077:
        raise OpsError("can be read by others", where=path, fix=f"chmod 600 {path}")
    return path


def open_directory(path: str) -> int:
    """A descriptor of the directory *path*, reached through no link that anybody but root could have made.

    For what root has to do in a place where somebody else may rename things.

    :raises OpsError: when there is such a link on the way, or no directory at the end
    """
    _root, *names = os.path.normpath(path).split(os.sep)
    descriptor = os.open(os.sep, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in filter(None, names):
            status = os.fstat(descriptor)
            # In a directory that only root can write to, a link is the operator's own.
            trusted = status.st_uid == 0 and not stat.S_IMODE(status.st_mode) & 0o022
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if trusted else os.O_NOFOLLOW)
            below = os.open(name, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OpsError(
                f"is reached through {name!r}, which is no directory or a symbolic link that root did not make",
                where=path,
                fix="declare the real path (home of the agent, hermes_data_dir)",
            ) from None
        raise failure("opened", path, error) from None
    return descriptor


def take_directory(name: str, source: int, new: str, target: int) -> bool:
    """Move the directory *name* from the directory *source*, of an agent, to *new* in *target*, which is root's.

    The agent may put something else in its place meanwhile. A link must not come to where it would be taken for the
    operator's own (:func:`open_directory`), so what turns out to be no directory is removed.

    :returns: whether it was a directory
    """
    if not stat.S_ISDIR(os.lstat(name, dir_fd=source).st_mode):
        return False
    os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
    if not stat.S_ISDIR(os.lstat(new, dir_fd=target).st_mode):
        os.unlink(new, dir_fd=target)
        return False
    os.fsync(target)
    return True


@contextlib.contextmanager
def changing(descriptor: int, path: str) -> Iterator[int]:
    """Close *descriptor*, of the directory *path*, afterwards; what the system refuses in it is an error of ours."""
    try:
        yield descriptor
    except OSError as error:
        raise failure("changed", path, error) from None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock(path: str, *, timeout: float = 60.0) -> Iterator[int]:
    """Hold an exclusive lock on *path* (made when missing, mode 0600), released with the process at the latest.

    Yields the descriptor: a child that inherits it (``run(…, pass_fds=…)``) keeps the lock when we are killed.

    :param timeout: seconds to wait for another holder
    :raises Refused: somebody else still holds it after *timeout*
    :raises OpsError: it cannot be made
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise failure("written", path, error) from None
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Refused(
                        f"is held by another process for more than {timeout:g} s",
                        where=path,
                        fix="wait for it, or see who holds it: fuser -v " + path,
                    ) from None
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)
