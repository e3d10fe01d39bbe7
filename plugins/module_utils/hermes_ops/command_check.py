# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops check``: whether every agent is there, and if not, why not."""

from __future__ import annotations

import argparse
import json

from . import health
from .cli import EXIT_OK, EXIT_UNHEALTHY, say
from .installation import Installation


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--profile", help="this profile only")


def work(arguments: argparse.Namespace) -> int:
    host = Installation.load()
    results = health.wait(host.select(arguments.profile), host.manager, host.owner)
    if arguments.json:
        say(json.dumps([result.as_dict() for result in results], indent=2))
    else:
        for result in results:
            say(result)
    return EXIT_OK if all(result.ok for result in results) else EXIT_UNHEALTHY
