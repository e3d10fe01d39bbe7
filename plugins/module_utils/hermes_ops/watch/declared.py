# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared settings of a host's heartbeat, including its thresholds.

Kept apart from the code that sends pings: the check, which runs every two minutes, needs only the thresholds, and
importing HTTP and TLS is slow.
"""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from ..host import settings
from ..system.errors import OpsError
from ..system.typed import parse
from . import findings

JOB = "heartbeat"


@dataclass(frozen=True)
class Settings:
    """``/etc/hermes-ops/heartbeat.json``.

    :param ping_url: URL that the host pings; ``""``: none
    :param agent_urls: agent -> URL that is pinged for this agent alone
    :param job_urls: ``update``, ``rehearsal``, ``backup`` -> URL that the job pings instead of ``ping_url``
    :param textfile: a file for node_exporter's textfile collector; ``""``: none
    :param period: seconds between two checks; also the time limit of a check
    :param check: thresholds, see :class:`findings.Settings`
    """

    ping_url: str = ""
    agent_urls: dict[str, str] = field(default_factory=dict)
    job_urls: dict[str, str] = field(default_factory=dict)
    textfile: str = ""
    period: int = 120
    check: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, url in self._urls():
            check_url(name, url)
        for job in self.job_urls:
            if job not in ("update", "rehearsal", "backup"):
                raise OpsError(
                    f"job_urls: {job!r} is not a job that reports", fix="declare update, rehearsal or backup"
                )
        if not (self.ping_url or self.agent_urls or self.textfile):
            raise OpsError(
                "the heartbeat has no receiver",
                fix="declare heartbeat_ping_url, heartbeat_agent_urls or heartbeat_textfile",
            )
        if self.textfile and not (os.path.isabs(self.textfile) and self.textfile.endswith(".prom")):
            raise OpsError(
                "textfile is not an absolute path that ends in .prom",
                fix="declare such a path; node_exporter reads no other files",
            )
        if self.period < 30:
            raise OpsError("period is less than 30 s", fix="declare 30 or more")
        thresholds = self.thresholds()
        if thresholds.reply_minutes and thresholds.reply_seconds > self.period / 2:
            raise OpsError("check: reply_seconds is more than half of period", fix="declare fewer seconds")

    def _urls(self) -> list[tuple[str, str]]:
        found = [("ping_url", self.ping_url)] if self.ping_url else []
        for kind in ("agent_urls", "job_urls"):
            found += [(f"{kind}: {name}", url) for name, url in getattr(self, kind).items()]
        return found

    def thresholds(self) -> findings.Settings:
        return parse(findings.Settings, self.check, "check")


def check_url(name: str, url: Any) -> None:
    """:raises OpsError: *url* is not a ping URL; the error does not quote *url*, which may hold a secret"""
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
        raise OpsError(
            f"{name} is not a ping URL", fix="declare one such as https://hc-ping.com/<uuid>, without a query"
        )


def declared() -> Settings | None:
    """The heartbeat settings of this host; None when no heartbeat is declared.

    :raises OpsError: the settings are invalid, or we may not read them
    """
    return settings.load(JOB, Settings) if os.path.exists(settings.path_of(JOB)) else None


def thresholds() -> findings.Settings:
    """The thresholds declared with the heartbeat, or the defaults."""
    wanted = declared()
    return wanted.thresholds() if wanted else findings.Settings()
