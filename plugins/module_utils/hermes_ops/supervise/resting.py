# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent in a user's container does between two calls: it ends its own work, sleeps, and wakes for cron.

The *rest* (hermes-user-rest@.service) keeps it up while it works, or while a cron job is due. Then it sets the *wake*,
a timer that starts the next rest when the next job is due, and with it the agent.

Hermes looks for due jobs when its gateway starts, and then every 60 s (0.18.2 and 0.19.0: cron/scheduler_provider.py).
So an agent is started when the job is due or a little later, never before: a look that comes too early delays the job
by a minute.

All times are of the wall clock, as they are for cron jobs, and the wake's timer follows that clock when it is set. How
long a rest waits does not depend on it.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ..agent.work import Work
from ..system.errors import OpsError
from ..system.files import read_json, write_json
from ..system.process import run
from ..system.systemd import COMMAND_TIMEOUT, Manager
from ..system.text import moment, number

REST = "hermes-user-rest@{}.service"
WAKE = "hermes-user-wake@{}"
# Seconds between two looks: at first, and at most.
_FIRST_PAUSE, _LAST_PAUSE = 5.0, 30.0
# After so many looks in a row, what cannot be read counts as nothing. A database that is being made has no table yet.
_BLIND_LOOKS = 3
# Seconds between two looks of Hermes for due jobs.
TICK_SECONDS = 60.0
# Seconds within which Hermes has to start a due job. If it does not, the agent sleeps, and is woken for it again later.
START_SECONDS = 3 * TICK_SECONDS
AGAIN_SECONDS = 3600.0
# Seconds within which a started job has to end if nothing else shows it: what Hermes allows a script
# (_DEFAULT_SCRIPT_TIMEOUT in cron/scheduler.py of 0.18.2 and 0.19.0).
RUN_SECONDS = 3600.0
# The furthest wake, in seconds. systemd knows no date after 2199, and a job may be due in 9999.
_FURTHEST = 366 * 86_400.0
# Seconds after a wake at which it is repeated unless a rest has replaced it: the agent may have failed to start.
_REPEATS = (0, 900, 3600, 14_400, 43_200, 86_400)
# After a boot, overdue agents are woken one after the other, because starting one takes more than a second of a
# processor: seconds until the first, and between two.
_BOOT_DELAY, _BOOT_SPACING = 30.0, 2.0
_RECORD = re.compile(r"([0-9a-f]{32})\.next")
_RECORD_BYTES = 4096


@dataclass(frozen=True)
class _Awaited:
    """A cron job that a rest waits for.

    :param due: when it was due, in seconds since 1970
    :param waited: seconds for which it has been
    """

    due: float
    waited: float = 0.0


def rest(
    look: Callable[[], Work],
    sleep: Callable[[float], object],
    now: Callable[[], float],
    set_wake: Callable[[float | None], object],
    say: Callable[[str], object],
) -> None:
    """Wait until the agent has no work and no cron job is due, then set its next wake.

    The wake is also set at the beginning, in case the host goes down while the agent works.

    :param look: at the agent's work
    :param now: the wall clock, in seconds since 1970
    :param set_wake: takes when it is to wake; None: for no job
    :param say: gets a line whenever the reasons for staying awake have changed
    """
    awaited: dict[str, _Awaited] = {}
    pause, paused = _FIRST_PAUSE, 0.0
    said, blind = "", 0
    while True:
        work = look()
        blind = blind + 1 if work.unread else 0
        awaited = _awaited(awaited, work.jobs, now(), paused)
        patient = [job for job, each in awaited.items() if each.waited < _patience(each, work.jobs[job][0])]
        reasons = [*work.busy, *(f"cron job {job} is due" for job in patient)]
        if not reasons and 0 < blind < _BLIND_LOOKS:
            reasons = ["a file may be about to be written"]
        due = next_due(work.jobs, now())
        if not said or not reasons:
            set_wake(due)
        until = "" if due is None else f" until {moment(due)}, for cron"
        told = f"stays awake: {'; '.join(reasons)}" if reasons else f"sleeps{until}"
        told += "".join(f"; cannot read {name}" for name in work.unread)
        if told != said:
            say(told)
        if not reasons:
            return
        said = told
        sleep(pause)
        paused, pause = pause, min(2 * pause, _LAST_PAUSE)


def _awaited(
    before: Mapping[str, _Awaited], jobs: Mapping[str, tuple[float, float]], now: float, paused: float
) -> dict[str, _Awaited]:
    """The jobs that are due and have not run, after another look that came *paused* seconds later.

    A job has run when its time has moved on, which is when it starts, and it has ended since. In between 0.18.2 may
    show no other sign of it.
    """
    awaited = {}
    for job, (due, ended) in jobs.items():
        each = before.get(job)
        if each and not (due > each.due and ended >= each.due):
            awaited[job] = replace(each, waited=each.waited + paused) if each.due <= now else each
        elif due <= now + TICK_SECONDS:
            awaited[job] = _Awaited(due)
    return awaited


