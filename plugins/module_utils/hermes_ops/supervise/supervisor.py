# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface to whatever runs the gateways of a host: systemd, or a container engine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..description.agent import Agent
from ..system.files import Account
from .problems import Problem


@dataclass(frozen=True)
class State:
    """The state of a gateway, as its supervisor reports it.

    :param running: its process exists
    :param passing: it is being started or stopped right now
    :param ended: it is not running, and the supervisor will not start it again
    :param stopped: it has ended because somebody stopped it
    :param held: it must not run now, because its disk is nearly full; then it is not ``stopped``
    :param pid: its process id; 0: none
    :param entered: when it was started, in seconds of the monotonic clock; 0.0: it is not running
    :param restarts: number of automatic restarts by the supervisor
    :param status: exit status of its last process
    :param problem: why it is not running; None when it is
    :param log: the command with which root reads its log
    :param restart: the command with which root restarts it
    :param memory: bytes that count against its limit; None: not measured
    :param contained: it runs in a container, so the process ids that it knows, and its ports, are not those of the host
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
    held: bool = False
    memory: int | None = None
    contained: bool = False

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.clock_gettime(time.CLOCK_MONOTONIC) - self.entered if self.entered else 0.0


class Supervisor(Protocol):
    """Runs the gateways of agents. Health checks, updates and restores need no more than this interface."""

    def account_of(self, agent: Agent) -> Account:
        """The user that an agent runs as.

        :raises OpsError: this user does not exist
        """

    def state(self, agents: Iterable[Agent]) -> Mapping[str, State]:
        """The state of each gateway, by agent name."""

    def start(self, agents: Iterable[Agent]) -> None:
        """Start the gateways now, including those that the supervisor gave up restarting.

        :raises OpsError: one cannot be started
        """

    def stop(self, agents: Iterable[Agent]) -> None:
        """Stop the gateways in parallel; each may use its full drain time.

        :raises OpsError: one cannot be stopped
        """

    def restart(self, agents: Iterable[Agent]) -> None:
        """Stop all of the gateways, then start them, because one may take over a port that another one releases.

        :raises OpsError: one cannot be stopped or started
        """

    def log(self, agent: Agent, *, before: bool) -> list[str]:
        """The last log lines of a gateway's present process, or of its last one when it is not running.

        :param before: include the previous process
        """
