# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health of an agent, and the problems that make it unhealthy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CONFIG_FIX = "repair the file, or put the last working copy back: hermes-ops restore --kept"

PROVIDER_FIX = "declare its model under config and the model's key under secrets, in hermes_agents"


@dataclass(frozen=True)
class Problem:
    """One reason why an agent is not healthy.

    :param cause: stable name for programs, e.g. ``port_in_use``
    :param what: one sentence for people
    :param fix: the remedy
    :param final: whether waiting cannot help
    """

    cause: str
    what: str
    fix: str
    final: bool = False


@dataclass
class Health:
    """The health of one agent; it is healthy when there are no problems."""

    agent: str
    problems: list[Problem] = field(default_factory=list)
    pid: int = 0
    version: str | None = None
    platforms: dict[str, str] = field(default_factory=dict)
    reply: str | None = None
    log: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def causes(self) -> list[str]:
        return [problem.cause for problem in self.problems]

    def as_dict(self) -> dict[str, Any]:
        return {
            "agent": self.agent,
            "healthy": self.ok,
            "pid": self.pid,
            "version": self.version,
            "platforms": self.platforms,
            "reply": self.reply,
            "problems": [{"cause": p.cause, "what": p.what, "fix": p.fix} for p in self.problems],
            "log": self.log,
        }

    def __str__(self) -> str:
        if self.ok:
            return f"agent {self.agent}: healthy"
        # The causes last, where a person looks.
        return "\n".join([*(f"  | {line}" for line in self.log), self.causes_and_fixes])

    @property
    def causes_and_fixes(self) -> str:
        """A line for each problem."""
        return "\n".join(f"agent {self.agent}: {problem.what}. Fix: {problem.fix}" for problem in self.problems)
