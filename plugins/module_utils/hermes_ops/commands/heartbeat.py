# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops heartbeat``: check the host and send the result to the declared receivers. The timer runs it."""

from __future__ import annotations

import argparse
import sys
import time

from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..host.installation import Installation
from ..system.errors import OpsError
from ..system.files import write_atomic
from ..watch import declared, drill, heartbeat, look, metrics, pings

SUMMARY = "check the host and send the result to the declared receivers"
# Share of its period that a heartbeat may take.
SHARE = 0.75


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "exit status: 0 sent; 1 a part could not be sent or written; 2 no check was possible, nothing was sent"
    )


def work(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    wanted = declared.declared()
    if wanted is None:
        raise OpsError("no heartbeat is declared", fix="declare heartbeat_enabled and heartbeat_ping_url")
    return beat(Installation.load(unmounted=True), wanted, started + SHARE * wanted.period)


def beat(host: Installation, wanted: declared.Settings, deadline: float, *, quiet: bool = False) -> int:
    """Check the host and send the result.

    :param deadline: when the pings have to be done, by the monotonic clock
    :param quiet: print nothing but problems
    :returns: the exit status
    :raises OpsError: the host cannot be checked; nothing is sent
    """
    with host.alone(declared.JOB) as alone:
        if not alone and host.busy(declared.JOB):
            raise OpsError("another heartbeat has not ended yet", fix="wait for it")
        return _beat(host, wanted, deadline, quiet)


def _beat(host: Installation, wanted: declared.Settings, deadline: float, quiet: bool) -> int:
    report = look.look(host, wanted.thresholds())
    lasting = drill.of(host)
    if lasting == drill.FAIL:
        report.findings.insert(0, drill.FINDING)
    failed = False
    if wanted.textfile:
        try:
            write_atomic(wanted.textfile, metrics.textfile(report, time.time()), mode=0o644)
        except OpsError as error:
            failed = True
            sys.stderr.write(f"hermes-ops: {error}\n")
    if not quiet:
        say(report.message)
    if lasting == drill.SILENCE:
        return EXIT_UNHEALTHY if failed else EXIT_OK
    answers = pings.send(heartbeat.pings_of(wanted, report), deadline)
    for name, answer in answers.items():
        if answer.problem is not None:
            failed = True
            sys.stderr.write(f"hermes-ops: {name}: {answer.problem}\n")
    offsets = [answer.offset for answer in answers.values() if answer.offset is not None]
    if offsets:
        look.remember_clock(host, min(offsets, key=abs))
    return EXIT_UNHEALTHY if failed else EXIT_OK
