# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents whose gateways must not run now, because their disk is nearly full.

Hermes answers a message although it cannot store it (0.18.2, 0.19.0: run_agent.py logs "Session DB append_message
failed" and goes on). A file in :data:`DIRECTORY` keeps an agent's unit from starting, whoever asks for it: a boot, a
job, a person.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass, replace

from ..system.errors import OpsError
from ..system.files import ensure_directory, read_json, write_json
from ..system.typed import parse

# The service that watches the disks (supervise/disks.py), and its runtime directory, which is gone after a boot.
UNIT = "hermes-disks.service"
DIRECTORY = "/run/hermes-held"
# Space that this service releases when the disk of the ops directory is nearly full; below that directory.
RESERVE_FILE = "disk.reserve"
# At most this share of a disk counts as nearly full, so that small disks can be used, too.
SHARE = 20


@dataclass(frozen=True)
class Hold:
    """Why a gateway is held.

    :param what: one sentence for people
    :param fix: the remedy
    :param start: whether it is started when there is room again; not if somebody had stopped it before, unless
        somebody asks for it meanwhile
    """

    what: str
    fix: str
    start: bool


def declared_path() -> str:
    """The file in which the service says what it was told to keep free, in bytes. Workers read it."""
    return os.path.join(DIRECTORY, ".least.json")


def declare(least: int) -> None:
    ensure_directory(DIRECTORY, mode=0o755)
    write_json(declared_path(), least, mode=0o644)


def declared() -> int:
    """The bytes that the service was told to keep free on each disk; 0 if no disk is watched."""
    least = None
    with contextlib.suppress(OpsError):
        least = read_json(declared_path())
    return least if isinstance(least, int) else 0


def least_of(size: int, least: int) -> int:
    """Bytes below which a disk of *size* bytes is nearly full.

    :param least: what is to stay free on each disk
    """
    return min(least, size // SHARE)


def spare(where: str | int, reserve: int) -> int:
    """Bytes that a job may write to a disk, so that it neither fills it nor has the gateways on it stopped.

    Where there is too little for gateways already, none of them runs there, and only *reserve* counts.

    :param where: a path on the disk, or the descriptor of an open file
    :param reserve: bytes that stay free in any case
    """
    status = os.statvfs(where)
    available = status.f_bavail * status.f_frsize
    least = least_of(status.f_blocks * status.f_frsize, declared())
    return max(0, available - reserve - (least if available >= least else 0))


def path_of(agent: str) -> str:
    return os.path.join(DIRECTORY, agent)


def read(agent: str) -> Hold | None:
    """Why the gateway of *agent* is held; None: it is not."""
    path = path_of(agent)
    try:
        found = read_json(path)
        return None if found is None else parse(Hold, found, path)
    except OpsError as error:
        # The file counts for systemd, whatever it holds.
        return Hold(f"it is held, and {error.where} {error.what}", f"remove that file: rm {path}", True)


def write(agent: str, hold: Hold) -> None:
    ensure_directory(DIRECTORY, mode=0o755)
    write_json(path_of(agent), asdict(hold))


def ask(agent: str) -> None:
    """Have the gateway of *agent*, if it is held, start when there is room: it was told to start, and could not.

    Whoever restarts gateways together stops all of them first. One that has ended by then only waits for the slowest,
    which may fill the disk meanwhile.
    """
    hold = read(agent)
    if hold and not hold.start:
        write(agent, replace(hold, start=True))


def remove(agent: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path_of(agent))


def names() -> list[str]:
    """The agents that are held."""
    try:
        return sorted(name for name in os.listdir(DIRECTORY) if not name.startswith("."))
    except FileNotFoundError:
        return []
