# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""With whose rights a log is rotated: of the first on its way who could have put a link there."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Collection

from ..system.errors import OpsError

# As many symbolic links as Linux follows on one way (path_resolution(7)).
_LINKS = 40


def first_of_others(path: str) -> tuple[str, int]:
    """The first directory on the way to the file *path* that is not root's, or the last one, and its owner's uid."""
    directory, here, uid, links = "/", "/", 0, 0
    ahead = os.path.dirname(re.split(r"[*?\[]", path)[0]).split("/")
    # What lies in another user's directory may be a link of that user's: nobody follows it.
    while ahead and uid == 0:
        here = os.path.normpath(os.path.join(directory, ahead.pop(0)))
        try:
            status = os.lstat(here)
            target = os.readlink(here) if stat.S_ISLNK(status.st_mode) and links < _LINKS else None
        except OSError:
            break
        uid = status.st_uid
        if target is None:
            directory = here
        else:
            links += 1
            ahead = ["/" if target.startswith("/") else ".", *target.split("/"), *ahead]
    return here, uid


def owner_of_directory(path: str, groups: Collection[str]) -> pwd.struct_passwd:
    """The user with whose rights *path* is rotated: whose the first directory on its way is that is not root's.

    :param groups: of the agents
    :raises OpsError: it is root's, but somebody else may write there; or it is nobody's
    """
    here, uid = first_of_others(path)
    if uid == 0 and _is_open(here, groups):
        raise OpsError(
            f"lies in {here}, a directory of root's in which an agent may put links for root to follow",
            where=path,
            fix="give the directory to the user that writes the log, or take the right to write from others",
        )
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise OpsError(
            f"lies in {here}, which belongs to nobody (uid {uid})", where=path, fix="give the directory an owner"
        ) from None


def _is_open(directory: str, groups: Collection[str]) -> bool:
    try:
        status = os.stat(directory)
        of_agents = status.st_mode & 0o020 and grp.getgrgid(status.st_gid).gr_name in groups
    except (OSError, KeyError):
        return False
    return bool(status.st_mode & 0o002 or of_agents)
