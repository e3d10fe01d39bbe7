# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops rollback``: back to a release that worked, by the same steps as an update."""

from __future__ import annotations

import argparse

from ..cli import EXIT_OK
from ..update.machine import Machine
from .update import EPILOG, common, hand_over, installation, interruptible, preview, say_now, settings_of

SUMMARY = "go back to a release that worked"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--to", metavar="RELEASE", help="id or version (default: the other release that was used last)")
    parser.add_argument(
        "--data",
        action="store_true",
        help="also put back the databases and config.yaml that were migrated since, as they were when that release was "
        "left; newer data is set aside",
    )
    parser.add_argument("--check", action="store_true", help="only say what would be done")
    parser.add_argument("--json", action="store_true", help="print JSON for programs; progress goes to stderr")
    common(parser)


def work(arguments: argparse.Namespace) -> int:
    host = installation()
    if arguments.check:
        preview(Machine(host, settings_of(host), say_now).check_rollback(arguments.to), arguments.json)
        return EXIT_OK
    if not arguments.here:
        options = ["--to", arguments.to] if arguments.to else []
        options += ["--data"] if arguments.data else []
        return hand_over(host, ["rollback", *options], as_json=arguments.json)
    machine = Machine(host, settings_of(host), say_now)
    interruptible(machine)
    return machine.rollback(arguments.to, data=arguments.data).exit_status
