# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an agent works although no caller waits for it, and when its cron jobs are due.

All signs are in files of its home, because no server of Hermes tells: ``active_agents`` of ``/health/detailed`` is the
number in gateway_state.json, and counts no turn of the API. Seen on a running 0.18.2 and 0.19.0:

=================  ===================================================================================================
a turn of the API  state.db alone: the conversation ends with the user's message, a tool call or a tool's result; so it
                   is for ``/v1/runs``, and when the caller is gone. A turn that failed without an answer looks the same
a webhook or chat  ``active_agents`` from the message to the answer; state.db as above, some seconds later
a delegated task   state.db: a conversation of its own
a background       processes.json: an entry until the process ends
process
a cron job         0.19.0: cron/executions.db, ``claimed`` or ``running``. 0.18.2: state.db, a conversation of its own;
                   once-only jobs have a ``run_claim`` in cron/jobs.json. A repeated script without an agent shows only
                   by its times: ``next_run_at`` moves on when it starts, ``last_run_at`` when it has ended
=================  ===================================================================================================

``active_agents`` of 0.19.0 also counts turns of the API and cron jobs, but is only written when a chat's turn begins or
ends, so it may stay too high. Each sign therefore counts for a limited time, and only if it is younger than the
gateway. Within these limits an agent can keep itself awake by writing signs, as it can by working: both use up what its
own user may use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from typing import Any, Optional

from ..system import sqlite, worker
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import Account, read_bytes
from ..system.text import brief, number
from ..system.worker import Limits
from . import sessions, state

JOBS = "cron/jobs.json"
EXECUTIONS = "cron/executions.db"
PROCESSES = "processes.json"
# Seconds for which a turn counts that shows nothing new. Hermes itself gives it up then (agent.gateway_timeout).
TURN_SECONDS = 1800.0
# Seconds for which a cron job or a background process counts. Hermes itself disregards an older process
# (MAX_ACTIVE_PROCESS_AGE in tools/process_registry.py).
JOB_SECONDS = 86_400.0
# Seconds by which a sign may be ahead of the clock.
_AHEAD = 60.0
# Bytes of a JSON file; rows of a database; seconds for its queries; what is passed on; characters of a name in it.
_MAX_BYTES = 4 * 2**20
_MAX_ROWS = 2000
_QUERY_SECONDS = 3.0
_MAX_REASONS = 20
_MAX_JOBS = 200
_NAME = 64
_LIMITS = Limits(seconds=15.0, answer=2**18)
_FORM = {"busy": [str], "jobs": {str: (float, float)}, "unread": [str]}


@dataclass(frozen=True)
class Work:
    """An agent's own work; texts are safe to repeat.

    :param busy: why it should not be stopped now
    :param jobs: enabled cron job -> when it is due, and when it last ended (0.0: never); seconds since 1970
    :param unread: what could not be read, and counts as nothing
    """

    busy: list[str] = field(default_factory=list)
    jobs: dict[str, tuple[float, float]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, answer: Any) -> Work:
        """Check a worker's answer, which may be anything."""
        if not fits(answer, _FORM):
            return cls(unread=["everything: the look at it answered with something else"])
        jobs = islice(answer["jobs"].items(), _MAX_JOBS)
        return cls(
            [brief(reason, 2 * _NAME) for reason in answer["busy"][:_MAX_REASONS]],
            {brief(job, _NAME): (due, ended) for job, (due, ended) in jobs},
            [brief(name, _NAME) for name in answer["unread"][:_MAX_REASONS]],
        )


def read_work(home: str, account: Account, since: float) -> Work:
    """The work of the agent in *home*. A home that cannot be read is at rest, and says so in ``unread``.

    :param since: when its gateway was started; what is older was ended by that
    """
    try:
        return Work.of(worker.work(account, "agent.work:look", home, since, time.time(), limits=_LIMITS, where=home))
    except OpsError as error:
        return Work(unread=[brief(f"everything: {error.what}", 2 * _NAME)])


def look(home: str, since: float, now: float) -> dict[str, Any]:
    """In a worker: an answer for :meth:`Work.of`."""
    signs: list[_Sign] = []
    jobs: list[dict[str, Any]] = []
    unread: list[str] = []
    for name, read in _READERS.items():
        try:
            signs += read(home)
        except OpsError:
            unread.append(name)
    try:
        jobs = _jobs(home)
    except OpsError:
        unread.append(JOBS)
    busy = dict.fromkeys(
        reason
        for reason, when, seconds in [*signs, *_claims(jobs)]
        if when is not None and max(since, now - seconds) <= when <= now + _AHEAD
    )
    return {"busy": list(busy)[:_MAX_REASONS], "jobs": _times(jobs), "unread": unread}


