# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops secrets``: fetch the agents' secrets again, and restart the agents whose secrets changed."""

from __future__ import annotations

import argparse
import os

from ..cli import EXIT_OK, EXIT_UNHEALTHY, say_now
from ..host.installation import Installation
from ..supervise import fetching
from ..system.errors import OpsError

SUMMARY = "fetch the agents' secrets again, and restart the agents whose secrets changed"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        metavar="AGENT",
        help="only fetch those of AGENT, until there are some; what hermes-secrets@AGENT.service runs",
    )


def work(arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise OpsError("only root can fetch secrets", fix="use sudo")
    if arguments.wait:
        fetching.wait(arguments.wait, say_now)
        return EXIT_OK
    return EXIT_OK if fetching.rotate(Installation.load(), say_now) else EXIT_UNHEALTHY
