# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action fleet_report: shows people what hosts answered; documented in plugins/modules/fleet_report.py."""

from __future__ import annotations

import datetime
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.plugin_utils import fleet, pages


class ActionModule(ActionBase):
    """Runs on the controller only."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, options = self.validate_argument_spec(
            argument_spec={
                "answers": {"type": "dict", "required": True},
                "of": {"type": "str", "choices": ["status", "job"], "required": True},
                "page": {"type": "str", "default": ""},
            }
        )
        now = datetime.datetime.now(fleet.UTC)
        if options["of"] == "status":
            hosts = fleet.status(options["answers"])
            lines, wrong = fleet.status_lines(hosts, now), [host.name for host in hosts if host.state != "well"]
        else:
            outcomes = fleet.outcomes(options["answers"])
            lines, wrong = fleet.outcome_lines(outcomes), [outcome.host for outcome in outcomes if outcome.wrong]
        display = Display()
        for line in lines:
            display.display(line)
        if options["page"] and not self._task.check_mode:
            try:
                display.display(f"The page: {pages.publish(options['page'], fleet.page(hosts, now))}")
            except OpsError as error:
                return {**result, "failed": True, "msg": str(error)}
        return {**result, "changed": False, "wrong": wrong}
