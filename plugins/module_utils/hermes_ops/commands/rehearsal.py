# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops rehearsal``: prove that the newest backups can be restored. The timer runs it."""

from __future__ import annotations

import argparse
import os
import time

from ..backup import rehearsal
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..host import settings
from ..system.errors import as_error
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
    results, failures = [], []
    with host.lock("rehearsal"):
        began = time.time()
        if whole:
            heartbeat.report(host, "rehearsal", "start", "rehearsal of a restore")
        for agent in host.select(arguments.agent):
            try:
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