# A reason to stay awake, when it showed (seconds since 1970), and for how many seconds it counts.
_Sign = tuple[str, Optional[float], float]


def _counted(home: str) -> list[_Sign]:
    said = state.look(home)
    number_of_turns = said.get("active_agents") if isinstance(said, dict) else None
    if not number(number_of_turns) or number_of_turns < 1:
        return []
    return [("a turn of the gateway", _moment(said.get("updated_at")), TURN_SECONDS)]


def _unanswered(home: str) -> list[_Sign]:
    """The conversations that end with something to which an answer is due."""
    query = """
        SELECT CAST(m.session_id AS TEXT), CAST(s.source AS TEXT), m.timestamp,
               m.role != 'assistant' OR coalesce(m.tool_calls, '') NOT IN ('', '[]')
        FROM messages m JOIN sessions s ON s.id = m.session_id
        WHERE s.ended_at IS NULL AND m.role IN ('user', 'assistant', 'tool') AND m.observed IS NOT 1
              AND (m.active = 1 OR m.compacted = 1)
        ORDER BY m.id DESC LIMIT ?
    """
    last: dict[str, tuple[Any, Any, Any]] = {}
    with sqlite.reading(os.path.join(home, sessions.FILE_NAME), seconds=_QUERY_SECONDS, wait=1.0) as database:
        for session, *message in database.execute(query, [_MAX_ROWS]) if database else ():
            last.setdefault(session, tuple(message))
    return [
        (f"a turn of {str(source)[:_NAME]}", number(when), TURN_SECONDS)
        for source, when, awaits in last.values()
        if awaits
    ]


def _processes(home: str) -> list[_Sign]:
    processes = _json(home, PROCESSES)
    return [
        ("a background process", number(process.get("started_at")), JOB_SECONDS)
        for process in (processes if isinstance(processes, list) else [])
        if isinstance(process, dict)
    ]


def _executions(home: str) -> list[_Sign]:
    query = """
        SELECT CAST(job_id AS TEXT), CAST(claimed_at AS TEXT) FROM executions
        WHERE status IN ('claimed', 'running') ORDER BY claimed_at DESC LIMIT ?
    """
    with sqlite.reading(os.path.join(home, EXECUTIONS), seconds=_QUERY_SECONDS, wait=1.0) as database:
        rows = database.execute(query, [_MAX_REASONS]).fetchall() if database else []
    return [_job_sign(job, claimed) for job, claimed in rows]


_READERS: dict[str, Callable[[str], list[_Sign]]] = {
    state.FILE_NAME: _counted,
    sessions.FILE_NAME: _unanswered,
    PROCESSES: _processes,
    EXECUTIONS: _executions,
}


def _jobs(home: str) -> list[dict[str, Any]]:
    """The enabled cron jobs. Hermes takes a bare list for them, too."""
    found = _json(home, JOBS)
    jobs = found.get("jobs") if isinstance(found, dict) else found
    return [job for job in jobs if isinstance(job, dict) and job.get("enabled", True)] if isinstance(jobs, list) else []


def _claims(jobs: list[dict[str, Any]]) -> list[_Sign]:
    """The once-only jobs that run. Of repeated ones nothing is claimed."""
    claims = [(job.get("id"), job.get("run_claim")) for job in jobs]
    return [_job_sign(job, claim.get("at")) for job, claim in claims if isinstance(claim, dict)]


def _job_sign(job: Any, since: Any) -> _Sign:
    return f"cron job {str(job)[:_NAME]}", _moment(since), JOB_SECONDS


def _times(jobs: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """See :attr:`Work.jobs`; the soonest, if there are very many."""
    times: dict[str, tuple[float, float]] = {}
    dues = ((_moment(job.get("next_run_at")), str(job.get("id"))[:_NAME], job.get("last_run_at")) for job in jobs)
    for due, job, ended in sorted(((due, job, _moment(ended) or 0.0) for due, job, ended in dues if due is not None)):
        if len(times) < _MAX_JOBS:
            times.setdefault(job, (due, ended))
    return times


def _json(home: str, name: str) -> Any:
    """The value in a JSON file; None when there is no such file.

    :raises OpsError: it cannot be read
    """
    # What is cut off is no JSON.
    data = read_bytes(os.path.join(home, name), _MAX_BYTES)
    return None if data is None else worker.parse(data)


def _moment(text: Any) -> float | None:
    """An ISO 8601 time in seconds since 1970; None when it is none. Without an offset it is UTC, as in a container."""
    if not isinstance(text, str) or len(text) > _NAME:
        return None
    try:
        when = datetime.fromisoformat(f"{text[:-1]}+00:00" if text.endswith("Z") else text)
        return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return None
