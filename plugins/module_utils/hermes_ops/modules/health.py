# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether every agent is healthy."""

from __future__ import annotations

from typing import Any

from ..host.records import Records
from ..supervise import health
from ..supervise.managers import units_of
from .call import Call, manager_of


def work(call: Call) -> dict[str, Any]:
    params = call.params
    profiles = [profile for profile in params["profiles"] if profile["state"] == "present"]
    manager = manager_of(call)
    if call.check_mode:
        units = units_of(profiles, manager)
        results = [health.check(profile, manager(profile).owner, units[profile["unit"]]) for profile in profiles]
    else:
        records = {profile["name"]: Records(params["ops_dir"], profile["name"]) for profile in profiles}
        results = health.wait(profiles, manager, records)
    healthy = all(result.ok for result in results)
    result = {"changed": False, "healthy": healthy, "profiles": [result.as_dict() for result in results]}
    if not healthy and not call.check_mode:
        result.update(failed=True, msg="\n".join(str(result) for result in results if not result.ok))
    return result
