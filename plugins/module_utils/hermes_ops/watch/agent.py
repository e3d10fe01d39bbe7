# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at one agent: its health, its process, its turns, and changes since earlier looks."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ..description.agent import Agent
from ..host import logs
from ..host.installation import Installation
from ..host.records import STAYS, decision
from ..supervise import health, journal
from ..supervise import sight as health_sight
from ..supervise.problems import Health, Problem
from ..supervise.sight import Sight
from ..supervise.supervisor import State
from ..supervise.systemd import supervisor_of
from ..system.errors import OpsError
from ..system.text import number
from . import expiry, history, process, sight, sources
from .findings import Finding, Settings, health_findings
from .growth import growth_findings
from .serving import serving_findings
from .sight import Closer
from .turns import DATABASE_FIX, Turns, turn_findings

# Seconds for which a job that takes a gateway down excuses a finding.
EXCUSED = 600
# Seconds without a heartbeat of the event loop, which writes one every 30 s, after which the loop counts as frozen.
FROZEN = 120.0
# Of an agent that has moved, and of one whose move was interrupted.
_MOVED = "declare it absent, or move it back: hermes-ops runtime move USER --to AGENT"
_MOVING = "run the same hermes-ops runtime move again"


class AgentLook:
    """A look at one agent. Its worker starts at once; :meth:`look` waits for the answer.

    :param listeners: see :func:`network.listeners`
    :param healths: agent -> its health, for agents whose health was just checked
    :ivar findings: the findings about this agent
    :ivar figures: measured values, for programs
    :ivar memory: data to remember for the next look
    """

    def __init__(
        self,
        host: Installation,
        settings: Settings,
        agent: Agent,
        state: State,
        listeners: dict[int, set[int]],
        now: float,
        healths: Mapping[str, Health],
    ) -> None:
        self.host, self.settings, self.agent, self.gateway = host, settings, agent, state
        self.listeners, self.now = listeners, now
        self.name: str = agent.name
        self.account = host.account_of(agent)
        self.findings: list[Finding] = []
        self.figures: dict[str, Any] = {"up": state.running}
        self.memory: dict[str, Any] = {}
        self.closer = Closer()
        self.health = healths.get(self.name)
        self._process = process.look_at_process(state.pid, state.memory) if state.running else None
        blind = health.blind_ports(agent, listeners)
        wanted = {
            **health_sight.wanted_of(agent, gateway=state.pid if state.running else 0, blind=blind),
            "managed_dir": agent.managed_dir,
            "now": now,
            "adopted": host.records(agent.name).adopted(agent),
            "rotated": logs.rotated(agent.name) or not os.path.exists(logs.TIMER),
            "pid": state.pid if self._process and self._process.descriptors < 0 else 0,
        }
        self._answer = health_sight.start(self.account, wanted, sight.FUNCTION)

    def look(self, known: dict[str, Any], busy: str | None) -> None:
        """Wait for the worker, and fill in findings, figures and memory.

        :param known: :attr:`memory` of the previous look
        :param busy: the running job that may take the agent down; None: there is none
        """
        answer = self._answer()
        if isinstance(answer, OpsError):
            self._find("turns_unknown", f"{answer.where}: {answer.what}", answer.fix, failure=False)
        else:
            self.closer = Closer.of(answer)
        if self.health is None:
            self.health = health.judge(self.agent, self.gateway, self.listeners, answer)
        self._at_move(self.health)
        self._at_health(self.health, known, busy)
        if self.host.records(self.name).is_undeclared():
            self._find("undeclared", f"it left hermes_agents; {STAYS}", decision(self.agent), failure=False)
        if self.agent.source:
            self.findings += sources.source_findings(self.name, self.now)
        self._at_restarts(known)
        self._at_process(Sight.of(answer).state, known)
        self._at_files(Sight.of(answer).state)

    @property
    def answered(self) -> float:
        """When its model answered last within the last hour (seconds since 1970); 0.0: not then, or unknown."""
        counted = self.closer.turns
        return counted.answered if isinstance(counted, Turns) else 0.0

    def _find(self, cause: str, what: str, fix: str | None, *, failure: bool = True) -> None:
        self.findings.append(Finding(cause, what, fix or "see the log", failure, self.name))

    def _at_move(self, result: Health) -> None:
        """Whoever has moved must not be started here, so nobody is told to."""
        moved = self.host.records(self.name).moved() if self.gateway.ended else None
        if moved:
            what = f"it has moved to {moved.to}" if moved.done else f"its move to {moved.to} is not finished"
            result.problems = [Problem("moved", what, _MOVED if moved.done else _MOVING, True)]

    def _at_health(self, result: Health, known: dict[str, Any], busy: str | None) -> None:
        since = number(known.get("excused")) or self.now
        excuse = busy if self.now - since <= EXCUSED else None
        found = health_findings(result, self.gateway, excuse)
        if any(finding.failure for finding in found) and not result.log:
            journal.explain(self.agent, supervisor_of(self.host), result)
            found = health_findings(result, self.gateway, excuse)
        self.findings += found
        if busy and not result.ok:
            self.memory["excused"] = since

    def _at_restarts(self, known: dict[str, Any]) -> None:
        samples = history.remember_restarts(known.get("restarts"), self.gateway.restarts, self.now)
        self.memory["restarts"] = samples
        self.figures["restarts"] = restarts = history.climbed(samples)
        if restarts > self.settings.restarts:
            what = f"it was restarted {restarts} times within an hour"
            self._find("restarts", what, f"see why it ends: {self.gateway.log}")

    def _at_process(self, state: dict[str, Any], known: dict[str, Any]) -> None:
        seen = self._process
        if seen is None:
            return
        if self.closer.sockets is not None:
            seen = process.Process(*self.closer.sockets, seen.memory)
        self.figures.update(memory_bytes=seen.memory, open_files=seen.descriptors)
        self.findings += process.memory_findings(seen.memory, self.settings, self.name)
        self.memory["climb"] = history.remember_hour(known.get("climb"), self.gateway.pid, seen, self.now)
        self.findings += history.climb_findings(self.memory["climb"]["hours"], self.name)
        self.memory["deaf"] = self._deaf(state, seen, known.get("deaf"))
        seconds = process.frozen_for(self.closer.beat, self.gateway.pid, time.monotonic())
        if seconds > FROZEN:
            what = f"its event loop has been stuck for {seconds:.0f} s"
            self._find("frozen", what, self.gateway.restart)

    def _deaf(self, state: dict[str, Any], seen: process.Process, known: Any) -> dict[str, Any]:
        """Report platforms that are deaf twice in a row: Telegram closes and reopens its connection from time to time.

        :returns: the platforms that are deaf now, to remember for the next look
        """
        deaf = process.deaf_platforms(state, seen) if state.get("pid") == self.gateway.pid else []
        if self.closer.telegram_calls:
            deaf = [name for name in deaf if name != "telegram"]
        now = {"pid": self.gateway.pid, "platforms": deaf}
        if deaf and known == now:
            what = f"{', '.join(deaf)}: connected according to Hermes, but its process has no outgoing connection"
            self._find("deaf", what, self.gateway.restart)
        return now

    def _at_files(self, state: dict[str, Any]) -> None:
        tokens = {**self.closer.tokens, **(sources.token_ends(self.name) if self.agent.source else {})}
        self.findings += expiry.token_findings(tokens, self.now, self.settings, self.name)
        self.findings += growth_findings(self.closer.kept, self.name)
        own = state if state.get("pid") == self.gateway.pid else {}
        self.findings += serving_findings(own, self.closer.parked, self.name)
        counted = self.closer.turns
        if isinstance(counted, str):
            self._find("turns_unknown", counted, DATABASE_FIX, failure=False)
        elif counted is not None:
            self.figures.update(turns=counted.total, turns_failed=counted.failed)
            self.findings += turn_findings(counted, self.settings, self.name)
