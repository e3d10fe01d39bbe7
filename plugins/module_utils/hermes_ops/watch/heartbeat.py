# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is told how a host and its agents are, and of what."""

from __future__ import annotations

import time
from typing import Any

from ..host.installation import Installation
from ..system.errors import OpsError
from . import drill, findings
from .declared import Settings, declared
from .pings import Ping, send

# For a job that reports: much less than any of them takes.
REPORT_SECONDS = 30.0


def report(host: Installation, job: str, event: str, body: str) -> bool:
    """Tell whoever is declared how *job* goes. Never raises, and takes :data:`REPORT_SECONDS` at the most.

    :param job: ``check``, ``update``, ``rehearsal`` or ``backup``
    :param event: ``start``, ``success`` or ``fail``
    :param body: one line, or the reasons; no secrets
    :returns: whether somebody heard it; False as well when nobody is to
    """
    try:
        wanted = declared()
    except OpsError:
        return False
    if wanted is None or drill.of(host) == drill.SILENCE:
        return False
    url = wanted.job_urls.get(job)
    if not url:
        # The host's check is not well because one of its jobs went well.
        url, event = wanted.ping_url, "log" if event == "success" else event
    if not url:
        return False
    answers = send([Ping(job, url, event, body)], time.monotonic() + REPORT_SECONDS)
    return answers[job].problem is None


def conclude(host: Installation, job: str, failed: bool, message: str, **more: Any) -> None:
    """Write down how *job* ended, and tell whoever is declared.

    :param message: one sentence
    :param more: see :meth:`Installation.write_status`
    :raises OpsError: it cannot be written down, which is told as a failure
    """
    try:
        host.write_status(job, "failed" if failed else "success", message, **more)
    except OpsError as error:
        report(host, job, "fail", f"{message}; this cannot be written down: {error}")
        raise
    report(host, job, "fail" if failed else "success", message)


def pings_of(wanted: Settings, report: findings.Report) -> list[Ping]:
    """What is to be said of *report*: to the host's URL all of it, to an agent's what concerns that agent.

    Without a URL of the host, what is wrong with the host itself is said to all agents'.
    """
    pings = [_ping_of("ping_url", wanted.ping_url, report)] if wanted.ping_url else []
    for name, url in wanted.agent_urls.items():
        part = report.about(name)
        # One that is no longer there says nothing: that is an alert as well.
        if part.agents:
            if not wanted.ping_url:
                part.findings = [*(finding for finding in report.findings if not finding.agent), *part.findings]
            pings.append(_ping_of(f"agent_urls: {name}", url, part))
    return pings


def _ping_of(name: str, url: str, report: findings.Report) -> Ping:
    if report.healthy:
        return Ping(name, url, "success", report.message)
    return Ping(name, url, "fail", "\n".join(str(finding) for finding in report.findings))
