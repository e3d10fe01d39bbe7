# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who runs the gateways of a host, whatever that is: systemd, an engine of containers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..description.agent import Agent
from ..system.files import Owner
from .problems import Problem


@dataclass(frozen=True)
class State:
    """What a supervisor says of a gateway.

    :param running: its process is there
    :param passing: it is just being started or stopped
    :param ended: it neither runs nor is about to, and nobody starts it again by itself
    :param stopped: it has ended because somebody wanted that
    :param pid: of its process; 0: there is none
    :param entered: when it was started, seconds of the monotonic clock; 0.0: it was not
    :param restarts: how often the supervisor has started it again by itself
    :param status: with which its last process exited
    :param problem: why it does not run; None: it does
    :param log: what root types to read its log
    :param restart: what root types to restart it
    """

    running: bool
    passing: bool
    ended: bool
    stopped: bool
    pid: int
    entered: float
    restarts: int
    status: int
    problem: Problem | None
    log: str
    restart: str

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.clock_gettime(time.CLOCK_MONOTONIC) - self.entered if self.entered else 0.0


class Supervisor(Protocol):
    """Runs the gateways of agents; all that health, updates and restores need of whoever does."""

    def owner_of(self, agent: Agent) -> Owner:
        """The user as whom an agent runs.

        :raises OpsError: there is none
        """

    def state(self, agents: Iterable[Agent]) -> Mapping[str, State]:
        """How the gateways are, by the names of the agents."""

    def start(self, agents: Iterable[Agent]) -> None:
        """Start the gateways, now, also those that were given up.

        :raises OpsError: one cannot be started
        """

    def stop(self, agents: Iterable[Agent]) -> None:
        """Stop the gateways, side by side; each may take the time that it has to drain.

        :raises OpsError: one cannot be stopped
        """

    def restart(self, agents: Iterable[Agent]) -> None:
        """Stop all of the gateways, then start them: one may take over a port that another one gives up.

        :raises OpsError: one cannot be stopped or started
        """

    def log(self, agent: Agent, *, before: bool) -> list[str]:
        """The last lines of the log of a gateway's present process, or of its last one when there is none.

        :param before: of the process before, too
        """

    def limits(self, agents: Iterable[Agent]) -> Mapping[str, int | None]:
        """What counts against the limit of memory, in bytes, by the names of the agents; None: nobody counts it."""
