# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops rehearsal``: prove that the newest backups can be restored. The timer runs it."""

from __future__ import annotations

import argparse
import os
import secrets
import time

from ..backup import archives, rehearsal
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..description.agent import Agent
from ..host import settings
from ..host.installation import Installation
from ..supervise import runtime_agents
from ..system.errors import OpsError, as_error
from ..system.text import brief, printable
from ..watch import heartbeat
from . import backup as command_backup

# Most characters of one agent's failure in the message about a run, in which there may be others'.
CAUSE = 500

SUMMARY = "prove that the newest backups can be restored, without touching the agents"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", help="this agent only")


def work(arguments: argparse.Namespace) -> int:
    host, backups = command_backup.installation(), command_backup.declared()
    wanted = rehearsal.Settings()
    if os.path.exists(settings.path_of("rehearsal")):
        wanted = settings.load("rehearsal", rehearsal.Settings)
    whole = arguments.agent is None
    results: list[str] = []
    failures: list[str] = []
    with host.lock("rehearsal"):
        began = time.time()
        if whole:
            heartbeat.report(host, "rehearsal", "start", "rehearsal of a restore")
        for agent in _chosen(host, arguments.agent, failures):
            try:
                if runtime_agents.is_users(agent.name):
                    results.append(rehearsal.read(host, agent, backups, say))
                else:
                    results.append(rehearsal.rehearse(host, agent, wanted, backups, say))
                say(results[-1])
            except Exception as error:
                said = f"{agent.name}: {printable(str(as_error(error)))}"
                # The error of a canary includes the canary's log, which is the agent's to fill.
                failures.append(brief(said.partition("\n")[0], CAUSE))
                say(said)
        if not results and not failures:
            failures.append("there is no agent")
        message = "; ".join(failures or results)
        if whole:
            heartbeat.conclude(host, "rehearsal", bool(failures), message, started=began)
    return EXIT_UNHEALTHY if failures else EXIT_OK


def _chosen(host: Installation, name: str | None, failures: list[str]) -> list[Agent]:
    """The agent *name*; or all declared ones and, by lot, one of a user: they share their description and image.

    :param failures: if the users cannot be found out, why
    :raises OpsError: there is no such agent
    """
    if name:
        return [runtime_agents.one(host, name)]
    users = []
    try:
        # Who came today has no backup yet.
        backed_up = {each.agent for each in archives.listed(archives.directory_of(host))}
        users = [agent for agent in runtime_agents.with_homes(host) if agent.name in backed_up]
    except OpsError as error:
        failures.append(f"the agents of users: {error}")
    return [*host.agents, *([secrets.choice(users)] if users else [])]
