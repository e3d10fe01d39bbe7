# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ship the journal, or stop shipping it."""

from __future__ import annotations

from typing import Any

from ..host import audit
from ..system.systemd import Manager
from .call import Call


def work(call: Call) -> dict[str, Any]:
    params = call.params
    manager = Manager.of_host()
    if params["state"] == "absent":
        plan = audit.plan_no_audit(manager)
    else:
        settings = audit.Settings(
            url=params["url"], ca=params["ca"], certificate=params["certificate"], key=params["key"]
        )
        plan = audit.plan_audit(settings, manager)
    return {**call.done(plan, "audit"), "unit": audit.UNIT}
