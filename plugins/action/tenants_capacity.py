# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action tenants_capacity: how many workers tenants take; documented in plugins/modules/tenants_capacity.py."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.capacity import Worker, lines, plan
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.declared import Resources
from ansible_collections.alwayson.hermes.plugins.modules.tenants_capacity import SPECIFICATION


class ActionModule(ActionBase):
    """Runs on the controller only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(**SPECIFICATION)
        requests = Resources(**given["requests"])
        try:
            requests.check("requests")
            offers = plan(
                given["tenants"],
                requests,
                [Worker(**each) for each in given["workers"]],
                storage=given["storage"],
                spare=given["spare"],
                reserved=Resources(**given["reserved"]),
                base=given["base"],
            )
            table = list(lines(offers, given["tenants"], given["priced"]))
        except OpsError as error:
            return {**result, "failed": True, "msg": str(error)}
        for line in table:
            Display().display(line)
        return {**result, "changed": False, "offers": [asdict(each) for each in offers]}
