# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchanges the content of a home for that of a backup, and back. Runs in workers, as the agent's user.

Everything is a rename inside the home. The directories that exist show how far the exchange has come, so it can be
killed at any point and undone::

    .hermes-ops-restore-<time>.reserve  space for going back
    .hermes-ops-restore-<time>/         the content of the backup
    .hermes-ops-setting-aside-<time>/   receives the old content of the home
    .hermes-ops-set-aside-<time>/       holds all of the old content; the content of the backup takes its place
    .hermes-ops-going-back-<time>/      the old content, which returns from here into the home
    .hermes-ops-undone-<time>/          what stood in its way: from the backup, the agent that ran on it, or others

The agent learns these names while its gateway runs, and may take them or change what they stand for. What is in the way
then becomes ``.hermes-ops-in-the-way``; it must not keep a restore from being undone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager

from ..system import trees
from ..system.errors import OpsError
from ..system.files import allocate, changing, failure
from . import meanwhile, selection
from .selection import OURS, STAGING

_SETTING_ASIDE = f"{OURS}setting-aside-"
SET_ASIDE = f"{OURS}set-aside-"
_GOING_BACK = f"{OURS}going-back-"
UNDONE = f"{OURS}undone-"
_IN_THE_WAY = f"{OURS}in-the-way"


def reserve(home: str, stamp: str, size: int) -> None:
    """Allocate *size* bytes in *home*: the space that going back needs.

    :func:`put_back` and :func:`remove_staging` release it.
    The agent's user does this: part of a disk is for root only, and reserving that would not help the agent.

    :raises OpsError: the disk has none
    """
    allocate(os.path.join(home, _reserve(stamp)), size)


def _reserve(stamp: str) -> str:
    return f"{STAGING}{stamp}.reserve"


def exchange(home: str, stamp: str, keep_env: bool) -> None:
    """Set the content of *home* aside, and move the extracted content in.

    :param stamp: the time of this restore, in the names of its directories
    :param keep_env: ``.env`` and its copies stay, because the backup has none
    :raises OpsError: another process creates files in the home meanwhile, or the home cannot be changed
    """
    with _opened(home) as top, _opened(home, STAGING + stamp) as staging:
        # None of these is ours yet.
        for prefix in (_SETTING_ASIDE, SET_ASIDE, _GOING_BACK, UNDONE):
            _out_of_the_way(prefix + stamp, top)
        with _made(home, _SETTING_ASIDE + stamp) as aside:
            for name in selection.replaced(os.listdir(top), keep_env=keep_env):
                _move(name, top, name, aside)
            os.fsync(aside)
        os.fsync(top)
        os.rename(_SETTING_ASIDE + stamp, SET_ASIDE + stamp, src_dir_fd=top, dst_dir_fd=top)
        for name in sorted(os.listdir(staging)):
            if _exists(name, top):
                raise OpsError(
                    f"{name!r} cannot be replaced: it is a mount point, not the agent's, or created again meanwhile",
                    where=home,
                    fix="see which processes work there besides the gateway (fuser -v), and who owns it",
                )
            _move(name, staging, name, top)
        os.fsync(top)


def keep_messages(home: str, stamp: str, since: float, question: str) -> None:
    """:func:`meanwhile.save`, beside what :func:`put_back` takes out of the home. Can be killed and repeated.

    For a worker of its own: a hostile database may end it, and must not keep the home from being put back.
    """
    with _usable(home, stamp) as top:
        if _exists(SET_ASIDE + stamp, top):
            with _made(home, UNDONE + stamp) as undone:
                meanwhile.save(home, since, question, undone)


