# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serve the dashboard, or stop serving it."""

from __future__ import annotations

from typing import Any

from ..supervise import dashboard, units
from .call import Call, agents_of, manager_of, unit_settings


def work(call: Call) -> dict[str, Any]:
    params = call.params
    settings, manager, agents = unit_settings(call), manager_of(call), agents_of(call)
    if params["state"] == "absent":
        plan = dashboard.plan_no_dashboard(settings, agents, manager)
    else:
        plan = dashboard.plan_dashboard(
            settings, agents, manager, params["host"], params["port"], params["environment"]
        )
    return {**call.done(plan, "dashboard"), "unit": units.DASHBOARD_NAME}
