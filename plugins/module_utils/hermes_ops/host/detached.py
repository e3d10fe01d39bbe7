# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command of ``hermes-ops`` that must outlive its caller: systemd runs it, and the caller only watches.

The command survives a closed terminal, a lost connection and a killed playbook. If it is killed itself, systemd starts
it again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from ..system.errors import OpsError, Refused
from ..system.process import run
from ..system.systemd import COMMAND_TIMEOUT, Manager
from .jobs import HARDENING, Job
from .kit import COMMAND

POLL_SECONDS = 1.0


def follow(job: Job, arguments: Sequence[str], say: Callable[[str], object]) -> int:
    """Run ``hermes-ops`` *arguments* as the timer would run *job*, and pass on its output to *say*.

    :returns: its exit status
    :raises Refused: it is running already
    :raises OpsError: systemd cannot start it, or it ended without an exit status
    """
    manager = Manager.of_host()
    unit = f"hermes-{job.name}-by-hand.service"
    # systemd keeps a failed unit until it is reset.
    manager.call("reset-failed", unit, check=False)
    if not manager.units([unit])[unit].over:
        raise Refused("runs already", where=unit, fix=f"wait for it: journalctl --follow --unit {unit}")
    place = f"--since=@{time.time():.6f}"
    properties = (("Type", "oneshot"), *HARDENING, *job.directives, *job.unit)
    run(
        [
            *("systemd-run", "--quiet", "--no-block", f"--unit={unit}"),
            *(f"--property={key}={value}" for key, value in properties),
            *(COMMAND, *arguments),
        ],
        timeout=COMMAND_TIMEOUT,
    )
    while True:
        # A busy systemd may not have started the unit yet.
        state = manager.units([unit])[unit]
        if state.over:
            run(["journalctl", "--sync"], timeout=COMMAND_TIMEOUT, check=False)
        lines, place = _journal(unit, place)
        for line in lines:
            say(line)
        if state.over:
            break
        time.sleep(POLL_SECONDS)
    manager.call("reset-failed", unit, check=False)
    if state.active == "failed" and state.result != "exit-code":
        raise OpsError(f"ended with {state.result}", where=unit, fix=f"see its log: journalctl --unit {unit}")
    return state.status


def _journal(unit: str, place: str) -> tuple[list[str], str]:
    """The lines of *unit* in the journal since *place*, and the place to continue from.

    A place is an option of journalctl: first a time, then the cursor of a line of this unit. After the cursor of a line
    of another unit, journalctl of systemd 252 leaves out a line.
    """
    text = run(
        ["journalctl", "--quiet", "--no-pager", "--output=cat", "--show-cursor", place, f"_SYSTEMD_UNIT={unit}"],
        timeout=COMMAND_TIMEOUT,
        check=False,
    ).stdout
    match = re.search(r"^-- cursor: (\S+)\n?\Z", text, re.M)
    if match is None:
        return text.splitlines(), place
    return text[: match.start()].splitlines(), f"--after-cursor={match[1]}"
