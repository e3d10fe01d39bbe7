# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops check``: check the agents and their host; say what is wrong and how to fix it."""

from __future__ import annotations

import argparse
import json

from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..system.worker import prepare

SUMMARY = "check the agents and their host; say what is wrong and how to fix it"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--agent", help="report on this agent only")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="first wait until every agent is healthy, or its health.timeout is over",
    )


def work(arguments: argparse.Namespace) -> int:
    # Most of a check's time are imports: the fork server begins with those of the workers, beside ours.
    prepare("watch.sight:look")
    from ..host.installation import Installation
    from ..supervise import health
    from ..supervise.systemd import supervisor_of
    from ..watch import look
    from ..watch.declared import thresholds

    host = Installation.load(unmounted=True)
    chosen = host.select(arguments.agent)
    waited = {}
    if arguments.wait:
        waited = {result.agent: result for result in health.wait(chosen, supervisor_of(host))}
    report = look.look(host, thresholds(), healths=waited)
    if arguments.agent:
        report = report.about(arguments.agent)
    if arguments.json:
        say(json.dumps(report.as_dict(), indent=2))
    else:
        for line in report.lines:
            say(line)
    return EXIT_OK if report.healthy else EXIT_UNHEALTHY
