# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signs of life to a server that speaks the Healthchecks ping protocol (https://healthchecks.io/docs/http_api/).

A ping URL is a secret: whoever has it can keep the alert from coming. It stands in no error, and in no command line.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from ..host import settings
from ..host.installation import Installation
from ..system.errors import OpsError
from . import measure

JOB = "heartbeat"
# What is appended to a ping URL.
EVENTS = {"start": "/start", "success": "", "fail": "/fail", "log": "/log"}
# Healthchecks keeps 100 kB of a body; more than this is no reason, but a log.
BODY_BYTES = 10_000
ATTEMPTS = 4
ATTEMPT_SECONDS = 10.0
# Before the second attempt, then twice as long each time.
BACK_OFF = 1.0
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
    :param check: thresholds, see :class:`measure.Settings`
    """

    ping_url: str = ""
    profile_urls: dict[str, str] = field(default_factory=dict)
    job_urls: dict[str, str] = field(default_factory=dict)
    textfile: str = ""
    period: int = 120
    check: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, url in self._urls():
            _check_url(name, url)
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

    def thresholds(self) -> measure.Settings:
        return settings.parse(measure.Settings, self.check, "check")


def _check_url(name: str, url: Any) -> None:
    """:raises OpsError: when *url* is none; does not say what it is instead"""
    try:
        parts = urllib.parse.urlsplit(url)
        good = (
            isinstance(url, str)
            and parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and "@" not in parts.netloc
            and parts.port != 0
            and not (parts.query or parts.fragment)
            and url.isascii()
            and url.isprintable()
            and " " not in url
        )
    except (ValueError, AttributeError):
        good = False
    if not good:
        raise OpsError(f"{name} is no ping URL", fix="declare one such as https://hc-ping.com/<uuid>, without a query")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, without its body."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


@dataclass(frozen=True)
class Answer:
    """What came of a ping.

    :param problem: why it did not arrive, None when it did
    :param final: trying again will not help
    :param offset: seconds that the server's clock is ahead of ours, where it told
    """

    problem: str | None
    final: bool = False
    offset: float | None = None


def _post(url: str, body: bytes, timeout: float) -> Answer:
    # Proxies as the environment says, like every other client.
    opener = urllib.request.build_opener(_NoRedirect)
    headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "hermes-ops"}
    try:
        with opener.open(urllib.request.Request(url, data=body, headers=headers), timeout=timeout) as answer:
            text = answer.read(200).decode("utf-8", "replace").strip()
            offset = _offset(answer.headers.get("Date"))
    except urllib.error.HTTPError as error:
        with error:
            return _refusal(error.code)
    except urllib.error.URLError as error:
        return Answer(_reason(error.reason))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(_reason(error))
    # An unknown UUID is answered so, with status 200 (healthchecks, hc/api/views.py: ping).
    if text.startswith("OK (not found)"):
        return Answer("the ping server does not know this check", final=True, offset=offset)
    return Answer(None, offset=offset)


def _refusal(status: int) -> Answer:
    if status in (404, 409, 410):
        return Answer(f"the ping server does not know this check (status {status})", final=True)
    if 300 <= status < 400:
        return Answer(f"the ping server redirects (status {status}): declare where to", final=True)
    # Too many at once, or its own trouble: that passes.
    return Answer(f"the ping server answers with status {status}", final=status < 500 and status not in (408, 429))


def _reason(error: Any) -> str:
    """Why nothing came back, in words that hold nothing of the URL."""
    if isinstance(error, TimeoutError):
        return "the ping server does not answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the ping server's certificate is not trusted ({error.verify_message})"
    if isinstance(error, http.client.HTTPException):
        return "the ping server's answer is not HTTP"
    if isinstance(error, OSError) and error.strerror:
        return f"the ping server cannot be reached ({error.strerror})"
    return f"the ping server cannot be reached ({type(error).__name__})"


def _offset(date: str | None) -> float | None:
    """Seconds that the header Date, which counts whole ones, is ahead of our clock."""
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - time.time() if date else None
    except (ValueError, TypeError, OverflowError):
        return None


def _ping(url: str, event: str, body: str, deadline: float) -> Answer:
    """Tell *url* of *event*; again after a while when that fails, until *deadline* (of the monotonic clock)."""
    target = url.rstrip("/") + EVENTS[event]
    data = body.encode("utf-8", "replace")[:BODY_BYTES]
    pause = BACK_OFF
    for attempt in range(ATTEMPTS):
        answer = _post(target, data, min(ATTEMPT_SECONDS, max(0.1, deadline - time.monotonic())))
        if answer.problem is None or answer.final or attempt == ATTEMPTS - 1 or time.monotonic() + pause >= deadline:
            break
        time.sleep(pause)
        pause *= 2
    return answer


@dataclass(frozen=True)
class Ping:
    """One sign of life.

    :param name: of the URL, which itself is said nowhere
    :param event: of :data:`EVENTS`
    :param body: one line, or the reasons; no secrets
    """

    name: str
    url: str
    event: str
    body: str


def send(pings: list[Ping], deadline: float) -> dict[str, Answer]:
    """Send all of *pings* side by side.

    Whatever is not done at *deadline* (of the monotonic clock) is left behind: neither a resolver nor a server that
    sends a byte a second can hold us up.

    :returns: what came of each, by its name
    """
    answers = {ping.name: Answer("the ping server does not answer in time") for ping in pings}
    # Not to be changed by a thread that is late.
    done: dict[str, Answer] = {}

    def work(ping: Ping) -> None:
        done[ping.name] = _ping(ping.url, ping.event, ping.body, deadline)

    threads = [threading.Thread(target=work, args=(ping,), daemon=True) for ping in pings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {**answers, **done}


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
    if wanted is None or drill_of(host) == SILENCE:
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


# --- the check, told -------------------------------------------------------------------------------------------


def pings_of(wanted: Settings, report: measure.Report) -> list[Ping]:
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


def _ping_of(name: str, url: str, report: measure.Report) -> Ping:
    if report.healthy:
        return Ping(name, url, "success", report.message)
    return Ping(name, url, "fail", "\n".join(str(finding) for finding in report.findings))


# --- the drill -------------------------------------------------------------------------------------------------

DRILL = "drill"
# What a drill may do: send failures, or nothing at all.
FAIL = "fail"
SILENCE = "silence"


def drill_of(host: Installation) -> str | None:
    """The drill that lasts: :data:`FAIL`, :data:`SILENCE`, or None."""
    try:
        status = host.read_status(DRILL)
    except OpsError:
        return None
    until = status.get("until")
    lasts = isinstance(until, (int, float)) and time.time() < until
    return status["status"] if lasts and status.get("status") in (FAIL, SILENCE) else None


DRILL_FINDING = measure.Finding(
    "drill", "this is a drill: nothing is wrong, and the alert has arrived", "end it: hermes-ops drill stop"
)


# --- node_exporter's textfile ----------------------------------------------------------------------------------


def textfile(report: measure.Report, now: float) -> str:
    """*report* in the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
    figures = report.figures
    lines = []

    def metric(name: str, text: str, values: list[tuple[dict[str, str], Any]]) -> None:
        if values:
            lines.append(f"# HELP {name} {text}")
            lines.append(f"# TYPE {name} gauge")
            lines.extend(f"{name}{_labels(labels)} {float(value):.15g}" for labels, value in values)

    def per_profile(key: str) -> list[tuple[dict[str, str], Any]]:
        found = figures.get("profiles", {}).items()
        return [({"profile": name}, values[key]) for name, values in found if values.get(key) is not None]

    metric("hermes_check_timestamp_seconds", "When the host was last looked at.", [({}, round(now))])
    metric("hermes_healthy", "Whether nothing is wrong.", [({}, report.healthy)])
    causes = Counter((finding.cause, finding.profile or "", finding.failure) for finding in report.findings)
    metric(
        "hermes_finding",
        "What is wrong, by its cause.",
        [
            ({"cause": cause, "profile": profile, "severity": "failure" if failure else "warning"}, number)
            for (cause, profile, failure), number in sorted(causes.items())
        ],
    )
    metric(
        "hermes_gateway_healthy",
        "Whether the agent is there.",
        [({"profile": result.profile}, result.ok) for result in report.profiles],
    )
    metric("hermes_gateway_memory_bytes", "Memory of the gateway's unit.", per_profile("memory_bytes"))
    metric("hermes_gateway_open_files", "Open file descriptors of the gateway.", per_profile("open_files"))
    metric("hermes_gateway_restarts", "Restarts by systemd within the last hour.", per_profile("restarts"))
    metric("hermes_turns", "Messages to the agent within the last hour.", per_profile("turns"))
    metric("hermes_turns_failed", "Of these, those without an answer.", per_profile("turns_failed"))
    disks = figures.get("disks", {}).items()
    metric(
        "hermes_disk_free_ratio", "Free share.", [({"path": path}, disk["free_percent"] / 100) for path, disk in disks]
    )
    if figures.get("clock_offset") is not None:
        metric("hermes_clock_offset_seconds", "How far the ping server is ahead.", [({}, figures["clock_offset"])])
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}" if labels else ""
