# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copies of users' data on this host beside their volumes: archives, and homes that were set aside or unpacked.

::

    <ops_dir>/backups/user-<id>-<time>.tar.gz      an archive, also one that was never finished
    <ops_dir>/set-aside/user-<id>-<time>/          what a restore or a move replaced
    <data_dir>/scratch/<job>.user-<id>.<random>/   what a rehearsal that was killed has left
"""

from __future__ import annotations

import os
import re
import time

from ..host.runtimes import VOLUMES
from ..system.files import failure
from .runtime_host import Host

# How the directory of data is called that are being removed.
ASIDE = "purged-"
# The names of hosts' own agents have no capital letters and no dots, so none of them is taken for a user's.
_ARCHIVE = re.compile(r"user-([0-9a-f]{32})-\d{8}T\d{6}Z\.tar\.gz(\.partial)?")
_SET_ASIDE = re.compile(r"user-([0-9a-f]{32})-\d{8}T\d{6}Z(-undone)?")
_SCRATCH = re.compile(r"[a-z]+\.user-([0-9a-f]{32})\..+")


def archives(host: Host) -> dict[str, str]:
    """Path of each archive -> :attr:`User.id`."""
    return _named(os.path.join(host.ops_dir, "backups"), _ARCHIVE)


def directories(host: Host) -> dict[str, str]:
    """Path of each home that was set aside or unpacked -> :attr:`User.id`."""
    return {
        **_named(os.path.join(host.ops_dir, "set-aside"), _SET_ASIDE),
        **_named(os.path.join(host.data_dir, "scratch"), _SCRATCH),
    }


def set_aside(host: Host, path: str) -> str:
    """Move the directory *path*, which is to be removed, to where its user can remove it and nobody gets it any more.

    :returns: its new path; if this process is killed, it is an orphan there
    """
    aside = os.path.join(host.data_dir, VOLUMES, f"{ASIDE}{os.path.basename(path)}-{time.time_ns()}")
    try:
        os.rename(path, aside)
    except OSError as error:
        raise failure("moved", path, error) from None
    return aside


def purge(host: Host, identity: str) -> list[str]:
    """Remove the archives of the user *identity*, and set their homes aside; returns the new paths."""
    for path in _of(archives(host), identity):
        os.unlink(path)
    left = []
    for path in _of(directories(host), identity):
        try:
            # A rehearsal that was killed early leaves an empty directory, which is still root's.
            os.rmdir(path)
        except OSError:
            left.append(set_aside(host, path))
    return left


def _of(found: dict[str, str], identity: str) -> list[str]:
    return [path for path, owner in found.items() if owner == identity]


def _named(directory: str, pattern: re.Pattern[str]) -> dict[str, str]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return {}
    matches = {os.path.join(directory, name): pattern.fullmatch(name) for name in names}
    return {path: match[1] for path, match in matches.items() if match}
