# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults of a soak, drawn from a seed: the same seed draws the same faults, on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

RESTORE_KILLED = "restore killed"
KILLS = {
    "site.yml killed": "site",
    "update killed": "update",
    "rollback killed": "rollback",
    "backup killed": "backup",
    RESTORE_KILLED: "restore",
}
GATEWAY_KILLED = "gateway killed"
POWER_CUT = "power cut"
DISK_FULL = "disk full"
TWO_JOBS = "two jobs at once"
KINDS = (*KILLS, GATEWAY_KILLED, POWER_CUT, DISK_FULL, TWO_JOBS)
JOBS = tuple(KILLS.values())

# Seconds of load before a fault, and seconds for which a disk stays full.
QUIET = (0.5, 3.0)
FULL = (2.0, 8.0)


@dataclass(frozen=True)
class Fault:
    """One fault, as it was drawn.

    :param number: its place in the soak, from 1
    :param kind: one of :data:`KINDS`
    :param quiet: seconds of load before it
    :param jobs: the jobs that run meanwhile: one that is killed, two at once, or one or none during other faults
    :param moment: when it happens, as a fraction of the time that the first job takes
    :param agent: the agent that it is about, and whose home a restore replaces
    :param disk: the disk that fills: the data volume, or the one of the agent that has its own
    :param full: seconds for which the disk stays full
    """

    number: int
    kind: str
    quiet: float
    jobs: tuple[str, ...]
    moment: float
    agent: str
    disk: str
    full: float

    def __str__(self) -> str:
        about = {
            GATEWAY_KILLED: f" ({self.agent})",
            POWER_CUT: f" during {self.jobs[0]}" if self.jobs else "",
            DISK_FULL: f" ({self.disk}{f', during {self.jobs[0]}' if self.jobs else ''})",
            TWO_JOBS: f" ({' and '.join(self.jobs)})",
        }
        return f"{self.kind}{about.get(self.kind, '')}"


def draw(seed: int, agents: Sequence[str], disks: Sequence[str]) -> Iterator[Fault]:
    """Faults without end. Each kind comes once before any kind comes again, so that a short soak has all of them.

    :param agents: their names
    :param disks: the names of the disks that can be filled
    """
    dice = random.Random(seed)
    number = 0
    while True:
        for kind in dice.sample(KINDS, len(KINDS)):
            number += 1
            yield Fault(
                number=number,
                kind=kind,
                quiet=round(dice.uniform(*QUIET), 2),
                jobs=_jobs(kind, dice),
                moment=round(dice.random(), 3),
                agent=dice.choice(agents),
                disk=dice.choice(disks),
                full=round(dice.uniform(*FULL), 2),
            )


def _jobs(kind: str, dice: random.Random) -> tuple[str, ...]:
    if kind in KILLS:
        return (KILLS[kind],)
    if kind == TWO_JOBS:
        return tuple(dice.sample(JOBS, 2))
    if kind in (POWER_CUT, DISK_FULL):
        job = dice.choice((None, *JOBS))
        return (job,) if job else ()
    return ()
