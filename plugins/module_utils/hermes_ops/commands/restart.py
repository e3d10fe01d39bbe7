# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops restart``: start an agent that is stopped, or restart one, and wait until it is healthy."""

from __future__ import annotations

import argparse
import os

from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..host.installation import Installation, refuse_others
from ..supervise import gateway, health
from ..supervise.systemd import supervisor_of
from ..system.errors import OpsError

SUMMARY = "start an agent that is stopped, or restart one, and wait until it is healthy"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "exit status: 0 healthy; 1 not healthy; 2 not restarted; 3 the same: another job is under way"
    parser.add_argument("agent", nargs="?", metavar="AGENT", help="may be left out if there is only one")
    parser.add_argument("--check", action="store_true", help="only say what would be done")


def work(arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise OpsError("only root can restart agents", fix="use sudo")
    host = Installation.load()
    if arguments.agent is None and len(host.agents) > 1:
        # A restart ends the agent's work, so the agent is never guessed.
        names = ", ".join(agent.name for agent in host.agents)
        raise OpsError("there are several agents", fix=f"name one: {names}")
    agent, supervisor = host.one(arguments.agent), supervisor_of(host)
    with host.lock("restore"):
        # They stop gateways and expect them to stay stopped, and a home may be incomplete after them.
        refuse_others(host, agent)
        running = supervisor.state([agent])[agent.name].running
        if arguments.check:
            say(f"agent {agent.name}: would be {'restarted' if running else 'started'}")
            return EXIT_OK
        act = gateway.restart if running else gateway.start
        act(supervisor, [agent], {agent.name: host.records(agent.name)})
    result = health.wait([agent], supervisor)[0]
    say(result)
    return EXIT_OK if result.ok else EXIT_UNHEALTHY
