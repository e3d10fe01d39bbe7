# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rule by which ``restic forget`` chooses snapshots: ``--dry-run`` does not know of the one that is made before."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Periods of which restic keeps the newest snapshot -> the name of the one that a moment is in.
_PERIODS: dict[str, Callable[[datetime.datetime], Any]] = {
    "daily": lambda when: when.date(),
    "weekly": lambda when: when.isocalendar()[:2],
    "monthly": lambda when: (when.year, when.month),
}
# Until then, the oldest snapshot had no privilege.
_OLDEST_STAYS = (0, 16)


def superfluous(made: Sequence[datetime.datetime], keep: Mapping[str, int], version: tuple[int, ...]) -> list[int]:
    """The indexes of the snapshots that restic (0.14, 0.18 internal/restic/snapshot_policy.go) forgets, oldest first.

    :param made: when each was made, each in the time zone of that moment
    :param keep: ``daily``, ``weekly``, ``monthly`` -> of how many of these periods the newest snapshot stays
    :param version: of restic
    """
    newest_first = sorted(range(len(made)), key=lambda index: made[index], reverse=True)
    left, gone = dict(keep), []
    last: dict[str, Any] = {}
    for index in newest_first:
        oldest = index == newest_first[-1] and version >= _OLDEST_STAYS
        stays = [p for p, of in _PERIODS.items() if left[p] > 0 and (oldest or last.get(p) != of(made[index]))]
        for period in stays:
            left[period], last[period] = left[period] - 1, _PERIODS[period](made[index])
        if not stays:
            gone.append(index)
    return gone[::-1]