def _patience(awaited: _Awaited, due: float) -> float:
    """Seconds for which the job is awaited. One that somebody put off looks as if it had started."""
    return RUN_SECONDS if due > awaited.due else START_SECONDS


def next_due(jobs: Mapping[str, tuple[float, float]], now: float) -> float | None:
    """When a sleeping agent is needed for its *jobs* (see :attr:`Work.jobs`); None: it has none.

    A job that is overdue although the agent was up is tried again later.
    """
    dues = [due if due > now else now + AGAIN_SECONDS for due, _ended in jobs.values()]
    return min(*dues, now + _FURTHEST) if dues else None


def wake_at(user: str, due: float) -> float:
    """When to wake the agent of *user* (32 hexadecimal digits) for a job: up to a minute later than it is *due*.

    Many users have jobs at nine o'clock, and their agents cannot all start in one second. A job of an agent that is
    awake has to wait up to a minute, too.
    """
    # A prime number, so that each digit of the user counts.
    return math.ceil(due) + int(user, 16) % 59


def boot_wakes(dues: Mapping[str, float | None], now: float) -> dict[str, float]:
    """User -> when to wake its agent, after a boot. Who is overdue is woken soon, one after the other.

    :param dues: user -> when its next job is due; None: it has none
    """
    waking = sorted((due, user) for user, due in dues.items() if due is not None)
    overdue = [user for due, user in waking if due <= now]
    wakes = {user: now + _BOOT_DELAY + place * _BOOT_SPACING for place, user in enumerate(overdue)}
    return {**{user: wake_at(user, due) for due, user in waking}, **wakes}


def wake_timer(user: str, when: float) -> list[str]:
    """The command that makes the timer which wakes the agent of *user* at *when*, and again if that failed."""
    stamps = (time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when + later)) for later in _REPEATS)
    return [
        *("systemd-run", "--quiet", "--collect", f"--unit={WAKE.format(user)}"),
        f"--description=Wake the Hermes agent of user {user} for cron",
        # By default, systemd may let a timer wait for another minute.
        *("--timer-property=AccuracySec=1s", *(f"--on-calendar={stamp}" for stamp in stamps)),
        *("systemctl", "--no-block", "start", REST.format(user)),
    ]


def set_wake(directory: str, user: str, due: float | None) -> None:
    """Wake the agent of *user* when its next job is *due*, also after a boot; None: no more.

    :param directory: of the records of users
    """
    _set_timer(user, None if due is None else max(wake_at(user, due), time.time() + 1))
    # A full disk, which any agent can cause, must end neither this agent's rest nor its cron. After a boot, an agent
    # without a record is woken.
    with contextlib.suppress(OpsError):
        record(directory, user, due)


def set_wakes(directory: str, users: Iterable[str]) -> None:
    """Set the recorded wakes of *users*, after a boot.

    An agent without a record was awake when the host went down, so nobody knows its jobs: it is overdue.
    """
    dues = recorded(directory)
    for user, when in boot_wakes({user: dues.get(user, 0.0) for user in users}, time.time()).items():
        _set_timer(user, when)


def forget_wake(directory: str, user: str) -> None:
    """Never wake the agent of *user* again."""
    _set_timer(user, None)
    awake(directory, user)


def awake(directory: str, user: str) -> None:
    """Record that the agent of *user* is awake: until its next rest, nobody knows its jobs."""
    with contextlib.suppress(OSError):
        os.unlink(_path(directory, user))


def record(directory: str, user: str, due: float | None) -> None:
    """Record that the agent of *user* sleeps until its next job is *due*; None: it has none."""
    write_json(_path(directory, user), {"due": due})


def recorded(directory: str) -> dict[str, float | None]:
    """User -> when its next job is due, as last recorded. An agent whose record is damaged is overdue."""
    dues: dict[str, float | None] = {}
    # A host that has no users yet has no directory either.
    for name in os.listdir(directory) if os.path.isdir(directory) else []:
        match = _RECORD.fullmatch(name)
        if match:
            try:
                due = (read_json(os.path.join(directory, name), _RECORD_BYTES) or {})["due"]
            except (OpsError, LookupError, TypeError):
                due = 0.0
            dues[match[1]] = None if due is None else number(due) or 0.0
    return dues


def _path(directory: str, user: str) -> str:
    return os.path.join(directory, f"{user}.next")


def _set_timer(user: str, when: float | None) -> None:
    """Replace the timer that wakes the agent of *user*."""
    Manager.of_host().call("stop", f"{WAKE.format(user)}.timer", check=False)
    if when is not None:
        run(wake_timer(user, when), timeout=COMMAND_TIMEOUT)
