# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at the host and its agents, shared by ``check``, ``heartbeat`` and ``status``."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from ..agent.quote import quoted_error
from ..backup.separable import SEPARATE, shared_homes
from ..host.installation import RECORDED_JOBS, Installation
from ..host.settings import path_of as settings_path
from ..release.observe import stamp_of
from ..secrets import store
from ..supervise import health, servers
from ..supervise.gateway import current_release
from ..supervise.problems import Health
from ..supervise.systemd import supervisor_of
from ..system import network
from ..system.errors import OpsError
from ..system.files import write_json
from ..system.process import run
from ..system.text import number
from ..system.worker import prepare
from . import acknowledged, expiry, host_findings, sight, sources, tailnet
from .agent import AgentLook
from .findings import Finding, Report, Settings

JOB = "check"
LOCK_SECONDS = 20.0
# Jobs that may take a gateway down for a while -> the reason to report.
BUSY = {
    "update": "an update is running",
    "restore": "a restore is running",
    "separate": "an agent is being separated",
}
# Failed units that need no finding here: gateways, the canary and fetched secrets are checked by other means, and the
# heartbeat unit fails when its ping cannot be delivered.
OTHERWISE_SEEN = ("hermes-gateway@", "hermes-canary", "hermes-heartbeat", "hermes-secrets")
ASK_AGAIN_MINUTES = 10
# When a unit that failed stopped being active or starting.
_FAILED_AT = "InactiveEnterTimestampMonotonic"
_SQLITE_VERSION = "import sqlite3; print(sqlite3.sqlite_version)"


def look(host: Installation, settings: Settings, *, healths: Mapping[str, Health] | None = None) -> Report:
    """Look at the host once, without waiting for a change. Data for later looks is kept in ``status/check.json``.

    :param healths: agent -> its health, for agents whose health was just checked
    :raises OpsError: the agents of the host cannot be determined
    """
    with host.alone(JOB, timeout=LOCK_SECONDS) as alone:
        this = _Look(host, settings, healths or {})
        # The workers look at the agents in the meantime.
        this.at_host()
        this.at_agents()
        this.at_sqlite()
        this.ask()
        report = this.report
        report.findings.sort(key=lambda finding: not finding.failure)
        acknowledged.apply(report, acknowledged.parse(host.acknowledged), this.now)
        if alone:
            # A failure: before the warnings.
            report.findings[:0] = _remember(host, report, this.memory)
    return report


def _failed_units() -> dict[str, float]:
    """All failed units of ours in the system's manager, gateways included -> when they failed (seconds since 1970)."""
    patterns = ("hermes-*.service", "hermes-*.timer", "systemd-journal-upload.service")
    command = ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager", *patterns]
    answer = run(command, timeout=20, check=False).stdout
    names = [line.split()[0] for line in answer.splitlines() if line.strip()]
    if not names:
        return {}
    shown = run(["systemctl", "show", f"--property={_FAILED_AT}", *names], timeout=20, check=False).stdout
    # A line for each unit, in the order of the names: microseconds of the monotonic clock.
    times = re.findall(rf"^{_FAILED_AT}=(\d+)$", shown, re.M)
    if len(times) != len(names):
        # Unknown, so no success is later.
        return dict.fromkeys(names, math.inf)
    started = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    return {name: started + int(when) / 1e6 for name, when in zip(names, times)}


