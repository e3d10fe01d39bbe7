# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of backups: an agent can make each of its own take hours, which must not use up the others' time."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from ..description.agent import Agent
from ..host.installation import Installation
from ..host.undertaking import Interrupted
from ..system import answer
from ..system.errors import OpsError
from ..system.files import read_json, write_json

# How long backups took, in the ops directory; only decides their order.
_DURATIONS = "backup-durations.json"
# On this host, and off it.
HERE, AWAY = "here", "away"
_NEVER_ENDED = 1e9


def quickest_first(host: Installation, agents: list[Agent], *, away: bool) -> list[tuple[Agent, str]]:
    """The backups to make on this host and, with *away*, off it. Those that took longest the last time come last."""
    took = _durations(host)
    backups = [(agent, where) for where in (HERE, AWAY)[: 1 + away] for agent in agents]

    def slowness(backup: tuple[Agent, str]) -> tuple[float, float]:
        # An agent that was slow in one place may be slow in the other the next time.
        name, where = backup[0].name, backup[1]
        return max(took[HERE].get(name, 0.0), took[AWAY].get(name, 0.0)), took[where].get(name, 0.0)

    return sorted(backups, key=slowness)


@contextlib.contextmanager
def timed(host: Installation, agent: Agent, where: str) -> Iterator[None]:
    """Record how long the backup of *agent* takes. One whose job is killed took longest of all.

    A long one is forgotten slowly, by half each time: otherwise an agent could be quick every second night, come first
    in the next, and use up the job's time again.
    """
    began, before = time.monotonic(), _durations(host)[where].get(agent.name, 0.0)
    _record(host, agent, where, _NEVER_ENDED)
    ended = True
    try:
        yield
    except Interrupted:
        ended = False
        raise
    finally:
        if ended:
            _record(host, agent, where, max(time.monotonic() - began, before / 2))


def _durations(host: Installation) -> dict[str, dict[str, float]]:
    """Seconds that the backup of each agent took last, on this host (:data:`HERE`) and off it (:data:`AWAY`)."""
    try:
        found = read_json(os.path.join(host.ops_dir, _DURATIONS))
    except OpsError:
        found = None
    return found if answer.fits(found, {HERE: {str: float}, AWAY: {str: float}}) else {HERE: {}, AWAY: {}}


def _record(host: Installation, agent: Agent, where: str, seconds: float) -> None:
    durations = _durations(host)
    durations[where][agent.name] = seconds
    # On a full disk the backup itself says so.
    with contextlib.suppress(OpsError):
        write_json(os.path.join(host.ops_dir, _DURATIONS), durations)
