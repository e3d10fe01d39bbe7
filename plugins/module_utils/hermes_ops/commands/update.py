# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops update``: go to the newest release that the declaration allows, or back to the one that worked."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import Any

from ..cli import EXIT_OK, say, say_now
from ..host import detached as apart
from ..host import jobs, settings
from ..host.installation import Installation
from ..release.observe import observe
from ..system.errors import OpsError
from ..update.machine import Machine
from ..update.settings import Settings

SUMMARY = "go to the newest release that the declaration allows, or back to the one that worked"
EPILOG = (
    "exit status: 0 success, up_to_date or held; 1 failed or rolled_back: the agents run the same release as before; "
    "2 the command could not do its work; 3 refused, because another job is under way: nothing was changed"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--version", help="this version (git: tag) instead of the newest; within the declared range")
    parser.add_argument("--check", action="store_true", help="only say what would be done")
    parser.add_argument("--json", action="store_true", help="print JSON for programs; progress goes to stderr")
    common(parser)
    parser.add_argument("--recover", action="store_true", help="only undo or finish an interrupted update")
    # For the recovery unit, at boot.
    parser.add_argument("--boot", action="store_true", help=argparse.SUPPRESS)


def common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--here", action="store_true", help="work in this process, as units do, not in one that survives the caller"
    )


def work(arguments: argparse.Namespace) -> int:
    host = installation()
    if arguments.check:
        machine = Machine(host, settings_of(host, declared=True), say_now)
        preview(machine.check(arguments.version), arguments.json)
        return EXIT_OK
    if arguments.recover:
        machine = Machine(host, settings_of(host), say_now)
        with host.lock("update"):
            outcome = machine.recover(boot=arguments.boot)
        # An update that was undone counts as recovered.
        return EXIT_OK if outcome is None or outcome.status == "rolled_back" else outcome.exit_status
    if not arguments.here:
        options = ["--version", arguments.version] if arguments.version else []
        return hand_over(host, ["update", *options], as_json=arguments.json)
    machine = Machine(host, settings_of(host, declared=True), say_now)
    interruptible(machine)
    return machine.update(arguments.version).exit_status


def preview(found: tuple[str, str, Any], as_json: bool) -> None:
    """Print what would be done: a status, a sentence, and the release."""
    status, message, target = found
    facts = {"status": status, "message": message, "to": target.id if target else None}
    say(json.dumps(facts, indent=2) if as_json else f"{status}: {message}")


def installation() -> Installation:
    if os.geteuid() != 0:
        raise OpsError("only root can change the release", fix="use sudo")
    return Installation.load()


def settings_of(host: Installation, *, declared: bool = False) -> Settings:
    """The declared settings. Without any, settings that match the current release.

    :param declared: require declared settings, because the caller needs to know what may replace the current release
    """
    if os.path.exists(settings.path_of("update")):
        return settings.load("update", Settings)
    if declared:
        raise OpsError(
            "no releases are declared that this host may be updated to",
            fix="converge it with auto_update_enabled; with auto_update_hold it is updated to a named version only",
        )
    observed = observe(host.root)
    current = observed.find(observed.current)
    if current is None:
        raise OpsError("there is no current release", where=host.root, fix="converge the host: site.yml")
    return Settings.like(current)


def interruptible(machine: Machine) -> None:
    """Let SIGTERM (systemctl stop, a timeout of the unit) roll back instead of stopping halfway."""
    machine.undertaking.listen([signal.SIGTERM])


def hand_over(host: Installation, arguments: list[str], *, as_json: bool) -> int:
    """Let systemd run the command, show its output, and return its exit status."""
    status = apart.follow(jobs.JOBS["update"], [*arguments, "--here"], to_stderr if as_json else say_now)
    if as_json and status in (0, 1):
        say(json.dumps(host.read_status("update"), indent=2))
    return status


def to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