class _Look:
    """One look. Its workers start to look at the agents at once.

    :ivar report: the result
    :ivar memory: data from earlier looks, updated for the next one
    """

    def __init__(self, host: Installation, settings: Settings, healths: Mapping[str, Health]) -> None:
        self.host = host
        self.settings = settings
        self.now = time.time()
        self.report = Report(figures={"disks": {}, "agents": {}, "users": {}})
        self._statuses: dict[str, dict[str, Any]] = {}
        # Otherwise, what looks at them is not even imported.
        self._has_users = os.path.lexists(settings_path("runtimes"))
        self.memory = _mapping(self._status(JOB).get("memory"))
        agents = host.agents
        if agents:
            prepare(sight.FUNCTION)
        listeners = network.listeners(port for agent in agents for port in health.wanted_ports(agent))
        states = supervisor_of(host).state(agents)
        self.agents = [
            AgentLook(host, settings, agent, states[agent.name], listeners, self.now, healths) for agent in agents
        ]

    def _status(self, job: str) -> dict[str, Any]:
        """The recorded status of a job. If it cannot be read, that is a finding, once."""
        if job not in self._statuses:
            self._statuses[job] = {}
            try:
                self._statuses[job] = _mapping(self.host.read_status(job))
            except OpsError as error:
                self._find("status_unknown", f"{error.where}: {error.what}", error.fix, failure=False, subject=job)
        return self._statuses[job]

    def _find(self, cause: str, what: str, fix: str | None, **more: Any) -> None:
        """Add a finding; *more* as for :class:`Finding`."""
        self.report.findings.append(Finding(cause, what, fix or "see the log", **more))

    # --- the host ----------------------------------------------------------------------------------------------

    def at_host(self) -> None:
        found, settings = self.report.findings, self.settings
        found += host_findings.release_findings(self.host.root, current_release(self.host.root))
        found += host_findings.volume_findings(self.host.data_dir, self.host.data_volume)
        for path in dict.fromkeys((self.host.data_dir, "/")):
            try:
                status = os.statvfs(path)
            except OSError as error:
                self._find("disk_unknown", f"{path} cannot be examined ({error.strerror})", "see dmesg")
                continue
            self.report.figures["disks"][path] = host_findings.disk_figures(status)
            found += host_findings.disk_findings(path, status, settings)
        found += host_findings.interrupted_findings(self.host.ops_dir)
        for job in ("update", "rehearsal"):
            # The last result of a job that is no longer declared does not matter.
            if os.path.exists(settings_path(job)):
                found += host_findings.job_findings(job, self._status(job))
        declared = settings_path("backup")
        if os.path.exists(declared):
            since = os.stat(declared).st_mtime
            found += host_findings.backup_findings(self._status("backup"), since, self.now, settings)
        self.report.figures["clock_offset"] = offset = number(self.memory.get("clock_offset"))
        found += host_findings.clock_findings(offset, settings)
        for path in settings.certificates:
            found += expiry.certificate_findings(path, self.now, settings)
        found += sources.wall_findings()
        found += tailnet.look(self.host.ops_dir, self.memory, self.now, settings)
        if self._has_users:
            from . import runtimes

            found += runtimes.look(self.host.ops_dir)
        self._at_units()

    def _at_units(self) -> None:
        """Find further failed units of ours, which may have failed before they could report it."""
        told = {finding.cause.partition("_")[0] for finding in self.report.findings}
        for name, when in _failed_units().items():
            job, _dot, kind = name.removeprefix("hermes-").rpartition(".")
            # Both the timer's unit and that of a run by hand (detached.py).
            job = job.removesuffix("-by-hand")
            if kind == "service" and job in RECORDED_JOBS and host_findings.went_well_after(self._status(job), when):
                continue
            if job not in told and not name.startswith(OTHERWISE_SEEN):
                # Only a warning: anything that harms an agent or its data has a finding of its own.
                self._find(
                    "unit_failed",
                    f"{name} has failed",
                    f"see why: journalctl -u {name}; when that is mended: systemctl reset-failed {name}",
                    failure=False,
                    subject=name,
                )

    def at_sqlite(self) -> None:
        """Check the SQLite of the current release. Runs after the agents, because only WAL databases are affected."""
        host, release = self.host, current_release(self.host.root)
        if release is None or not any(agent.closer.wal for agent in self.agents):
            return
        if host_findings.release_findings(host.root, release):
            return
        known = _mapping(self.memory.get("sqlite"))
        if known.get("release") != release:
            # Safe to run as root: releases belong to root, and -I -S keeps out third-party code in site-packages.
            python = [os.path.join(host.root, "releases", release, "bin", "python"), "-I", "-S"]
            try:
                version = run([*python, "-c", _SQLITE_VERSION], timeout=20).stdout.strip()
            except OpsError as error:
                what = f"the release's Python: {quoted_error(error).what}"
                self._find("sqlite_unknown", what, "converge the host", failure=False)
                return
            self.memory["sqlite"] = known = {"release": release, "version": version}
        self.report.findings += host_findings.sqlite_findings(str(known.get("version")))

    def _version(self) -> str | None:
        """The version of the current release."""
        return stamp_of(self.host.root, current_release(self.host.root)).get("version")

    # --- the agents --------------------------------------------------------------------------------------------

    def at_agents(self) -> None:
        self._at_users()
        if not self.agents and not self.report.figures["users"].get("known"):
            self._find(
                "no_agent",
                f"no agent is known on this host ({self.host.ops_dir} holds none)",
                "mount the data volume, or converge the host: site.yml",
            )
        for problem in shared_homes(self.host.agents, self._version()):
            self._find("shared_home", problem, SEPARATE, failure=False)
        busy = next((text for job, text in BUSY.items() if self.host.busy(job)), None)
        before, after = _mapping(self.memory.get("agents")), {}
        for agent in self.agents:
            agent.look(_mapping(before.get(agent.name)), busy)
            self.report.findings += agent.findings
            self.report.agents.append(agent.health)
            self.report.figures["agents"][agent.name] = agent.figures
            after[agent.name] = agent.memory
        self.memory["agents"] = after

    def _at_users(self) -> None:
        known = _mapping(self.memory.pop("users", None))
        if self._has_users:
            from . import runtimes

            seen = runtimes.look_at_agents(self.host, known, self.now)
            found, self.memory["users"], self.report.figures["users"] = seen
            self.report.findings += found

    # --- a real reply ------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask for a real reply where one is due. Each look asks at most one agent, to bound the cost."""
        before = _mapping(self.memory.pop("replies", None))
        if not self.settings.reply_minutes:
            return
        well = {result.agent for result in self.report.agents if result.ok}
        agents = {agent.name: agent for agent in self.agents if agent.name in well and agent.agent.api.enabled}
        replies = {name: _mapping(before.get(name)) for name in agents}

        def due(name: str) -> float:
            minutes = self.settings.reply_minutes
            asked = number(replies[name].get("asked")) or 0.0
            if replies[name].get("problem"):
                # At once if its model has answered somebody else since.
                minutes = 0 if agents[name].answered > asked else min(minutes, ASK_AGAIN_MINUTES)
            # A time in the future comes from a clock that was fast; it counts as never asked.
            return asked + 60 * minutes if asked <= self.now else 0.0

        for name in sorted(replies, key=due)[:1]:
            if due(name) <= self.now:
                replies[name] = {"asked": self.now, **self._ask(agents[name])}
        self.memory["replies"] = replies
        for name, reply in replies.items():
            self.report.figures["agents"][name]["reply_seconds"] = reply.get("seconds")
            if reply.get("problem"):
                self._find("no_reply", f"asked for a reply: {reply['problem']}", reply.get("fix"), agent=name)

    def _ask(self, agent: AgentLook) -> dict[str, Any]:
        started = time.monotonic()
        placement = agent.agent
        key_in = [placement.home, placement.managed_dir]
        key = store.value_of(placement.name, "API_SERVER_KEY") if placement.source else None
        seconds = self.settings.reply_seconds
        try:
            servers.ask(placement.api, agent.account, servers.REPLY_PROMPT, key_in=key_in, key=key, timeout=seconds)
        except OpsError as error:
            return {"problem": error.what, "fix": error.fix}
        return {"seconds": round(time.monotonic() - started, 1)}


def _mapping(value: Any) -> dict[str, Any]:
    """*value* if it is a mapping, else ``{}``: a damaged file may hold anything."""
    return value if isinstance(value, dict) else {}


def _remember(host: Installation, report: Report, memory: dict[str, Any]) -> list[Finding]:
    try:
        host.write_status(
            JOB,
            "success" if report.healthy else "failed",
            report.message,
            findings=[finding.as_dict() for finding in report.findings],
            figures=report.figures,
            memory=memory,
        )
    except OpsError as error:
        return [Finding("not_remembered", f"{error.where} {error.what}", error.fix or "see dmesg")]
    return []


def remember_clock(host: Installation, offset: float) -> None:
    """Record for the next look by how many seconds the ping server's clock is ahead."""
    with host.alone(JOB, timeout=LOCK_SECONDS) as alone, contextlib.suppress(OpsError):
        status = _mapping(host.read_status(JOB))
        if alone and status:
            memory = {**_mapping(status.get("memory")), "clock_offset": round(offset, 1)}
            write_json(host.status_path(JOB), {**status, "memory": memory})
