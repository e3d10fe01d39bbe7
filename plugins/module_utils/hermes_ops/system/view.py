# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker sees of the directories of other people: nothing, as in its agent's sandbox.

A gateway's sandbox hides /home, /root, /run/user and the shared /tmp (supervise.units). A worker is no part of that
unit. Without a view of its own, a symbolic link that the agent puts in the place of its ``.env`` would be read with
the eyes of the host, and would carry into the agent's hands what others let everybody read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .errors import OpsError
from .files import open_directory

HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
# What a worker works on is named by an argument, each of a list, and these of a mapping. All else is declarations,
# records and texts, into which the agent may have put any path.
_LEVELS = 2
_NAMES = ("home", "managed_dir")

# From linux/sched.h, linux/mount.h and linux/prctl.h; Python has no names for them before 3.12.
_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 8, 1 << 12, 1 << 14, 1 << 19
# The latter since Linux 5.10; an older one follows links.
_MS_REMOUNT, _MS_NOSYMFOLLOW = 1 << 5, 1 << 8
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
# keyctl(2) by machine, which the C library does not have (asm/unistd.h), and what it is asked for (linux/keyctl.h).
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1
# A root that may not mount anything (in a container without CAP_SYS_ADMIN).
_FORBIDDEN = (errno.EPERM, errno.EACCES)

_libc = ctypes.CDLL(None, use_errno=True)


def hide_others(arguments: Sequence[Any], *, contained: bool) -> None:
    """Give this process a mount namespace of its own in which :data:`HIDDEN` holds nothing but what it works on.

    Where root may not mount, no unit of that host has a sandbox either, and everything stays as it is.

    :param arguments: of the worker; the absolute paths among them, down to :data:`_LEVELS`, stay visible
    :param contained: they are of a container, where a link leads to the container's files, and here to the host's: none
        is followed
    :raises OSError: the namespace could not be made for another reason
    """
    hidden = sorted({os.path.realpath(path) for path in HIDDEN if os.path.isdir(path)})
    try:
        _call("unshare", ctypes.c_int(_CLONE_NEWNS))
        # Nothing that is mounted here reaches the host; what the host unmounts goes here, too.
        _mount(b"none", b"/", None, _MS_REC | _MS_SLAVE)
        with contextlib.ExitStack() as stack:
            # Opened in this namespace: one of the host's directories could not be bound here.
            found = [stack.enter_context(_opened(path, hidden)) for path in _told(arguments, hidden)]
            # Under the names that it was told, which may lead through links of the operator's.
            own = {path: number for path, number in found if number is not None}
            for path in hidden:
                _mount(b"tmpfs", os.fsencode(path), b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, b"mode=0755,size=1m")
            for path, number in own.items():
                # One inside of another is there with it: nothing is made where an agent can put a link.
                if not _is_below(path, own):
                    _make(path)
                    _mount(f"/proc/self/fd/{number}".encode(), os.fsencode(path), None, _MS_BIND | _MS_REC)
        for place in {_theirs(path) for path in _texts(arguments)} - {None} if contained else ():
            _follow_no_links(os.fsencode(place))
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise


def _theirs(path: str) -> str | None:
    """The outermost directory on the way to *path* that is not root's, so that nobody else has made a link before it.

    None: there is none.
    """
    place = ""
    for name in os.path.normpath(path).split(os.sep)[1:] if os.path.isabs(path) else ():
        place = f"{place}/{name}"
        try:
            status = os.stat(place)
        except (OSError, ValueError):
            return None
        if status.st_uid != 0:
            return place if stat.S_ISDIR(status.st_mode) else None
    return None


def _follow_no_links(place: bytes) -> None:
    _mount(place, place, None, _MS_BIND | _MS_REC)
    flags = _MS_NOSYMFOLLOW | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | os.statvfs(place).f_flag & os.ST_RDONLY
    _mount(b"none", place, None, _MS_REMOUNT | _MS_BIND | flags)


def end_with(caller: int) -> None:
    """Have the kernel kill this process when *caller*, its parent, ends. A change of user undoes that.

    The agent may stop its worker (SIGSTOP), which delays every timer of the worker's own, but not this.

    :param caller: process ID
    """
    _call("prctl", ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != caller:
        os._exit(1)


def forbid_tracing() -> None:
    """Keep this process's own user from tracing it. A change of user does the same, unless fs.suid_dumpable is 1."""
    _call("prctl", ctypes.c_int(_PR_SET_DUMPABLE), ctypes.c_ulong(0))


def leave_keyring() -> None:
    """Give this process an empty session keyring of its own.

    A change of user keeps the one before, with keys of the operator's login: an agent that traces the process could
    read them. Called before that change, because the agent can use up the number of keys that its user may have.

    :raises OSError: that is not possible, and the one before stays
    """
    number = _KEYCTL.get(os.uname().machine) if sys.maxsize > 2**32 else None
    if number is None or _libc.syscall(number, ctypes.c_int(_KEYCTL_JOIN_SESSION_KEYRING), None) != -1:
        return
    # In a container that forbids it, nobody can read a key either.
    if ctypes.get_errno() not in (errno.ENOSYS, *_FORBIDDEN):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _told(arguments: Sequence[Any], hidden: Sequence[str]) -> Iterator[str]:
    """The directories in *arguments* that would be hidden, each below one of *hidden*."""
    for path in map(os.path.normpath, _texts(arguments)):
        for directory in HIDDEN:
            # A host may have /home elsewhere, and call its directories by both names.
            if path.startswith(f"{directory}/"):
                path = os.path.realpath(directory) + path[len(directory) :]
                break
        if _is_below(path, hidden) and "\0" not in path:
            yield path


def _texts(value: Any, levels: int = _LEVELS) -> Iterator[str]:
    """The texts in *value* that may be paths to work on."""
    if isinstance(value, str):
        yield value
    elif levels and isinstance(value, (list, tuple, dict)):
        for each in map(value.get, _NAMES) if isinstance(value, dict) else value:
            yield from _texts(each, levels - 1)


@contextlib.contextmanager
def _opened(path: str, hidden: Sequence[str]) -> Iterator[tuple[str, int | None]]:
    """The directory *path*, or the nearest above it that is there; None: that is no longer below one of *hidden*."""
    number = None
    while _is_below(path, hidden):
        with contextlib.suppress(OpsError):
            number = open_directory(path)
            break
        path = os.path.dirname(path)
    try:
        yield path, number
    finally:
        if number is not None:
            os.close(number)


def _make(path: str) -> None:
    """Make the directory *path*, and those above it, open to everybody whatever the umask is."""
    if not os.path.isdir(path):
        _make(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)


def _is_below(path: str, directories: Iterable[str]) -> bool:
    return any(path.startswith(f"{directory}/") for directory in directories)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    _call("mount", source, target, kind, ctypes.c_ulong(flags), options)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
