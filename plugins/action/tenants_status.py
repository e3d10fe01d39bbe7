# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action tenants_status: shows how tenants are; documented in plugins/modules/tenants_status.py."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from typing import Any

from ansible.utils.display import Display
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import status
from ansible_collections.alwayson.hermes.plugins.modules.tenants_status import SPECIFICATION
from ansible_collections.alwayson.hermes.plugins.plugin_utils import pages, tenants
from ansible_collections.alwayson.hermes.plugins.plugin_utils.on_controller import OnController, cluster_of


class ActionModule(OnController):
    specification = SPECIFICATION

    def act(self, given: dict[str, Any], *, check: bool) -> dict[str, Any]:
        display = Display()
        with cluster_of(given) as cluster:
            found = status.look(cluster)
        for line in status.lines(found):
            display.display(line)
        if given["page"] and not check:
            page = tenants.page(found, datetime.datetime.now(datetime.timezone.utc))
            display.display(f"The page: {pages.publish(given['page'], page)}")
        return {"changed": False, "tenants": [asdict(each) for each in found]}
