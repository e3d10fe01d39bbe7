# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action tenants_capacity: how many workers tenants take; documented in plugins/modules/tenants_capacity.py."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible.utils.display import Display
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.capacity import Worker, lines, plan
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.declared import Resources
from ansible_collections.alwayson.hermes.plugins.modules.tenants_capacity import SPECIFICATION
from ansible_collections.alwayson.hermes.plugins.plugin_utils.on_controller import OnController


class ActionModule(OnController):
    specification = SPECIFICATION

    def act(self, given: dict[str, Any], *, check: bool) -> dict[str, Any]:
        requests = Resources(**given["requests"])
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
        for line in list(lines(offers, given["tenants"], given["priced"])):
            Display().display(line)
        return {"changed": False, "offers": [asdict(each) for each in offers]}
