# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that systemd timers run: a command of ``hermes-ops`` with its own settings, one run at a time."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from ..system.errors import OpsError, Refused
from ..system.files import read_text
from ..system.paths import check_path
from ..system.plan import Plan
from ..system.process import run
from ..system.services import plan_active, plan_gone
from ..system.systemd import NO_CORE, Manager
from ..system.typed import parse
from . import settings
from .kit import COMMAND

UNIT_DIRECTORY = "/etc/systemd/system"
# Where systemd records when a persistent timer last ran.
STAMP_DIRECTORY = "/var/lib/systemd/timers"
MACHINE_ID = "/etc/machine-id"
SETTINGS_MODE = 0o600

# Jobs run as root, and must be able to read and change what they look after. These restrictions remain possible. Values
# as in systemd.exec(5).
HARDENING = (
    ("UMask", "0077"),
    ("NoNewPrivileges", "yes"),
    ("PrivateTmp", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("LockPersonality", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("SystemCallArchitectures", "native"),
    NO_CORE,
)
# For work that is not urgent: the agents have priority.
IN_THE_BACKGROUND = (("Nice", "10"), ("IOSchedulingClass", "best-effort"), ("IOSchedulingPriority", "7"))


@dataclass(frozen=True)
class Job:
    """One command that a timer runs.

    :param name: of its units (``hermes-<name>``) and of its settings file
    :param description: its purpose, shown by systemd
    :param arguments: of ``hermes-ops``
    :param settings: ``module:Class`` of the kit: the dataclass that checks its settings
    :param directives: additional entries of ``[Service]``
    :param unit: additional entries of ``[Unit]``
    :param needs_data: does not run without the data directory being mounted
    """

    name: str
    description: str
    arguments: tuple[str, ...]
    settings: str
    directives: tuple[tuple[str, str], ...] = ()
    unit: tuple[tuple[str, str], ...] = ()
    needs_data: bool = True

    @property
    def service(self) -> str:
        return f"hermes-{self.name}.service"

    @property
    def timer(self) -> str:
        return f"hermes-{self.name}.timer"

    def check(self, values: dict[str, Any]) -> None:
        """:raises OpsError: *values* are not valid settings of this job"""
        module, name = self.settings.split(":")
        kind = getattr(importlib.import_module(f"..{module}", __package__), name)
        parse(kind, values, f"settings of {self.name}")


JOBS = {
    job.name: job
    for job in (
        Job(
            "backup",
            "Backup of the Hermes agents",
            ("backup",),
            settings="backup.settings:Settings",
            directives=IN_THE_BACKGROUND,
        ),
        Job(
            "heartbeat",
            "Heartbeat of the Hermes agents",
            ("heartbeat",),
            settings="watch.heartbeat:Settings",
            # It reports that the data volume is missing.
            needs_data=False,
        ),
        Job(
            "rehearsal",
            "Rehearsal of a restore of the Hermes agents",
            ("rehearsal",),
            settings="backup.rehearsal:Settings",
            directives=IN_THE_BACKGROUND,
        ),
        Job(
            "secrets",
            "Secrets of the Hermes agents, fetched again",
            ("secrets",),
            settings="secrets.settings:Settings",
            # It is declared before the kit is on the host.
            unit=(("ConditionPathExists", COMMAND),),
        ),
        Job(
            "update",
            "Update of Hermes",
            ("update", "--here"),
            settings="update.settings:Settings",
            # If killed, it is started again and rolls back. A finished run is never restarted, not even after a
            # rollback that systemd calls abnormal because a timeout caused it.
            directives=(
                *IN_THE_BACKGROUND,
                ("Restart", "on-abnormal"),
                ("RestartPreventExitStatus", "1 2"),
                ("RestartSec", "2"),
                ("TimeoutStopSec", "900"),
            ),
            unit=(("StartLimitIntervalSec", "3600"), ("StartLimitBurst", "5")),
        ),
    )
}


@dataclass(frozen=True)
class Schedule:
    """When a job runs: at an interval, or by the calendar.

    :param every: seconds from the start of one run to the start of the next
    :param calendar: a calendar event as in systemd.time(7)
    :param randomized_delay: maximum of the random delay of each run, in seconds
    :param timeout: seconds for one run
    """

    every: int | None
    calendar: str | None
    randomized_delay: int
    timeout: int

    def check(self) -> None:
        """:raises OpsError: the schedule is not valid"""
        if (self.every is None) == (self.calendar is None):
            raise OpsError("needs exactly one of every and calendar", fix="declare one of the two")
        for name in ("every", "timeout"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OpsError(f"{name} is {value} s", fix="declare a number of seconds, 1 or more")
        if self.randomized_delay < 0:
            raise OpsError(f"randomized_delay is {self.randomized_delay} s", fix="declare 0 or more seconds")
        if self.calendar is not None:
            _check_calendar(self.calendar)

    def directives(self, machine_id: str) -> list[tuple[str, str]]:
        """The section ``[Timer]``."""
        delay = [("RandomizedDelaySec", str(self.randomized_delay))] if self.randomized_delay else []
        if self.calendar is not None:
            # Persistent: a host that was off at that time runs the job when it is back.
            return [("OnCalendar", self.calendar), *delay, ("Persistent", "true")]
        # Hosts that boot or are converged together must not all run the job at once, so each host has its own offset
        # within the period. The first quarter is left free, because gateways may be starting.
        period = self.every or 0
        place = int(hashlib.sha256(machine_id.encode()).hexdigest(), 16) % max(1, period * 3 // 4)
        first = period // 4 + place
        return [("OnActiveSec", str(first)), ("OnUnitActiveSec", str(period)), *delay, ("AccuracySec", "1")]


def _check_calendar(text: str) -> None:
    # One line, and nothing that systemd would expand in a unit.
    if not re.fullmatch(r"[\w ,.:*/~+-]+", text, re.ASCII):
        raise OpsError(f"{text!r} is not a calendar event", fix="see systemd.time(7), e.g. *-*-* 03:00:00")
    done = run(["systemd-analyze", "calendar", "--iterations=1", text], timeout=20, check=False)
    if not done.ok:
        raise OpsError(
            f"systemd does not understand the calendar event {text!r}: {done.last_words}",
            fix="see systemd.time(7), e.g. *-*-* 03:00:00 Europe/London (which needs the package tzdata)",
        )


def _section(name: str, directives: list[tuple[str, str]]) -> str:
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in directives)])


_HEADER = "# Written by the Ansible collection alwayson.hermes."


def render_service(job: Job, schedule: Schedule, data_dir: str) -> str:
    unit = [("Description", job.description), ("Wants", "network-online.target"), ("After", "network-online.target")]
    if job.needs_data:
        # At a boot also: a persistent timer may be due before the data volume is mounted.
        unit.append(("RequiresMountsFor", data_dir))
    unit += job.unit
    service = [
        # oneshot: the unit counts as starting while the job runs, and the timer does not start a second run then.
        ("Type", "oneshot"),
        ("ExecStart", " ".join((COMMAND, *job.arguments))),
        ("TimeoutStartSec", str(schedule.timeout)),
        # Not for a run by hand (detached.py): its caller asks for the status, which systemd forgets after a success.
        ("SuccessExitStatus", str(Refused.exit_status)),
        *HARDENING,
        *job.directives,
    ]
    return "\n\n".join([_HEADER, _section("Unit", unit), _section("Service", service)]) + "\n"


def render_timer(job: Job, schedule: Schedule, machine_id: str) -> str:
    sections = [
        _section("Unit", [("Description", f"{job.description} (timer)")]),
        _section("Timer", schedule.directives(machine_id)),
        _section("Install", [("WantedBy", "timers.target")]),
    ]
    return "\n\n".join([_HEADER, *sections]) + "\n"


def plan_present(job: Job, schedule: Schedule, values: dict[str, Any], data_dir: str) -> Plan:
    """Compare the host with one where *job* runs by *schedule*.

    :param values: its settings; they may hold secrets
    :param data_dir: directory of the agents' data, perhaps a mount point
    :raises OpsError: schedule or settings are not valid; nothing was changed
    """
    schedule.check()
    job.check(values)
    check_path(data_dir, "hermes_data_dir")
    plan = Plan()
    manager = Manager.of_host()
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    plan.add_file(settings.path_of(job.name), text, mode=SETTINGS_MODE, shown=False)
    plan_active(plan, manager, job.timer, unit_files=_unit_files(job, schedule, data_dir))
    return plan


def plan_absent(job: Job) -> Plan:
    """Compare the host with one where *job* never existed. A run in progress is allowed to finish."""
    plan = Plan()
    # The stamp with the time of the last run goes, too: a timer that comes back later has nothing to catch up on.
    stamp = os.path.join(STAMP_DIRECTORY, f"stamp-{job.timer}")
    plan_gone(
        plan, Manager.of_host(), job.timer, [_timer_path(job), _service_path(job), settings.path_of(job.name), stamp]
    )
    return plan


def present() -> list[str]:
    """The names of the jobs that have any file on the host."""
    return sorted(
        name
        for name, job in JOBS.items()
        if any(map(os.path.lexists, (_timer_path(job), _service_path(job), settings.path_of(name))))
    )


def next_runs() -> dict[str, dict[str, Any]]:
    """By job, for each timer on the host: ``active``, ``next`` and ``last`` run (seconds since 1970, or None)."""
    found: dict[str, dict[str, Any]] = {
        JOBS[name].timer: {"job": name, "active": False, "next": None, "last": None}
        for name in present()
        if os.path.exists(_timer_path(JOBS[name]))
    }
    if found:
        answer = Manager.of_host().call("list-timers", "--output=json", *found, check=False)
        for row in json.loads(answer.stdout or "[]"):
            # An inactive timer is not listed. While its job runs, a timer has no next time.
            times = {key: row[key] / 1e6 if row[key] else None for key in ("next", "last")}
            found[row["unit"]].update(active=True, **times)
    return {timer.pop("job"): timer for timer in found.values()}


def _unit_files(job: Job, schedule: Schedule, data_dir: str) -> dict[str, str]:
    machine_id = read_text(MACHINE_ID) or ""
    return {
        _service_path(job): render_service(job, schedule, data_dir),
        _timer_path(job): render_timer(job, schedule, machine_id),
    }


def _service_path(job: Job) -> str:
    return os.path.join(UNIT_DIRECTORY, job.service)


def _timer_path(job: Job) -> str:
    return os.path.join(UNIT_DIRECTORY, job.timer)
