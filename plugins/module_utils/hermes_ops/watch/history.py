# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures over time: restarts, open files and memory from one look to the next."""

from __future__ import annotations

from typing import Any

from ..system.text import number
from .findings import HOUR, Finding
from .process import Process

CLIMB_HOURS = 12


def remember_restarts(samples: Any, restarts: int, now: float) -> list[Any]:
    """*samples* of the last hour, and a new one with systemd's present count of restarts."""
    samples = samples if isinstance(samples, list) else []
    known = [sample for sample in samples if isinstance(sample, list) and len(sample) == 2]
    known = [sample for sample in known if all(number(value) is not None for value in sample)]
    young = [sample for sample in known if now - HOUR <= sample[0] <= now]
    return [*young, [int(now), restarts]]


def climbed(samples: list[Any]) -> int:
    """How often systemd restarted a gateway during *samples*. A start by hand resets systemd's counter to 0."""
    counts = [int(sample[1]) for sample in samples]
    return sum(later - before if later >= before else later for before, later in zip(counts, counts[1:]))


def remember_hour(kept: Any, pid: int, process: Process, now: float) -> dict[str, Any]:
    """The lowest usage of a process in each of the last hours: ``{"pid": …, "hours": [[hour, fds, memory], …]}``."""
    hours = []
    if isinstance(kept, dict) and kept.get("pid") == pid and isinstance(kept.get("hours"), list):
        hours = [row for row in kept["hours"] if isinstance(row, list) and len(row) == 3]
        hours = [row for row in hours if all(number(value) is not None for value in row)]
    row = [int(now // HOUR), process.descriptors, process.memory]
    if hours and hours[-1][0] == row[0]:
        row = [row[0], min(hours[-1][1], row[1]), min(hours[-1][2], row[2])]
        hours.pop()
    return {"pid": pid, "hours": [*hours, row][-CLIMB_HOURS:]}


def climb_findings(hours: list[list[Any]], agent: str) -> list[Finding]:
    """Open files or memory that never fell in the last :data:`CLIMB_HOURS` hours, and at least doubled."""
    if len(hours) < CLIMB_HOURS:
        return []
    found = []
    for column, least, what, unit in ((1, 100, "open files", 1), (2, 256 * 2**20, "memory (MiB)", 2**20)):
        values = [row[column] for row in hours]
        grows = all(before <= later for before, later in zip(values, values[1:]))
        if grows and values[-1] >= 2 * values[0] and values[-1] - values[0] >= least:
            found.append(
                Finding(
                    "climbs",
                    f"its {what} only grew for {CLIMB_HOURS} h: {values[0] // unit:.0f} -> {values[-1] // unit:.0f}",
                    "probably a leak in Hermes or a tool: restart it in a quiet hour, and look for an update",
                    False,
                    agent,
                    what.partition(" (")[0].replace(" ", "_"),
                )
            )
    return found
