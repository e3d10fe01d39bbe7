# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pings to a server that speaks the Healthchecks ping protocol (https://healthchecks.io/docs/http_api/).

A ping URL is a secret: anybody who has it can suppress the alert. It appears in no error and on no command line.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

# Event -> the suffix of its ping URL.
EVENTS = {"start": "/start", "success": "", "fail": "/fail", "log": "/log"}
# Longest body. Healthchecks keeps 100 kB, but a ping only needs the reasons, not a log.
BODY_BYTES = 10_000
ATTEMPTS = 4
ATTEMPT_SECONDS = 10.0
# Seconds before the second attempt; doubled before each further one.
BACK_OFF = 1.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirects: a redirected POST would arrive as a GET, without its body."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


@dataclass(frozen=True)
class Answer:
    """The result of a ping.

    :param problem: why it did not arrive; None when it did
    :param final: another attempt cannot help
    :param offset: seconds that the server's clock is ahead of ours; None: unknown
    """

    problem: str | None
    final: bool = False
    offset: float | None = None


def _post(url: str, body: bytes, timeout: float) -> Answer:
    # Like other clients, this one takes its proxies from the environment.
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
    # The answer to an unknown UUID, with status 200 (healthchecks, hc/api/views.py: ping).
    if text.startswith("OK (not found)"):
        return Answer("the ping server does not know this check", final=True, offset=offset)
    return Answer(None, offset=offset)


def _refusal(status: int) -> Answer:
    if status in (404, 409, 410):
        return Answer(f"the ping server does not know this check (status {status})", final=True)
    if 300 <= status < 400:
        return Answer(f"the ping server redirects (status {status}): declare the URL that it leads to", final=True)
    # Time-outs (408), rate limits (429) and errors of the server (5xx) are temporary.
    return Answer(f"the ping server answers with status {status}", final=status < 500 and status not in (408, 429))


def _reason(error: Any) -> str:
    """Why there was no answer, in a text without any part of the URL."""
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
    """Seconds by which the header Date is ahead of our clock. Half a second makes up for its whole seconds."""
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - time.time() if date else None
    except (ValueError, TypeError, OverflowError):
        return None


def _ping(url: str, event: str, body: str, deadline: float) -> Answer:
    """Send *event* to *url*, with retries until *deadline* (monotonic clock)."""
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
    """One ping.

    :param name: stands for the URL in messages, because the URL itself is secret
    :param event: one of :data:`EVENTS`
    :param body: one line, or the reasons; no secrets
    """

    name: str
    url: str
    event: str
    body: str


def send(pings: list[Ping], deadline: float) -> dict[str, Answer]:
    """Send all of *pings* in parallel.

    Pings that are not done at *deadline* (monotonic clock) are abandoned, so that neither a slow resolver nor a server
    that sends one byte a second can hold us up.

    :returns: name of the ping -> its answer
    """
    answers = {ping.name: Answer("the ping server does not answer in time") for ping in pings}
    # Late threads only change this dictionary, never the one that is returned.
    done: dict[str, Answer] = {}

    def work(ping: Ping) -> None:
        done[ping.name] = _ping(ping.url, ping.event, ping.body, deadline)

    threads = [threading.Thread(target=work, args=(ping,), daemon=True) for ping in pings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {**answers, **done}
