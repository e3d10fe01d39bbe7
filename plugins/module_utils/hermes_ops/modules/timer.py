# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedule a job of the host, or remove it."""

from __future__ import annotations

import contextlib
from typing import Any

from ..backup import offsite
from ..backup.settings import Settings
from ..host import jobs, settings
from ..system.errors import OpsError
from ..system.files import read_json
from ..system.plan import Plan
from ..system.typed import parse
from .call import Call


def work(call: Call) -> dict[str, Any]:
    params = call.params
    job = jobs.JOBS[params["name"]]
    if params["state"] == "absent":
        plan = jobs.plan_absent(job)
    else:
        schedule = jobs.Schedule(
            every=params["every"],
            calendar=params["calendar"],
            randomized_delay=params["randomized_delay"],
            timeout=params["timeout"],
        )
        plan = jobs.plan_present(job, schedule, params["settings"])
        if job.name == "backup":
            plan = _password_first(plan, params["settings"])
    return {**call.done(plan, job.timer), "timer": job.timer}


def _password_first(plan: Plan, values: dict[str, Any]) -> Plan:
    """*plan* with the change of the repository's password first: the settings hold the old one until it is done."""
    before = None
    # A damaged file is replaced, like any other.
    with contextlib.suppress(OpsError):
        before = read_json(settings.path_of("backup"))
    change = offsite.plan_password(before, parse(Settings, values, "settings of backup"))
    return Plan([*change.differences, *plan.differences], [*change.actions, *plan.actions])
