# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of users who have no runtime here: of some who are gone, or made by something before this collection."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..agent import removal
from ..host.runtimes import VOLUMES
from ..system.errors import OpsError, as_error
from ..system.files import Account
from ..system.process import run
from . import runtime_copies
from .runtime_copies import ASIDE
from .runtime_host import Host
from .runtime_units import PODMAN, SOCKET, WANTED

# Containers and volumes by the names that users' ones always had.
_CONTAINER = re.compile(r"hermes-user-[\w.-]{1,128}", re.ASCII)
_VOLUME = re.compile(r"hermes-user-[\w.-]{1,128}-data", re.ASCII)
_SECONDS = 120.0


@dataclass(frozen=True)
class Orphan:
    """Something that belongs to no user who has a runtime.

    :param kind: ``container``, ``socket``, ``volume`` (of podman), ``directory`` or ``archive``
    :param name: of the container, unit or volume, or the path of the directory or archive
    :param data: whether it may hold what cannot be made again
    """

    kind: str
    name: str
    data: bool


def find(host: Host) -> list[Orphan]:
    """What belongs to nobody, by kind and name.

    :raises OpsError: podman does not answer
    """
    users = host.users.all()
    containers = {user.container for user in users}
    found = [
        Orphan("container", name, False)
        for name in _named("ps", "--all", "--format", "{{.Names}}")
        if _CONTAINER.fullmatch(name) and name not in containers
    ]
    sockets = {SOCKET.format(user.id) for user in users if not user.off}
    links = map(os.path.basename, glob.glob(os.path.join(WANTED, SOCKET.format("*"))))
    found += [Orphan("socket", name, False) for name in links if name not in sockets]
    # A user's data lie in a directory. Volumes of podman are of whatever ran users' containers before.
    volumes = _named("volume", "ls", "--format", "{{.Name}}")
    found += [Orphan("volume", name, True) for name in volumes if _VOLUME.fullmatch(name)]
    directories = {user.directory(host.data_dir) for user in users}
    there = glob.glob(os.path.join(glob.escape(os.path.join(host.data_dir, VOLUMES)), "*"))
    found += [Orphan("directory", path, True) for path in there if path not in directories]
    known = {user.id for user in users}
    for kind, copies in (("directory", runtime_copies.directories(host)), ("archive", runtime_copies.archives(host))):
        found += [Orphan(kind, path, True) for path, owner in copies.items() if owner not in known]
    return sorted(found, key=lambda each: (each.kind, each.name))


def remove(host: Host, orphans: list[Orphan], *, purge: bool) -> list[Orphan]:
    """Remove *orphans*, but data only if *purge*; nobody gets a runtime meanwhile.

    :returns: those that were left
    """
    removers: dict[str, Callable[[str], object]] = {
        "container": lambda name: run([PODMAN, "rm", "--force", "--time=10", name], timeout=_SECONDS),
        "socket": lambda name: _disable(host, name),
        "volume": lambda name: run([PODMAN, "volume", "rm", name], timeout=_SECONDS),
        "directory": _remove_directory,
        "archive": os.unlink,
    }
    problems: list[str] = []
    with host.users.lock():
        # Somebody may have got a runtime since they were found.
        still = [each for each in find(host) if each in orphans]
        names = {each: _set_aside(host, each) if purge and each.kind == "directory" else each.name for each in still}
    for each, name in names.items():
        try:
            if purge or not each.data:
                removers[each.kind](name)
        except (OpsError, OSError) as error:
            problems.append(str(as_error(error)))
    if problems:
        raise OpsError("; ".join(problems))
    return [each for each in still if each.data and not purge]


def _set_aside(host: Host, orphan: Orphan) -> str:
    """The path from which a directory is removed, which nobody gets any more."""
    is_aside = os.path.basename(orphan.name).startswith(ASIDE)
    return orphan.name if is_aside or os.lstat(orphan.name).st_uid == 0 else runtime_copies.set_aside(host, orphan.name)


def _named(*words: str) -> list[str]:
    return run([PODMAN, *words], timeout=_SECONDS).stdout.split()


def _disable(host: Host, name: str) -> None:
    os.unlink(os.path.join(WANTED, name))
    host.manager.call("stop", name)


def _remove_directory(path: str) -> None:
    """Remove what some user has left, as that user."""
    status = os.lstat(path)
    if status.st_uid == 0:
        raise OpsError("belongs to root, so it is no user's", where=path, fix="look at it, and remove it by hand")
    removal.remove(path, Account(str(status.st_uid), status.st_uid, status.st_gid, path))
