# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is not as it should be with a host and its agents, and where a figure becomes that."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from ..supervise.problems import Health
from ..supervise.supervisor import State
from ..system.errors import OpsError

HOUR = 3600
# A gateway that started so lately may still connect.
STARTING = 60.0

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def size(text: str, where: str) -> int:
    """Bytes from ``512M`` or ``4G``, as systemd writes them.

    :raises OpsError: when it is no size
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if not match:
        raise OpsError(f"{text!r} is no size", where=where, fix="write it like 512M or 4G")
    return int(match[1]) * _UNITS.get(match[2], 1)


@dataclass(frozen=True)
class Settings:
    """Where a figure becomes a finding.

    :param disk_percent: less of a file system is free
    :param memory: more is used by the unit of a gateway; a size such as ``4G``
    :param provider_error_percent: more of the last hour's calls to the model came to nothing
    :param restarts: more restarts of a gateway within an hour
    :param clock_seconds: the clock is off by more
    :param expiry_days: a certificate or token expires sooner
    :param certificates: files with X.509 certificates (PEM)
    :param backup_hours: the last backup is older
    :param data_volume: the data directory has to be a mount point, also where /etc/fstab does not say so
    :param reply_minutes: an agent is asked for a real reply when its last one is older; 0: never
    :param reply_seconds: what a reply may take
    """

    disk_percent: float = 10.0
    memory: str = "4G"
    provider_error_percent: float = 10.0
    restarts: int = 3
    clock_seconds: float = 30.0
    expiry_days: float = 14.0
    certificates: list[str] = field(default_factory=list)
    backup_hours: float = 36.0
    data_volume: bool = False
    reply_minutes: int = 0
    reply_seconds: int = 60

    def __post_init__(self) -> None:
        size(self.memory, "memory")
        for name in ("disk_percent", "provider_error_percent"):
            if not 0 <= getattr(self, name) <= 100:
                raise OpsError(f"{name} is no percentage", fix="declare a number from 0 to 100")
        for name in ("restarts", "clock_seconds", "expiry_days", "backup_hours", "reply_minutes"):
            if getattr(self, name) < 0:
                raise OpsError(f"{name} is negative", fix="declare 0 or more")
        if self.reply_seconds < 1:
            raise OpsError("reply_seconds is less than 1", fix="declare 1 or more")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    :param cause: stable name for programs, e.g. ``disk_full``
    :param what: one sentence for people
    :param fix: what to do
    :param failure: somebody has to be told at once; otherwise it is worth a look
    :param agent: whose it is; None: the host's
    """

    cause: str
    what: str
    fix: str
    failure: bool = True
    agent: str | None = None

    def as_dict(self) -> dict[str, Any]:
        severity = "failure" if self.failure else "warning"
        return {**dataclasses.asdict(self), "severity": severity}

    def __str__(self) -> str:
        who = f"agent {self.agent}: " if self.agent else ""
        return f"{who}{self.what}. Fix: {self.fix}"


@dataclass
class Report:
    """What a look at the host found.

    :param findings: failures first
    :param agents: the health of each agent
    :param figures: what was measured, for programs
    """

    findings: list[Finding] = field(default_factory=list)
    agents: list[Health] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.failure]

    @property
    def healthy(self) -> bool:
        return not self.failures

    @property
    def message(self) -> str:
        """One line."""
        warnings = len(self.findings) - len(self.failures)
        more = f", {_count(warnings, 'warning')}" if warnings else ""
        if self.failures:
            return f"{_count(len(self.failures), 'failure')}{more}: {self.failures[0].what}"
        return f"{_count(len(self.agents), 'agent')} healthy{more}"

    def about(self, agent: str) -> Report:
        """What of it concerns one agent."""
        return Report(
            [finding for finding in self.findings if finding.agent == agent],
            [result for result in self.agents if result.agent == agent],
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "healthy": self.healthy,
            "message": self.message,
            "findings": [finding.as_dict() for finding in self.findings],
            "agents": [result.as_dict() for result in self.agents],
            "figures": self.figures,
        }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def health_findings(result: Health, state: State, excuse: str | None) -> list[Finding]:
    """What is wrong with an agent: a failure, unless it is only coming or going.

    :param excuse: what is being done to the host that may take it down
    """
    starting = state.running and state.age < STARTING and not any(problem.final for problem in result.problems)
    failure = not (excuse or state.passing or starting)
    more = f" ({excuse})" if excuse else ""
    return [
        Finding(problem.cause, problem.what + more, problem.fix, failure, result.agent) for problem in result.problems
    ]
