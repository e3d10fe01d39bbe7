# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports on a host, its agents and its jobs to the declared ping URLs."""

from __future__ import annotations

import collections
import dataclasses
import time
from typing import Any

from ..host.installation import Installation
from ..system.errors import OpsError
from ..system.text import brief
from . import drill, findings
from .declared import Settings, declared
from .pings import Ping, send

# Time limit of a job's report, much shorter than any of the jobs.
REPORT_SECONDS = 30.0
# Most characters of what is wrong in one finding, and of its fix: agents contribute text to both.
LONGEST = 500


def report(host: Installation, job: str, event: str, body: str) -> bool:
    """Report on *job* to its declared URL. Never raises, and takes at most :data:`REPORT_SECONDS`.

    :param job: ``check``, ``update``, ``rehearsal`` or ``backup``
    :param event: ``start``, ``success`` or ``fail``
    :param body: one line, or the reasons; no secrets
    :returns: whether the report arrived; also False when no URL is declared
    """
    try:
        wanted = declared()
    except OpsError:
        return False
    if wanted is None or drill.of(host) == drill.SILENCE:
        return False
    url = wanted.job_urls.get(job)
    if not url:
        # A job's success must not mark the host's own check as healthy, so it is only logged there.
        url, event = wanted.ping_url, "log" if event == "success" else event
    if not url:
        return False
    answers = send([Ping(job, url, event, body)], time.monotonic() + REPORT_SECONDS)
    return answers[job].problem is None


def conclude(host: Installation, job: str, failed: bool, message: str, **more: Any) -> None:
    """Record the result of *job*, and report it.

    :param message: one sentence
    :param more: see :meth:`Installation.write_status`
    :raises OpsError: the result cannot be recorded; this is reported as a failure
    """
    try:
        host.write_status(job, "failed" if failed else "success", message, **more)
    except OpsError as error:
        report(host, job, "fail", f"{message}; this result cannot be recorded: {error}")
        raise
    report(host, job, "fail" if failed else "success", message)


def pings_of(wanted: Settings, report: findings.Report) -> list[Ping]:
    """The pings for *report*: all of it to the host's URL, and each agent's part to the URL of that agent.

    If the host has no URL, findings about the host itself go to the URLs of all agents.
    """
    pings = [_ping_of("ping_url", wanted.ping_url, report)] if wanted.ping_url else []
    for name, url in wanted.agent_urls.items():
        part = report.about(name)
        # No ping for an agent that no longer exists: the missing ping raises the alert.
        if part.agents:
            if not wanted.ping_url:
                part.findings = [*(finding for finding in report.findings if not finding.agent), *part.findings]
            pings.append(_ping_of(f"agent_urls: {name}", url, part))
    return pings


def _ping_of(name: str, url: str, report: findings.Report) -> Ping:
    if report.healthy:
        return Ping(name, url, "success", report.message)
    return Ping(name, url, "fail", "\n".join(_shown(finding) for finding in _in_turn(report.unacknowledged)))


def _in_turn(found: list[findings.Finding]) -> list[findings.Finding]:
    """*found*, failures first, and in both one of the host and of each agent in turn.

    A ping is cut at its end, and an agent can see to it that there are any number of findings about itself.
    """
    told: collections.Counter[tuple[bool, str | None]] = collections.Counter()
    turns = []
    for finding in found:
        about = (not finding.failure, finding.agent)
        turns.append((about[0], told[about], finding))
        told[about] += 1
    return [finding for _warning, _turn, finding in sorted(turns, key=lambda each: each[:2])]


def _shown(finding: findings.Finding) -> str:
    return str(dataclasses.replace(finding, what=brief(finding.what, LONGEST), fix=brief(finding.fix, LONGEST)))
