# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops tidy``: old files go of which agents write one an event; what the timer of the logs runs."""

from __future__ import annotations

import argparse

from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..host import events, logs
from ..host.installation import published
from ..system.errors import OpsError
from ..system.files import Account

SUMMARY = "remove old logs of which agents write one file an event; what hermes-logrotate.timer runs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=int, required=True, help="remove those that are older")


def work(arguments: argparse.Namespace) -> int:
    status = EXIT_OK
    # Where logs are not rotated, as in an adopted home until that is declared, none are removed either.
    for agent in filter(lambda agent: logs.rotated(agent.name), published()):
        try:
            events.remove(Account.named(agent.user), agent.home, arguments.days)
        except OpsError as error:
            # The others' still go.
            say(f"{agent.name}: {error}")
            status = EXIT_UNHEALTHY
    return status
