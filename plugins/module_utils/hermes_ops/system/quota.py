# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a user may store on a file system: the kernel's user quotas, on ext4 and xfs alike.

The kernel itself is asked (quotactl_fd(2), since Linux 5.14). The programs of Debian's package quota do no more, and it
brings a server for other hosts, a daily mail to users, and scripts at boot.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass

from .errors import OpsError

# The number of the system call, on all architectures (include/uapi/asm-generic/unistd.h). The C library lacks it.
_QUOTACTL_FD = 443
# include/uapi/linux/quota.h and dqblk_xfs.h: a command above the kind of quota, which is 0 for users.
_GET, _SET, _STATE = (command << 8 for command in (0x800007, 0x800008, (ord("X") << 8) + 5))
# struct if_dqblk: the most space (in KiB), hard and soft; bytes in use; the same for files; two times; what is set.
_LIMITS = struct.Struct("=8QI4x")
_SPACE_UNIT = 1024
# QIF_BLIMITS and QIF_ILIMITS.
_LIMITS_ONLY = 1 | 4
# struct fs_quota_stat, up to its flags; FS_QUOTA_UDQ_ENFD.
_FLAGS, _STATE_SIZE = struct.Struct("=bxH"), 80
_USERS_LIMITED = 2

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Limits:
    """The most that a user may store; 0: no limit.

    :param space: bytes, of which the kernel counts whole KiB
    :param files: files, directories and links
    """

    space: int = 0
    files: int = 0


@dataclass(frozen=True)
class Usage:
    """What a user stores, in bytes and files, and may store."""

    space: int
    files: int
    limits: Limits

    @property
    def percent(self) -> int:
        """The share of the limit that is in use, of that which is nearer; 0: there is no limit."""
        shares = [
            100 * used // limit
            for used, limit in ((self.space, self.limits.space), (self.files, self.limits.files))
            if limit
        ]
        return max(shares, default=0)


def in_force(path: str) -> bool:
    """Whether the file system of the directory *path* holds users to their limits."""
    answer = ctypes.create_string_buffer(_STATE_SIZE)
    try:
        _call(path, _STATE, 0, answer)
    except OSError:
        # It has no quotas, or the kernel none, or none of the kernel's for this kind of file system.
        return False
    _version, flags = _FLAGS.unpack_from(answer)
    return bool(flags & _USERS_LIMITED)


def read(path: str, uid: int) -> Usage:
    """What the user *uid* stores on the file system of the directory *path*, whose quotas are in force.

    :raises OpsError: the kernel does not say
    """
    answer = ctypes.create_string_buffer(_LIMITS.size)
    try:
        _call(path, _GET, uid, answer)
    except OSError as error:
        # xfs knows no user who has neither files nor limits.
        if error.errno != errno.ENOENT:
            raise _failed(path, uid, error) from None
    most_space, _soft, space, most_files, _soft, files, *_times, _valid = _LIMITS.unpack(answer)
    return Usage(space, files, Limits(most_space * _SPACE_UNIT, most_files))


def write(path: str, uid: int, limits: Limits) -> None:
    """Hold the user *uid* to *limits*, from now on.

    Files beyond them stay, and can still be removed.

    :raises OpsError: the kernel refuses
    """
    record = _LIMITS.pack(limits.space // _SPACE_UNIT, 0, 0, limits.files, 0, 0, 0, 0, _LIMITS_ONLY)
    try:
        _call(path, _SET, uid, ctypes.create_string_buffer(record, _LIMITS.size))
    except OSError as error:
        raise _failed(path, uid, error) from None


def _call(path: str, command: int, uid: int, data: ctypes.Array[ctypes.c_char]) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        number = ctypes.c_long(_QUOTACTL_FD)
        if _libc.syscall(number, ctypes.c_uint(descriptor), ctypes.c_uint(command), ctypes.c_uint(uid), data) == -1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def _failed(path: str, uid: int, error: OSError) -> OpsError:
    what = f"the quota of user id {uid} cannot be read or set ({error.strerror})"
    return OpsError(what, where=path, fix="see the kernel's log: dmesg")
