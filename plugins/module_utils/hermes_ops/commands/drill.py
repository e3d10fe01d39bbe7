# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops drill``: raise the alert on purpose, and clear it."""

from __future__ import annotations

import argparse
import json
import time

from ..cli import EXIT_OK, say
from ..host.installation import Installation
from ..system.errors import OpsError
from ..watch import drill
from ..watch.declared import declared
from .heartbeat import SHARE, beat

SUMMARY = "raise the alert on purpose, and clear it"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["start", "stop", "show"])
    parser.add_argument(
        "--silence", action="store_true", help="send nothing, like a host that is down; without it, failures are sent"
    )
    parser.add_argument(
        "--minutes", type=int, default=15, help="end after this many minutes (%(default)s), even if nobody stops it"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    host = Installation.load()
    wanted = declared()
    if wanted is None or not (wanted.ping_url or wanted.agent_urls):
        raise OpsError("no heartbeat is declared that could raise an alert", fix="declare heartbeat_ping_url")
    deadline = time.monotonic() + SHARE * wanted.period
    status = EXIT_OK
    if arguments.action == "start":
        if arguments.minutes < 1:
            raise OpsError("a drill takes at least one minute", fix="say --minutes 15")
        kind = drill.SILENCE if arguments.silence else drill.FAIL
        host.write_status(drill.JOB, kind, "a drill is in progress", until=time.time() + 60 * arguments.minutes)
    elif arguments.action == "stop":
        host.write_status(drill.JOB, "ended", "no drill is in progress")
    lasting = drill.of(host)
    if arguments.json:
        say(json.dumps({"drill": lasting}))
    elif lasting == drill.SILENCE:
        say("drill: no pings are sent; the alert arrives when the ping server's grace time is over")
    elif lasting == drill.FAIL:
        say("drill: failures are sent; the alert arrives at once")
    else:
        say("drill: none")
    if arguments.action != "show":
        status = beat(host, wanted, deadline, quiet=arguments.json)
    return status
