# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action tenants_status: shows how tenants are; documented in plugins/modules/tenants_status.py."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import status
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster
from ansible_collections.alwayson.hermes.plugins.modules.tenants_status import SPECIFICATION
from ansible_collections.alwayson.hermes.plugins.plugin_utils import pages, tenants


class ActionModule(ActionBase):
    """Runs on the controller only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(**SPECIFICATION)
        display = Display()
        try:
            with Cluster(given["kubeconfig"], given["context"], given["namespace"]) as cluster:
                found = status.look(cluster)
            for line in status.lines(found):
                display.display(line)
            if given["page"] and not self._task.check_mode:
                page = tenants.page(found, datetime.datetime.now(datetime.timezone.utc))
                display.display(f"The page: {pages.publish(given['page'], page)}")
        except OpsError as error:
            return {**result, "failed": True, "msg": str(error)}
        return {**result, "changed": False, "tenants": [asdict(each) for each in found]}
