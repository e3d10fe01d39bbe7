# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The turns of an agent in the last hour, and how many of them ended without an answer."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..agent import sessions
from ..system import sqlite
from ..system.errors import OpsError
from .findings import HOUR, Finding, Settings

# A turn younger than this, in seconds, may still be answered.
PENDING = 120
# The most rows that are read, from the newest back.
MAX_ROWS = 20_000
DATABASE_SECONDS = 3.0
DATABASE_FIX = "if this persists, go back to the last backup: hermes-ops restore"


@dataclass(frozen=True)
class Turns:
    """The turns of an agent in the last hour.

    :param total: how many there were
    :param failed: how many of them ended without an answer
    :param recovered: whether the model answers again, see :func:`_recovered`
    :param answered: when the last answer was given (seconds since 1970); 0.0: never
    """

    total: int
    failed: int
    recovered: bool = False
    answered: float = 0.0


def count_turns(rows: Iterable[tuple[Any, Any, float]], now: float) -> Turns:
    """Count the turns, and those that ended without an answer.

    A turn is the work that one message to the agent triggers. When the model cannot be reached, or fails after all
    retries, Hermes stores the message and perhaps results of tools, but no answer (0.18.2 and 0.19.0:
    agent/conversation_loop.py persists the history as it is; both cases tried). An interrupted turn looks the same.

    :param rows: (session, role, seconds since 1970), the newest first; roles are ``user``, ``assistant``, ``tool``
    """
    last: dict[Any, tuple[Any, float]] = {}
    ends: list[tuple[float, bool]] = []
    for session, role, when in rows:
        ended_by, ended_at = last.setdefault(session, (role, when))
        if role != "user":
            continue
        del last[session]
        # A recent turn may still get its answer.
        if when < now - HOUR or (ended_by != "assistant" and ended_at > now - PENDING):
            continue
        ends.append((ended_at, ended_by == "assistant"))
    # The newest came first. The order counts where two turns ended at the same time.
    ends.reverse()
    ends.sort(key=lambda end: end[0])
    outcomes = [answered for _when, answered in ends]
    answers = [when for when, answered in ends if answered and when <= now]
    return Turns(len(ends), outcomes.count(False), _recovered(outcomes), float(max(answers, default=0)))


def _recovered(outcomes: list[bool]) -> bool:
    """Whether at last more turns in a row were answered than ever between two failures.

    So the first answer ends an outage, and does not end one in which now and then a turn is answered.

    :param outcomes: whether each turn was answered, the oldest first
    """
    runs = [len(run) for run in "".join("+" if answered else "-" for answered in outcomes).split("-")]
    return len(runs) > 1 and runs[-1] > max(runs[1:-1], default=0)


def read_turns(home: str, now: float) -> Turns:
    """In a worker: the turns of the last hour, from the agent's ``state.db``.

    A log would not do: logs are rotated, and their texts change with Hermes' version and language.

    :raises OpsError: see :func:`sqlite.reading`
    """
    with sqlite.reading(os.path.join(home, sessions.FILE_NAME), seconds=DATABASE_SECONDS, wait=1.0) as database:
        if database is None:
            # There is no database yet: nobody has written to the agent.
            return Turns(0, 0)
        # Newest first, by primary key, so that the time depends on the last hours only and not on the whole table.
        rows = database.execute(
            "SELECT session_id, CAST(role AS TEXT), timestamp FROM messages WHERE observed IS NOT 1 AND role IN "
            "('user', 'assistant', 'tool') AND typeof(timestamp) IN ('real', 'integer') ORDER BY id DESC LIMIT ?",
            (MAX_ROWS,),
        )
        try:
            return count_turns(itertools.takewhile(lambda row: row[2] > now - 2 * HOUR, rows), now)
        except OverflowError as error:
            raise OpsError(f"cannot be read ({error})", where=home, fix=DATABASE_FIX) from None


def turn_findings(turns: Turns, settings: Settings, agent: str) -> list[Finding]:
    few = turns.failed == 0 or 100.0 * turns.failed / turns.total <= settings.provider_error_percent
    if few or turns.recovered:
        return []
    return [
        Finding(
            "provider_errors",
            f"{turns.failed} of the last hour's {turns.total} turns ended without an answer from the model",
            "check the model: its name, provider, key and quota; see logs/errors.log in the agent's home",
            # A single failed turn may be a passing disturbance, so it is only a warning.
            turns.failed > 1,
            agent,
        )
    ]
