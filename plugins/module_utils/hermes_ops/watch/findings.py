# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about a host and its agents, and the thresholds at which a figure becomes a finding."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..supervise.problems import Health
from ..supervise.supervisor import State
from ..system.errors import OpsError
from ..system.typed import size

HOUR = 3600
# Seconds after its start during which a gateway may still be connecting.
STARTING = 60.0

# The causes of warnings that a person can acknowledge. All others are failures, or pass on their own.
WARNINGS = (
    "climbs",
    "disk_share",
    "expiry",
    "expiry_unknown",
    "parked",
    "provider_errors",
    "serves_others",
    "shared_home",
    "sqlite_unknown",
    "sqlite_wal",
    "standalone",
    "status_unknown",
    "tailnet_name",
    "turns_unknown",
    "undeclared",
    "unit_failed",
    "unlimited",
)


@dataclass(frozen=True)
class Settings:
    """Thresholds at which a figure becomes a finding.

    :param disk_percent: least free share of a file system
    :param memory: most memory of a gateway's unit; a size such as ``4G``
    :param provider_error_percent: largest share of the last hour's turns without an answer
    :param restarts: most restarts of a gateway within an hour
    :param clock_seconds: largest error of the clock
    :param expiry_days: shortest time until a certificate or token expires
    :param certificates: files with X.509 certificates (PEM) to check
    :param backup_hours: greatest age of the last backup
    :param reply_minutes: an agent is asked for a real reply when its last one is older than this; 0: never
    :param reply_seconds: longest time for a reply
    """

    disk_percent: float = 10.0
    memory: str = "4G"
    provider_error_percent: float = 10.0
    restarts: int = 3
    clock_seconds: float = 30.0
    expiry_days: float = 14.0
    certificates: list[str] = field(default_factory=list)
    backup_hours: float = 36.0
    reply_minutes: int = 0
    reply_seconds: int = 60

    def __post_init__(self) -> None:
        size(self.memory, "memory")
        for name in ("disk_percent", "provider_error_percent"):
            if not 0 <= getattr(self, name) <= 100:
                raise OpsError(f"{name} is not a percentage", fix="declare a number from 0 to 100")
        for name in ("restarts", "clock_seconds", "expiry_days", "backup_hours", "reply_minutes"):
            if getattr(self, name) < 0:
                raise OpsError(f"{name} is negative", fix="declare 0 or more")
        if self.reply_seconds < 1:
            raise OpsError("reply_seconds is less than 1", fix="declare 1 or more")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    :param cause: stable name for programs, e.g. ``disk_full``
    :param what: one sentence for people
    :param fix: the remedy
    :param failure: alert at once; otherwise it is a warning
    :param agent: the agent that it is about; None: the host itself
    :param subject: the one of several things that *cause* can be about; empty: there is only one
    :param acknowledged: the reason for which somebody acknowledged it, and until when; None: nobody did
    """

    cause: str
    what: str
    fix: str
    failure: bool = True
    agent: str | None = None
    subject: str = ""
    acknowledged: dict[str, str] | None = None

    @property
    def id(self) -> str | None:
        """The name by which it can be acknowledged, e.g. ``work/climbs:memory``; None: it cannot."""
        if self.failure or self.cause not in WARNINGS:
            return None
        return f"{f'{self.agent}/' if self.agent else ''}{self.cause}{f':{self.subject}' if self.subject else ''}"

    def as_dict(self) -> dict[str, Any]:
        severity = "failure" if self.failure else "warning"
        return {"id": self.id, **dataclasses.asdict(self), "severity": severity}

    def __str__(self) -> str:
        who = f"agent {self.agent}: " if self.agent else ""
        return f"{who}{self.what}. Fix: {self.fix}"


@dataclass
class Report:
    """The result of a look at the host.

    :param findings: failures first
    :param agents: the health of each agent
    :param figures: measured values, for programs
    :param acknowledged: what was acknowledged, and what became of it; see :func:`acknowledged.apply`
    """

    findings: list[Finding] = field(default_factory=list)
    agents: list[Health] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    acknowledged: list[dict[str, str]] = field(default_factory=list)

    @property
    def unacknowledged(self) -> list[Finding]:
        """What people are told."""
        return [finding for finding in self.findings if not finding.acknowledged]

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.failure]

    @property
    def healthy(self) -> bool:
        return not self.failures

    @property
    def message(self) -> str:
        """The result in one line."""
        warnings = len(self.unacknowledged) - len(self.failures)
        more = f", {_count(warnings, 'warning')}" if warnings else ""
        if self.failures:
            return f"{_count(len(self.failures), 'failure')}{more}: {self.failures[0].what}"
        # One that is starting, or that a job has stopped, is only a warning, but not healthy.
        healthy = sum(result.ok for result in self.agents)
        return f"{_count(healthy, 'agent')} healthy{more}"

    @property
    def lines(self) -> list[str]:
        """The report for people: the findings, then the logs of unhealthy agents, then the conclusion."""
        said = [f"{'FAILURE' if finding.failure else 'warning'}  {finding}" for finding in self.unacknowledged]
        for result in self.agents:
            said += [f"  {result.agent} | {line}" for line in result.log]
        return [*said, self.message]

    def about(self, agent: str) -> Report:
        """The part of the report about one agent, with the findings about the host that concern every agent."""
        return Report(
            [finding for finding in self.findings if finding.agent == agent or finding.cause == "release_gone"],
            [result for result in self.agents if result.agent == agent],
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "healthy": self.healthy,
            "message": self.message,
            "findings": [finding.as_dict() for finding in self.findings],
            "agents": [result.as_dict() for result in self.agents],
            "figures": self.figures,
            "acknowledged": self.acknowledged,
        }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def health_findings(result: Health, state: State, excuse: str | None) -> list[Finding]:
    """An agent's problems as findings. They are failures, unless the agent is starting or stopping, or is excused.

    :param excuse: the running job that may take the agent down; None: there is none
    """
    starting = state.running and state.age < STARTING and not any(problem.final for problem in result.problems)
    failure = not (excuse or state.passing or starting)
    more = f" ({excuse})" if excuse else ""
    return [
        Finding(problem.cause, problem.what + more, problem.fix, failure, result.agent) for problem in result.problems
    ]
