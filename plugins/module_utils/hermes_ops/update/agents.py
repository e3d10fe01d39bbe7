# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agents of a host during an update: starts their gateways and compares their health with that before."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from ..description.agent import Agent
from ..host.installation import Installation
from ..host.undertaking import Interrupted
from ..supervise import gateway, health
from ..supervise.supervisor import State
from ..supervise.systemd import supervisor_of
from ..system.errors import OpsError
from .settings import Settings
from .verdict import worse


class Agents:
    """All agents that are present on *host*.

    :param say: called with each progress message, one line
    """

    def __init__(self, host: Installation, settings: Settings, say: Callable[[str], object]) -> None:
        self.host = host
        self.supervisor = supervisor_of(host)
        self.settings = settings
        self.say = say

    def states(self) -> Mapping[str, State]:
        """The present state of each gateway, by agent."""
        return self.supervisor.state(self.host.agents)

    def running(self) -> list[Agent]:
        states = self.states()
        return [agent for agent in self.host.agents if not states[agent.name].ended]

    def before(self, *, wait: bool = True) -> dict[str, list[str]]:
        """Agent -> causes of its problems, for each running gateway. It must not have more after the update.

        :param wait: give gateways time to become healthy; False: look only once
        """
        running = [self.asked(agent, []) for agent in self.running()]
        if wait:
            results = health.wait(running, self.supervisor)
        else:
            states = self.states()
            results = [health.check(agent, self.host.account_of(agent), states[agent.name]) for agent in running]
        for result in results:
            if not result.ok:
                self.say(f"before: {result}")
        return {result.agent: [problem.cause for problem in result.problems] for result in results}

    @contextlib.contextmanager
    def veto(self, name: str, *, counts: bool) -> Iterator[None]:
        """Let an error with the data of the agent *name* block the update if it *counts*; else only log the error.

        An agent that spoils its own files could otherwise block updates of its neighbours for ever, and the operator
        could only remove it. Now it is enough to stop its gateway.

        :param counts: False for an agent whose gateway does not run, because nothing migrates its data
        :raises OpsError: the error of the block, if the agent *counts*
        :raises Interrupted: a signal has ended the block; names the agent
        """
        try:
            yield
        except OpsError as error:
            if counts:
                error.fix = f"{error.fix or 'see what it left in its home'}; or stop its gateway and update without it"
                raise
            self.say(f"{name} does not block this, its gateway does not run: {error}")
        except Interrupted as error:
            # A timeout, perhaps: by then this agent has kept us waiting.
            raise Interrupted(f"{error} at agent {name}") from None

    def start(self, agents: list[Agent], wanted: str | None) -> None:
        """Start the gateways of *agents* with the release *wanted*."""
        records = {agent.name: self.host.records(agent.name) for agent in agents}
        gateway.start(self.supervisor, agents, records)
        states = self.supervisor.state(agents)
        # A person or the supervisor started these before the switch, so they run the other release.
        late = [
            each for each in agents if states[each.name].running and self._runs(states[each.name]) not in (None, wanted)
        ]
        if late:
            self.supervisor.restart(late)

    def verify(self, agents: list[Agent], wanted: str, before: dict[str, list[str]], *, briefly: bool = False) -> None:
        """Check that the gateways run *wanted*, are as healthy as before, and stay so.

        A gateway that a person stopped meanwhile is not judged.

        :param briefly: do not watch whether they stay so, nor judge gateways that wait for space on their disk; for a
            release that has proved itself before
        :raises OpsError: one is worse than before
        """
        began = time.monotonic()
        asked = [self.asked(agent, before.get(agent.name, [])) for agent in agents]
        results = health.wait(asked, self.supervisor)
        watched = self._judge(agents, results, before, without_held=briefly)
        pids, restarts = {}, {}
        for agent, state in watched:
            if self._runs(state) not in (None, wanted):
                raise OpsError(f"runs {self._runs(state)}, not {wanted}", where=f"agent {agent.name}")
            if not before.get(agent.name):
                pids[agent.name], restarts[agent.name] = state.pid, state.restarts
        if briefly:
            return
        while time.monotonic() - began < self.settings.stable_seconds:
            time.sleep(1.0)
            self._stays_up(pids, restarts)
        if pids:
            # They must be healthy as well as alive. No agent is asked for a reply a second time.
            again = [agent.checked_by(reply=False, webhook=None) for agent, _state in watched]
            self._judge(agents, health.wait(again, self.supervisor), before)

    def _stays_up(self, pids: dict[str, int], restarts: dict[str, int]) -> None:
        """:raises OpsError: a gateway has another process than before, and no person restarted it"""
        for name, state in self.states().items():
            if state.stopped:
                pids.pop(name, None)
            elif name in pids and state.pid != pids[name] and state.restarts == restarts[name] == 0 and state.running:
                # A person restarted it; the supervisor did not.
                pids[name] = state.pid
            elif name in pids and state.pid != pids[name]:
                raise OpsError(
                    f"did not stay up for {self.settings.stable_seconds} s (last exit status {state.status})",
                    where=f"agent {name}",
                    fix=f"see its log: {state.log}",
                )

    def _judge(
        self,
        agents: list[Agent],
        results: list[health.Health],
        before: dict[str, list[str]],
        *,
        without_held: bool = False,
    ) -> list[tuple[Agent, State]]:
        """The agents whose gateways nobody stopped, with their states.

        :param without_held: do not judge those that are held because their disk is nearly full, either
        :raises OpsError: one is worse than before
        """
        states = self.states()
        counted = []
        for result in results:
            agent = next(agent for agent in agents if agent.name == result.agent)
            state = states[result.agent]
            if state.stopped:
                self.say(f"the gateway of {result.agent} was stopped by somebody meanwhile")
            elif state.held and without_held:
                self.say(str(result))
            elif problems := worse(before, result):
                self.say(str(result))
                raise OpsError(problems[0].what, where=f"agent {result.agent}", fix=problems[0].fix)
            else:
                counted.append((agent, state))
        return counted

    def asked(self, agent: Agent, before: list[str]) -> Agent:
        """The agent, which must reply if that is declared and it did not fail to reply before."""
        wanted = agent.health.reply or (self.settings.reply and agent.api.enabled)
        return agent.checked_by(reply=wanted and "no_reply" not in before)

    def _runs(self, state: State) -> str | None:
        return gateway.running_release(state.pid, self.host.root)
