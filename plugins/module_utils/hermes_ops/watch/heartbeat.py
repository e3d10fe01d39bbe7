# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is told how a host and its agents are, and of what."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from ..host import settings
from ..host.installation import Installation
from ..system.errors import OpsError
from . import drill, findings
from .pings import Ping, check_url, send

JOB = "heartbeat"
# For a job that reports: much less than any of them takes.
REPORT_SECONDS = 30.0


@dataclass(frozen=True)
class Settings:
    """``/etc/hermes-ops/heartbeat.json``.

    :param ping_url: what the host pings; ``""``: nothing
    :param profile_urls: profile -> what is pinged for it alone
    :param job_urls: ``update``, ``rehearsal``, ``backup`` -> what that job reports to, instead of ``ping_url``
    :param textfile: a file for node_exporter's textfile collector; ``""``: none
    :param period: seconds between two checks; nothing takes longer
    :param check: thresholds, see :class:`findings.Settings`
    """

    ping_url: str = ""
    profile_urls: dict[str, str] = field(default_factory=dict)
    job_urls: dict[str, str] = field(default_factory=dict)
    textfile: str = ""
    period: int = 120
    check: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, url in self._urls():
            check_url(name, url)
        for job in self.job_urls:
            if job not in ("update", "rehearsal", "backup"):
                raise OpsError(f"job_urls: {job!r} reports nothing", fix="declare update, rehearsal or backup")
        if not (self.ping_url or self.profile_urls or self.textfile):
            raise OpsError("nobody would hear the heartbeat", fix="declare ping_url, profile_urls or textfile")
        if self.textfile and not (os.path.isabs(self.textfile) and self.textfile.endswith(".prom")):
            raise OpsError("textfile is no absolute path that ends in .prom", fix="node_exporter reads no other")
        if self.period < 30:
            raise OpsError("period is less than 30 s", fix="declare 30 or more")
        thresholds = self.thresholds()
        if thresholds.reply_minutes and thresholds.reply_seconds > self.period / 2:
            raise OpsError("check: reply_seconds is more than half of period", fix="declare fewer seconds")

    def _urls(self) -> list[tuple[str, str]]:
        found = [("ping_url", self.ping_url)] if self.ping_url else []
        for kind in ("profile_urls", "job_urls"):
            found += [(f"{kind}: {name}", url) for name, url in getattr(self, kind).items()]
        return found

    def thresholds(self) -> findings.Settings:
        return settings.parse(findings.Settings, self.check, "check")


def declared() -> Settings | None:
    """The settings of this host; None when nobody is to hear of it.

    :raises OpsError: when they are wrong, or not ours to read
    """
    return settings.load(JOB, Settings) if os.path.exists(settings.path_of(JOB)) else None


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
    """What is to be said of *report*: to the host's URL all of it, to a profile's what concerns that profile.

    Without a URL of the host, what is wrong with the host itself is said to all profiles'.
    """
    pings = [_ping_of("ping_url", wanted.ping_url, report)] if wanted.ping_url else []
    for name, url in wanted.profile_urls.items():
        part = report.about(name)
        # One that is no longer there says nothing: that is an alert as well.
        if part.profiles:
            if not wanted.ping_url:
                part.findings = [*(finding for finding in report.findings if not finding.profile), *part.findings]
            pings.append(_ping_of(f"profile_urls: {name}", url, part))
    return pings


def _ping_of(name: str, url: str, report: findings.Report) -> Ping:
    if report.healthy:
        return Ping(name, url, "success", report.message)
    return Ping(name, url, "fail", "\n".join(str(finding) for finding in report.findings))
