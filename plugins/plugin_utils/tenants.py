# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of tenants."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import status
from ansible_collections.alwayson.hermes.plugins.plugin_utils.pages import counted, render

# A state -> how it looks.
_BADGES = {"ready": "well", "absent": "unknown", "not ready": "trouble"}


def badge(tenant: status.Seen) -> str:
    return _BADGES[tenant.state]


def page(found: Sequence[status.Seen], now: datetime.datetime) -> str:
    """One HTML page."""
    # One that is absent is so on purpose.
    wrong = [each for each in found if each.why and each.state != "absent"]
    if wrong:
        summary = f"{len(wrong)} of {counted(len(found), 'tenant')} {'needs' if len(wrong) == 1 else 'need'} attention"
    else:
        summary = f"{counted(len(found), 'tenant')}, all well"
    return render(
        "tenants.html.j2",
        subject="Hermes tenants",
        summary=summary,
        counts=[(_BADGES[state], number) for state, number in status.counts(found).items() if number],
        words={_BADGES[state]: state for state in _BADGES},
        wrong=wrong,
        headings=("Tenant", *(each.capitalize() for each in status.HEADINGS)),
        rows=[(each, status.cells(each)) for each in found],
        badge=badge,
        now=now,
    )
