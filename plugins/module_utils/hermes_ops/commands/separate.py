# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops separate``: split an adopted home with several profiles."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import Any

from ..backup.separate import Separate
from ..cli import EXIT_OK, say, say_now
from ..host.installation import Installation
from ..host.undertaking import Interrupted
from ..system.errors import OpsError

SUMMARY = "give each agent of an adopted home a home and a user of its own"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Each home is copied. The original is set aside once the agent is healthy in its new home; any failure before "
        "that returns the agent to the original. exit status: 0 done; 2 not done, and the agent named is as it was; "
        "3 refused, because another job is under way"
    )
    parser.add_argument(
        "agents", nargs="*", metavar="AGENT", help="default: all adopted agents that share or shared a home or a user"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="only say what would be done")
    parser.add_argument("--json", action="store_true", help="print the result as JSON; progress goes to standard error")
    only.add_argument("--recover", action="store_true", help="only finish or undo an interrupted run")
    # For the recovery unit, at boot.
    parser.add_argument("--boot", action="store_true", help=argparse.SUPPRESS)


def work(arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise OpsError("only root can make users and move homes", fix="use sudo")
    host = Installation.load()
    separate = Separate(host, _to_stderr if arguments.json else say_now)
    if arguments.recover:
        with host.lock("separate"):
            separate.recover(boot=arguments.boot)
        return EXIT_OK
    if arguments.check:
        results = separate.check(arguments.agents)
    else:
        # A closed terminal or a stopped unit rolls back instead of stopping halfway.
        separate.undertaking.listen([signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
        try:
            results = separate.separate(arguments.agents)
        except Interrupted as error:
            raise OpsError(f"{error}; the agent is what it was", fix="run it again") from None
    if arguments.json:
        say(json.dumps(results, indent=2))
        return EXIT_OK
    for line in lines(results, check=arguments.check):
        say(line)
    return EXIT_OK


def lines(results: list[dict[str, Any]], *, check: bool) -> list[str]:
    """*results* for people: where each agent went, and what is left to do by hand."""
    if not results:
        return ["no adopted agents share a home or a user"]
    said = []
    for result in results:
        name, was = result["agent"], result["was"]
        said.append(
            f"agent {name}: {'would go' if check else 'went'} from {was['home']} ({was['user']}) "
            f"to {result['home']} ({result['user']})"
        )
        said += [f"  still name a path of {was['user']}: {', '.join(result['naming'])}"] if result["naming"] else []
        said += [f"  cron job {line}" for line in result["jobs"]]
    names = ", ".join(result["agent"] for result in results)
    said.append(f"{'then' if check else 'now'} remove home and user of {names} in hermes_agents, and run site.yml")
    return said


def _to_stderr(text: object) -> None:
    sys.stderr.write(f"{text}\n")
