# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill: the alert is made to arrive on purpose."""

from __future__ import annotations

import time

from ..host.installation import Installation
from ..system.errors import OpsError
from .findings import Finding

JOB = "drill"
# What a drill may do: send failures, or nothing at all.
FAIL = "fail"
SILENCE = "silence"


def of(host: Installation) -> str | None:
    """The drill that lasts: :data:`FAIL`, :data:`SILENCE`, or None."""
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
