# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests that each agent must pass before an update touches anything that runs: a backup, and a canary."""

from __future__ import annotations

from ..backup import archives, extracting, making
from ..description.agent import Agent
from ..supervise import canary
from .agents import Agents
from .data import Data
from .journal import Journal

# Name of this job's copies of homes, see canary.scratch.
SCRATCH = "canary"


class Trial:
    """The backups and canaries of one update."""

    def __init__(self, agents: Agents, data: Data, journal: Journal) -> None:
        self.agents = agents
        self.data = data
        self.journal = journal

    def snapshot(self, agent: Agent) -> str | None:
        """Make a backup and return its path; None when it failed for an agent that does not count."""
        name = agent.name
        with self.agents.veto(name, counts=name in self.journal.before):
            path = making.create(self.agents.host, agent, self.data.backups).path
            archives.prune(self.data.backups, name, self.agents.settings.keep_backups)
            self.agents.say(f"backup of {name}: {path}")
            return path
        return None

    def canary(self, agent: Agent, archive: str) -> None:
        """Try the release on a home that is extracted from the backup, which tests the backup as well.

        :param agent: one whose gateway runs
        """
        host, name = self.agents.host, agent.name
        with (
            self.agents.veto(name, counts=True),
            canary.scratch(host, agent, SCRATCH, self.agents.say) as scratch,
        ):
            extracting.extract(archive, scratch, host.account_of(agent))
            canary.lend_env(host, agent, scratch)
            copy = canary.prepare(host, agent, scratch)
            # If the agent does not reply now, the missing reply of its canary would prove nothing.
            reply = self.agents.asked(agent, self.journal.before[name]).health.reply
            answer = canary.boot(
                host,
                self.journal.target,
                copy,
                reply=reply,
                timeout=agent.health.timeout,
                stable=min(canary.STABLE_SECONDS, self.agents.settings.stable_seconds),
            )
        self.agents.say(f"canary of {name}: {answer['version']} is healthy on a copy")
