# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action node_lost: has the cluster give up a worker, or use it again; documented in plugins/modules/node_lost.py."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import diff
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import nodes
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster
from ansible_collections.alwayson.hermes.plugins.modules.node_lost import SPECIFICATION


class ActionModule(ActionBase):
    """Runs on the controller only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(**SPECIFICATION)
        name, check = given["node"], self._task.check_mode
        try:
            with Cluster(given["kubeconfig"], given["context"], given["namespace"]) as cluster:
                if given["state"] == "lost":
                    now = datetime.now(timezone.utc)
                    differences = nodes.lost(cluster, name, now, is_off=given["is_off"], check=check)
                else:
                    differences = nodes.back(cluster, name, check=check)
        except OpsError as error:
            return {**result, "failed": True, "msg": str(error)}
        return {**result, "changed": bool(differences), "diff": diff(differences, f"node {name}"), "node": name}
