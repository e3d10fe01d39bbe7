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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import measure, settings
from .errors import OpsError
from .installation import Installation

# What is appended to a ping URL.
EVENTS = {"start": "/start", "success": "", "fail": "/fail"}
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

    :param ping_url: what the host pings; None: nothing
    :param profile_urls: profile -> what is pinged for it alone
    :param job_urls: ``update``, ``rehearsal``, ``backup`` -> what that job reports to, instead of ``ping_url``
    :param textfile: a file for node_exporter's textfile collector; None: none
    :param period: seconds between two checks; nothing takes longer
    :param reply_minutes: the agents are asked for a real reply when the last one is that old; 0: never
    :param reply_seconds: what such a reply may take
    :param check: thresholds, see :class:`measure.Settings`
    """

    ping_url: str | None = None
    profile_urls: dict[str, str] = field(default_factory=dict)
    job_urls: dict[str, str] = field(default_factory=dict)
    textfile: str | None = None
    period: int = 120
    reply_minutes: int = 0
    reply_seconds: int = 60
    check: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, url in self._urls():
            _check_url(name, url)
        for job in self.job_urls:
            if job not in ("update", "rehearsal", "backup"):
                raise OpsError(f"job_urls: {job!r} reports nothing", fix="declare update, rehearsal or backup")
        if not (self.ping_url or self.profile_urls or self.textfile):
            raise OpsError("nobody would hear the heartbeat", fix="declare ping_url, profile_urls or textfile")
        if self.textfile is not None and not (os.path.isabs(self.textfile) and self.textfile.endswith(".prom")):
            raise OpsError("textfile is no absolute path that ends in .prom", fix="node_exporter reads no other")
        if self.period < 30:
            raise OpsError("period is less than 30 s", fix="declare 30 or more")
        if self.reply_minutes < 0:
            raise OpsError("reply_minutes is negative", fix="declare minutes, or 0 for never")
        if not 1 <= self.reply_seconds <= self.period / 2:
            raise OpsError("reply_seconds is more than half of period, or less than 1", fix="declare fewer seconds")
        self.thresholds()

    def _urls(self) -> list[tuple[str, str]]:
        found = [("ping_url", self.ping_url)] if self.ping_url is not None else []
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
    :param date: the server's clock (seconds since 1970), where it told
    """

    problem: str | None
    final: bool = False
    date: float | None = None


def _post(url: str, body: bytes) -> Answer:
    # Proxies as the environment says, like every other client.
    opener = urllib.request.build_opener(_NoRedirect)
    headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "hermes-ops"}
    try:
        with opener.open(urllib.request.Request(url, data=body, headers=headers), timeout=ATTEMPT_SECONDS) as answer:
            text = answer.read(200).decode("utf-8", "replace").strip()
            date = _date(answer.headers.get("Date"))
    except urllib.error.HTTPError as error:
        with error:
            return _refusal(error.code)
    except urllib.error.URLError as error:
        return Answer(_reason(error.reason))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(_reason(error))
    # An unknown UUID is answered so, with status 200 (healthchecks, hc/api/views.py: ping).
    if text.startswith("OK (not found)"):
        return Answer("the ping server does not know this check", final=True, date=date)
    return Answer(None, date=date)


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
        return f"the ping server does not answer within {ATTEMPT_SECONDS:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the ping server's certificate is not trusted ({error.verify_message})"
    if isinstance(error, http.client.HTTPException):
        return "the ping server's answer is not HTTP"
    if isinstance(error, OSError) and error.strerror:
        return f"the ping server cannot be reached ({error.strerror})"
    return f"the ping server cannot be reached ({type(error).__name__})"


def _date(text: str | None) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None


def bounded(work: Callable[[], Answer], seconds: float) -> Answer:
    """*work*, left behind when it takes longer: neither a resolver nor a server that sends a byte a second can hold
    us up."""
    box: list[Answer] = []
    thread = threading.Thread(target=lambda: box.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    return box[0] if box else Answer(f"the ping server does not answer within {seconds:.0f} s")


def ping(url: str, event: str, body: str, deadline: float) -> Answer:
    """Tell *url* of *event*, again after a while when that fails, until *deadline* (of the monotonic clock)."""
    target = url.rstrip("/") + EVENTS[event]
    data = body.encode()[:BODY_BYTES]
    pause = BACK_OFF
    answer = Answer("there was no time left to ping")
    for attempt in range(ATTEMPTS):
        left = deadline - time.monotonic()
        if attempt:
            if left <= pause:
                break
            time.sleep(pause)
            left -= pause
            pause *= 2
        if left <= 0:
            break
        answer = bounded(lambda: _post(target, data), min(left, ATTEMPT_SECONDS + 1))
        if answer.problem is None or answer.final:
            break
    return answer


def report(host: Installation, job: str, event: str, body: str) -> bool:
    """Tell whoever is declared how *job* goes. Never raises, and takes :data:`REPORT_SECONDS` at the most.

    :param job: ``check``, ``update``, ``rehearsal`` or ``backup``
    :param event: ``start``, ``success`` or ``fail``
    :param body: one line, or the reasons; no secrets
    :returns: whether somebody heard it; False as well when nobody is declared
    """
    try:
        if not os.path.exists(settings.path_of("heartbeat")):
            return False
        declared = settings.load("heartbeat", Settings)
    except OpsError:
        return False
    url = declared.job_urls.get(job) or declared.ping_url
    if url is None:
        return False
    return ping(url, event, body, time.monotonic() + REPORT_SECONDS).problem is None
