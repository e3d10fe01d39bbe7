# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the host and its agents, once: what ``check``, ``heartbeat`` and ``status`` have in common."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

from ..agent import dotenv
from ..agent.state import read_state
from ..backup.separable import SEPARATE, shared_homes
from ..host.installation import Installation
from ..host.settings import path_of as settings_path
from ..supervise import health
from ..supervise.gateway import current_release
from ..supervise.managers import grouped, units_of
from ..system.errors import OpsError
from ..system.files import acting_as, read_json, read_text, write_json
from ..system.process import run
from ..system.systemd import Unit
from . import measure
from .measure import Finding, Report, Settings, number

JOB = "check"
LOCK_SECONDS = 20.0
# What may take a gateway down for a while: job -> why.
BUSY = {
    "update": "an update is running",
    "restore": "a restore is running",
    "separate": "an agent is being separated",
}
# And for how many seconds that is an excuse.
EXCUSED = 600
# Units that a look has other means for; and the heartbeat, which fails when nobody can be told.
OTHERWISE_SEEN = ("hermes-gateway@", "hermes-canary", "hermes-heartbeat")
# Since the event loop last turned, which it says every 30 s.
FROZEN = 120.0
ASK_AGAIN_MINUTES = 10


def look(host: Installation, settings: Settings, *, healths: Mapping[str, health.Health] | None = None) -> Report:
    """Look at the host once; waits for nothing. What only time shows is remembered in ``status/check.json``.

    :param healths: profile -> its health, where somebody has just looked
    :raises OpsError: when it cannot be known which agents there are
    """
    profiles = host.profiles
    with host.alone(JOB, timeout=LOCK_SECONDS) as alone:
        this = _Look(host, settings)
        this.at_host()
        this.at_agents(profiles, healths or {})
        this.ask()
        report = this.report
        report.findings.sort(key=lambda finding: not finding.failure)
        if alone:
            report.findings += _remember(host, report, this.memory)
    return report


def _failed_units() -> list[str]:
    """The units of ours, gateways and all, that the system's manager calls failed."""
    patterns = ("hermes-*.service", "hermes-*.timer", "systemd-journal-upload.service")
    command = ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager", *patterns]
    answer = run(command, timeout=20, check=False).stdout
    return [line.split()[0] for line in answer.splitlines() if line.strip()]


