# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedule a job of the host, or remove it."""

from __future__ import annotations

from typing import Any

from ..backup import offsite
from ..backup.settings import Settings
from ..description.hiding import shown
from ..host import jobs, settings
from ..system.errors import OpsError
from ..system.files import read_json
from ..system.plan import Plan
from ..system.typed import parse
from .call import Call, node


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
        plan = jobs.plan_present(job, schedule, params["settings"], params["data_dir"])
        if job.name == "backup":
            plan = _password_first(plan, params["settings"])
    repository = lost_repository(params)
    if repository:
        call.warn(f"backups of {node()} are no longer copied off the host: {repository} is no longer declared")
    return {**call.done(plan, job.timer), "timer": job.timer}


def lost_repository(params: dict[str, Any]) -> str | None:
    """The repository off the host that this call takes away, fit to be shown; None: it takes none."""
    if params["name"] != "backup" or (params["state"] == "present" and params["settings"].get("restic_repository")):
        return None
    repository = (_settings_before() or {}).get("restic_repository")
    return shown((), repository) if repository else None


def _password_first(plan: Plan, values: dict[str, Any]) -> Plan:
    """*plan* with the change of the repository's password first: the settings hold the old one until it is done."""
    return offsite.plan_password(_settings_before(), parse(Settings, values, "settings of backup")).join(plan)


def _settings_before() -> dict[str, Any] | None:
    """The backup's settings on the host. A damaged file is replaced like any other."""
    try:
        return read_json(settings.path_of("backup"))
    except OpsError:
        return None