def put_back(home: str, stamp: str, keep_env: bool) -> tuple[bool, int]:
    """Undo :func:`exchange`, wherever it was killed. Can be killed at any point and repeated.

    :returns: whether something had to leave the home for this, which is in ``.hermes-ops-undone-<time>`` now; and how
        many messages :func:`keep_messages` found
    """
    back = _GOING_BACK + stamp
    with _usable(home, stamp) as top, _made(home, UNDONE + stamp) as undone:
        if _exists(SET_ASIDE + stamp, top):
            # All of the old content is set aside, so everything in the home came later. A name that is still in the
            # staging directory did not come from the backup: it is somebody else's, and stays.
            ready = set(_names(top, STAGING + stamp))
            for name in selection.replaced(os.listdir(top), keep_env=keep_env):
                if name not in ready:
                    _move(name, top, _free(name, undone), undone)
            os.fsync(undone)
            os.rename(SET_ASIDE + stamp, back, src_dir_fd=top, dst_dir_fd=top)
        elif _exists(_SETTING_ASIDE + stamp, top):
            os.rename(_SETTING_ASIDE + stamp, back, src_dir_fd=top, dst_dir_fd=top)
        if _exists(back, top):
            with _opened(home, back) as aside:
                for name in sorted(os.listdir(aside)):
                    if _exists(name, top):
                        _move(name, top, _free(name, undone), undone)
                    _move(name, aside, name, top)
            os.fsync(top)
            os.rmdir(back, dir_fd=top)
        left, came = bool(os.listdir(undone)), meanwhile.saved(undone)
    if not left:
        os.rmdir(os.path.join(home, UNDONE + stamp))
    return left, came


def remove_staging(home: str) -> list[str]:
    """Remove staging directories and reserves in *home*; returns an error for each that could not be removed."""
    failed = []
    for name in os.listdir(home):
        if name.startswith(STAGING):
            try:
                trees.remove(os.path.join(home, name))
            except (OpsError, OSError) as error:
                failed.append(str(error))
    return failed[:10]


def _opened(home: str, name: str = "") -> AbstractContextManager[int]:
    path = os.path.join(home, name) if name else home
    try:
        # The operator may have made the home itself a link.
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if name else 0))
    except OSError as error:
        raise failure("opened", path, error) from None
    return changing(descriptor, path)


@contextlib.contextmanager
def _usable(home: str, stamp: str) -> Iterator[int]:
    """*home*, opened, after everything in it that an undo relies on was made usable again."""
    with contextlib.suppress(OSError):
        os.chmod(home, stat.S_IMODE(os.stat(home).st_mode) | 0o700)
    with _opened(home) as top:
        with contextlib.suppress(OSError):
            os.unlink(_reserve(stamp), dir_fd=top)
        for prefix in (STAGING, _SETTING_ASIDE, SET_ASIDE, _GOING_BACK, UNDONE):
            name = prefix + stamp
            if not _exists(name, top):
                continue
            if stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
                with contextlib.suppress(PermissionError):
                    os.chmod(name, 0o700, dir_fd=top)
            else:
                _out_of_the_way(name, top)
        if _exists(SET_ASIDE + stamp, top) or _exists(_SETTING_ASIDE + stamp, top):
            # The old content is still there: nothing has begun to return.
            _out_of_the_way(_GOING_BACK + stamp, top)
        yield top


def _out_of_the_way(name: str, top: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.rename(name, _free(_IN_THE_WAY, top), src_dir_fd=top, dst_dir_fd=top)


@contextlib.contextmanager
def _made(home: str, name: str) -> Iterator[int]:
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.join(home, name), 0o700)
    with _opened(home, name) as descriptor:
        yield descriptor


def _move(name: str, source: int, new: str, target: int) -> None:
    """Move an entry. A mount point stays in place, and so does a directory that is not the agent's."""
    status = os.lstat(name, dir_fd=source)
    closed = stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_IWUSR
    if closed and status.st_uid == os.geteuid():
        # A directory without write permission cannot be moved.
        os.chmod(name, stat.S_IMODE(status.st_mode) | stat.S_IWUSR, dir_fd=source)
    try:
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
    except OSError as error:
        if error.errno == errno.EBUSY or (error.errno == errno.EACCES and status.st_uid != os.geteuid()):
            return
        raise
    if closed:
        os.chmod(new, stat.S_IMODE(status.st_mode), dir_fd=target)


def _names(directory: int, name: str) -> list[str]:
    """The names in the directory *name*; none when it does not exist."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return []
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def _exists(name: str, directory: int) -> bool:
    try:
        os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def _free(name: str, directory: int) -> str:
    """A name like *name* that is not in *directory*."""
    number, free = 1, name
    while _exists(free, directory):
        number += 1
        free = f"{name[:200]}.{number}"
    return free
