# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill: trigger the alert on purpose, to see that it arrives."""

from __future__ import annotations

import time

from ..host.installation import Installation
from ..system.errors import OpsError
from .findings import Finding

JOB = "drill"
# The kinds of a drill: send failures, or send nothing at all.
FAIL = "fail"
SILENCE = "silence"


def of(host: Installation) -> str | None:
    """The drill in progress: :data:`FAIL`, :data:`SILENCE`, or None."""
    try:
        status = host.read_status(JOB)
    except OpsError:
        return None
    until = status.get("until")
    lasts = isinstance(until, (int, float)) and time.time() < until
    return status["status"] if lasts and status.get("status") in (FAIL, SILENCE) else None


FINDING = Finding(
    "drill", "this is a drill: nothing is wrong, and the alert has arrived", "end it: hermes-ops drill stop"
)
