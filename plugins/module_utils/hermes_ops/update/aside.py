# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds what updates, restores and separations have set aside: where it is, how large, and since when.

Agents made most of it, so root only lists directories that nobody else can change. Workers measure all others, as the
users who own them.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator
from typing import Any

from ..backup.exchange import SET_ASIDE, UNDONE
from ..description.agent import Agent
from ..host.installation import Installation
from ..host.records import check_ops
from ..system import walk
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.worker import Limits, work
from .data import Data
from .frozen import numbered

# Seconds for measuring everything, and one directory of an agent's.
SECONDS = 10.0
_SECONDS_EACH = 3.0
# Levels of root's own directories: set-aside/update-<time>/before-the-switch/<agent>.
_DEPTH = 3
_STAMP = re.compile(r"\d{8}T\d{6}Z")
# What a restore leaves in a home that is on another disk. Most of these that an agent is believed to have.
_IN_HOME = re.compile(f"({re.escape(SET_ASIDE)}|{re.escape(UNDONE)})({_STAMP.pattern})")
_MOST = 100


def found(host: Installation) -> list[dict[str, Any]]:
    """What is set aside, the newest first.

    :returns: mappings: ``path``; ``since`` (seconds since 1970); ``bytes`` (on the disk) and ``complete`` (whether they
        are all; otherwise there are more); ``use`` (what it is still needed for; empty: for nothing but to be read)
    """
    deadline = time.monotonic() + SECONDS
    items: list[dict[str, Any]] = []
    uses: dict[str, str] = {}
    with contextlib.suppress(OpsError):
        check_ops(host.ops_dir)
        # A damaged record of updates hides their copies, and nothing else.
        with contextlib.suppress(OpsError):
            uses = Data(host).uses()
        for path in [*_entries(os.path.join(host.ops_dir, "set-aside")), *uses]:
            # Gone meanwhile, for example.
            with contextlib.suppress(OSError):
                size, complete = _measure(path, deadline, _DEPTH)
                since = _since(os.path.basename(path)) or os.lstat(path).st_ctime
                items.append(_item(path, since, size, complete, uses.get(path, "")))
        for agent in host.agents:
            items += _of_home(host, agent, deadline)
    return sorted(items, key=lambda item: item["since"], reverse=True)


def _of_home(host: Installation, agent: Agent, deadline: float) -> list[dict[str, Any]]:
    seconds = min(_SECONDS_EACH, deadline - time.monotonic())
    answer: Any = []
    with contextlib.suppress(OpsError):
        if seconds > 0:
            account, limits = host.account_of(agent), Limits(seconds=seconds + 1.0)
            answer = work(account, "update.aside:in_home", agent.home, seconds, limits=limits, where=agent.home)
    if not fits(answer, [(str, int, object)]):
        return []
    return [
        _item(os.path.join(agent.home, name), since, size, complete is True, "")
        for name, size, complete in answer[:_MOST]
        if _IN_HOME.fullmatch(name) and size >= 0 and (since := _since(name)) is not None
    ]


def _item(path: str, since: float, size: int, complete: bool, use: str) -> dict[str, Any]:
    return {"path": path, "since": since, "bytes": size, "complete": complete, "use": use}


def in_home(home: str, seconds: float) -> list[tuple[str, int, bool]]:
    """What restores left in *home*: name, bytes, and whether these are all. Runs in workers."""
    deadline = time.monotonic() + seconds
    found = []
    for name in sorted(filter(_IN_HOME.fullmatch, os.listdir(home)))[:_MOST]:
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(os.path.join(home, name), flags)
            try:
                found.append((name, *walk.size(descriptor, deadline - time.monotonic())))
            finally:
                os.close(descriptor)
    return found


def _entries(directory: str) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        yield from (os.path.join(directory, name) for name in sorted(os.listdir(directory)))


def _since(name: str) -> float | None:
    """The time in *name*, in seconds since 1970."""
    stamp = _STAMP.search(name)
    with contextlib.suppress(ValueError):
        return float(calendar.timegm(time.strptime(stamp[0], "%Y%m%dT%H%M%SZ"))) if stamp else None
    return None


def _measure(path: str, deadline: float, depth: int) -> tuple[int, bool]:
    """Bytes of *path*, whose directory only root can change, and whether these are all."""
    status = os.lstat(path)
    size = status.st_blocks * 512
    if not stat.S_ISDIR(status.st_mode):
        return size, True
    if status.st_uid == os.geteuid() and not status.st_mode & 0o022:
        parts = [_measure(each, deadline, depth - 1) for each in _entries(path)] if depth else [(0, False)]
    else:
        parts = [_by_worker(path, deadline)]
    return size + sum(part for part, _all in parts), all(complete for _part, complete in parts)


def _by_worker(path: str, deadline: float) -> tuple[int, bool]:
    seconds = min(_SECONDS_EACH, deadline - time.monotonic())
    if seconds <= 0:
        return 0, False
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # The agent and its user may be gone by now, so the owner is taken from the directory.
        status = os.fstat(descriptor)
        account = numbered(status.st_uid, status.st_gid)
        # It ends by itself in time, with what it has counted, unless a file system holds it up.
        limits = Limits(seconds=seconds + 1.0)
        with contextlib.suppress(OpsError):
            answer = work(account, "system.walk:size", descriptor, seconds, limits=limits, descriptors=[descriptor])
            if fits(answer, (int, object)) and answer[0] >= 0:
                return answer[0], answer[1] is True
    finally:
        os.close(descriptor)
    return 0, False