class _Look:
    """One look.

    :ivar report: what it finds
    :ivar memory: what earlier ones have left for it, and it leaves for the next
    """

    def __init__(self, host: Installation, settings: Settings) -> None:
        self.host = host
        self.settings = settings
        self.now = time.time()
        self.report = Report(figures={"disks": {}, "profiles": {}})
        self.memory = _mapping(self._status(JOB).get("memory"))

    def _status(self, job: str) -> dict[str, Any]:
        """What a job wrote down; that it cannot be read is a finding."""
        try:
            return _mapping(self.host.read_status(job))
        except OpsError as error:
            self._find("status_unknown", f"{error.where}: {error.what}", error.fix, failure=False)
            return {}

    def _find(
        self, cause: str, what: str, fix: str | None, *, failure: bool = True, profile: str | None = None
    ) -> None:
        self.report.findings.append(Finding(cause, what, fix or "see the log", failure, profile))

    # --- the host ----------------------------------------------------------------------------------------------

    def at_host(self) -> None:
        found, settings = self.report.findings, self.settings
        found += measure.volume_findings(self.host.data_dir, settings.data_volume, _fstab())
        for path in dict.fromkeys((self.host.data_dir, "/")):
            try:
                status = os.statvfs(path)
            except OSError as error:
                self._find("disk_unknown", f"{path} cannot be looked at ({error.strerror})", "see dmesg")
                continue
            self.report.figures["disks"][path] = measure.disk_figures(status)
            found += measure.disk_findings(path, status, settings)
        for job in ("update", "rehearsal"):
            # What is not done any more need not succeed any more.
            if os.path.exists(settings_path(job)):
                found += measure.job_findings(job, self._status(job))
        declared = settings_path("backup")
        if os.path.exists(declared):
            since = os.stat(declared).st_mtime
            found += measure.backup_findings(self._status("backup"), since, self.now, settings)
        self.report.figures["clock_offset"] = offset = number(self.memory.get("clock_offset"))
        found += measure.clock_findings(offset, settings)
        for path in settings.certificates:
            found += measure.certificate_findings(path, self.now, settings)
        self._at_sqlite()
        self._at_units()

    def _at_units(self) -> None:
        """What else of ours has failed, and may have done so before it could tell anybody."""
        told = {finding.cause.partition("_")[0] for finding in self.report.findings}
        for name in _failed_units():
            job = name.removeprefix("hermes-").partition(".")[0]
            if job not in told and not name.startswith(OTHERWISE_SEEN):
                # A warning: what harms an agent, or its data, has a finding of its own.
                self._find("unit_failed", f"{name} has failed", f"see why: journalctl -u {name}", failure=False)

    def _at_sqlite(self) -> None:
        host, release = self.host, current_release(self.host.root)
        if release is None or not any(
            measure.uses_wal(profile["home"], host.owner_of(profile)) for profile in host.profiles
        ):
            return
        known = _mapping(self.memory.get("sqlite"))
        if known.get("release") != release:
            python = os.path.join(host.root, "releases", release, "bin", "python")
            command = [python, "-I", "-c", "import sqlite3; print(sqlite3.sqlite_version)"]
            try:
                version = run(command, timeout=20, user=host.owner_of(host.profiles[0])).stdout.strip()
            except OpsError as error:
                self._find("sqlite_unknown", f"the release's Python: {error.what}", "converge the host", failure=False)
                return
            self.memory["sqlite"] = known = {"release": release, "version": version}
        self.report.findings += measure.sqlite_findings(str(known.get("version")))

    def _version(self) -> str | None:
        """The version of the release that is current."""
        release = current_release(self.host.root)
        stamp = read_json(os.path.join(self.host.root, "releases", release, "release.json")) if release else None
        return _mapping(stamp).get("version")

    # --- the agents --------------------------------------------------------------------------------------------

    def at_agents(self, profiles: list[dict[str, Any]], healths: Mapping[str, health.Health]) -> None:
        """:param healths: of those that somebody has just looked at"""
        host = self.host
        if not profiles:
            self._find(
                "no_agent",
                f"no agent is known on this host ({host.ops_dir} holds none)",
                "mount the data volume, or converge the host: site.yml",
            )
        for problem in shared_homes(profiles, self._version()):
            self._find("shared_home", problem, SEPARATE, failure=False)
        units, memories = units_of(profiles, host.manager_of), _unit_memories(host, profiles)
        busy = next((text for job, text in BUSY.items() if host.busy(job)), None)
        before, after = _mapping(self.memory.get("profiles")), {}
        for profile in profiles:
            name, unit = profile["name"], units[profile["unit"]]
            result = healths.get(name) or health.check(profile, host.owner_of(profile), unit)
            known = _mapping(before.get(name))
            self.report.profiles.append(result)
            after[name] = {
                **self._at_health(profile, unit, result, known, busy),
                **self._closer(profile, unit, memories[unit.name], known),
            }
        self.memory["profiles"] = after

    def _at_health(
        self, profile: dict[str, Any], unit: Unit, result: health.Health, known: dict[str, Any], busy: str | None
    ) -> dict[str, Any]:
        """:returns: what to remember of it"""
        since = number(known.get("excused")) or self.now
        excuse = busy if self.now - since <= EXCUSED else None
        found = measure.health_findings(result, unit, excuse)
        if any(finding.failure for finding in found) and not result.log:
            health.explain(profile, self.host.manager_of(profile), result)
            found = measure.health_findings(result, unit, excuse)
        self.report.findings += found
        return {"excused": since} if busy and not result.ok else {}

    def _closer(
        self, profile: dict[str, Any], unit: Unit, unit_memory: int | None, known: dict[str, Any]
    ) -> dict[str, Any]:
        """What health does not ask.

        :param known: what was remembered of the profile
        :returns: what to remember of it
        """
        owner, found = self.host.owner_of(profile), self.report.findings
        name, home = profile["name"], profile["home"]
        samples: dict[str, Any] = {
            "restarts": measure.remember_restarts(known.get("restarts"), unit.restarts, self.now)
        }
        restarts = measure.climbed(samples["restarts"])
        figures = self.report.figures["profiles"][name] = {"up": unit.running, "restarts": restarts}
        if restarts > self.settings.restarts:
            what = f"it was restarted {restarts} times within the hour"
            self._find("restarts", what, f"see why it ends: {unit.log}", profile=name)
        environment = self._environment(profile)
        for key, value in environment.items():
            end = measure.token_end(value)
            if end is not None:
                found += measure.expiry_findings(f"the token {key}", end, self.now, self.settings, name)
        if unit.running:
            process = measure.look_at_process(unit.pid, owner, unit_memory)
            figures.update(memory_bytes=process.memory, open_files=process.descriptors)
            found += measure.memory_findings(process.memory, self.settings, name)
            samples["climb"] = measure.remember_hour(known.get("climb"), unit.pid, process, self.now)
            found += measure.climb_findings(samples["climb"]["hours"], name)
            samples["deaf"] = self._deaf(profile, unit, process, environment, known.get("deaf"))
            self._frozen(profile, unit)
        try:
            turns = measure.read_turns(home, owner, self.now)
        except OpsError as error:
            self._find("turns_unknown", f"{error.where} {error.what}", error.fix, failure=False, profile=name)
        else:
            figures.update(turns=turns.total, turns_failed=turns.failed)
            found += measure.turn_findings(turns, self.settings, name)
        return samples

    def _environment(self, profile: dict[str, Any]) -> dict[str, str]:
        """The profile's ``.env``, and that of its managed scope; what cannot be read is health's to tell."""
        found: dict[str, str] = {}
        for directory in (profile["home"], profile["managed_dir"]):
            with contextlib.suppress(OpsError), acting_as(self.host.owner_of(profile)):
                found.update(dotenv.read_env(os.path.join(directory, dotenv.FILE_NAME)))
        return found

    def _deaf(
        self, profile: dict[str, Any], unit: Unit, process: measure.Process, environment: dict[str, str], known: Any
    ) -> dict[str, Any]:
        """:returns: what was deaf, for the next look: Telegram's connection is opened anew from time to time, so only
        what is deaf twice is"""
        state = read_state(profile["home"], self.host.owner_of(profile))
        deaf = measure.deaf_platforms(state, process) if state.get("pid") == unit.pid else []
        if environment.get("TELEGRAM_WEBHOOK_URL"):
            # Then Telegram comes to it.
            deaf = [name for name in deaf if name != "telegram"]
        now = {"pid": unit.pid, "platforms": deaf}
        if deaf and known == now:
            what = f"{', '.join(deaf)}: connected, says Hermes, but its process has no connection to anywhere"
            self._find("deaf", what, unit.command("restart"), profile=profile["name"])
        return now

    def _frozen(self, profile: dict[str, Any], unit: Unit) -> None:
        try:
            with acting_as(self.host.owner_of(profile)):
                beat = read_json(os.path.join(profile["home"], "state", "gateway.heartbeat"))
        except (OpsError, RecursionError):
            return
        seconds = measure.frozen_for(beat, unit.pid, time.monotonic())
        if seconds > FROZEN:
            what = f"its event loop has not turned for {seconds:.0f} s"
            self._find("frozen", what, unit.command("restart"), profile=profile["name"])

    # --- a real reply ------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask for a real reply where one is due: at most one agent at each look, so that its cost is bounded."""
        before = _mapping(self.memory.pop("replies", None))
        if not self.settings.reply_minutes:
            return
        well = {result.profile for result in self.report.profiles if result.ok}
        agents = {p["name"]: p for p in self.host.profiles if p["name"] in well and p["api"]["enabled"]}
        replies = {name: _mapping(before.get(name)) for name in agents}

        def due(name: str) -> float:
            minutes = self.settings.reply_minutes
            if replies[name].get("problem"):
                minutes = min(minutes, ASK_AGAIN_MINUTES)
            asked = number(replies[name].get("asked")) or 0.0
            # Asked in the future: by a clock that was fast.
            return asked + 60 * minutes if asked <= self.now else 0.0

        for name in sorted(replies, key=due)[:1]:
            if due(name) <= self.now:
                replies[name] = {"asked": self.now, **self._ask(agents[name])}
        self.memory["replies"] = replies
        for name, reply in replies.items():
            self.report.figures["profiles"][name]["reply_seconds"] = reply.get("seconds")
            if reply.get("problem"):
                self._find("no_reply", f"asked for a reply: {reply['problem']}", reply.get("fix"), profile=name)

    def _ask(self, profile: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        key = self._environment(profile).get("API_SERVER_KEY", "")
        try:
            health.ask(profile["api"], key, health.REPLY_PROMPT, timeout=self.settings.reply_seconds)
        except OpsError as error:
            return {"problem": error.what, "fix": error.fix}
        return {"seconds": round(time.monotonic() - started, 1)}


def _mapping(value: Any) -> dict[str, Any]:
    """*value*, when it is a mapping: a file that was damaged may hold anything."""
    return value if isinstance(value, dict) else {}


def _fstab() -> str:
    try:
        return read_text("/etc/fstab") or ""
    except OpsError:
        return ""


def _unit_memories(host: Installation, profiles: list[dict[str, Any]]) -> dict[str, int | None]:
    """What systemd says each unit uses, None where it does not count."""
    found: dict[str, int | None] = {profile["unit"]: None for profile in profiles}
    for manager, members in grouped(profiles, host.manager_of):
        units = [profile["unit"] for profile in members]
        answer = manager.call("show", "--property", "Id,MemoryCurrent", *units, check=False).stdout
        for block in answer.split("\n\n"):
            values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            # "[not set]", or the largest number there is: without the controller.
            number = values.get("MemoryCurrent", "")
            if values.get("Id") in found and number.isdigit() and int(number) < 2**63:
                found[values["Id"]] = int(number)
    return found


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
    """Keep for the next look how far the ping server's clock is ahead (seconds)."""
    with host.alone(JOB, timeout=LOCK_SECONDS) as alone, contextlib.suppress(OpsError):
        status = _mapping(host.read_status(JOB))
        if alone and status:
            memory = {**_mapping(status.get("memory")), "clock_offset": round(offset, 1)}
            write_json(host.status_path(JOB), {**status, "memory": memory})
