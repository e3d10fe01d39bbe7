# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action tenants_restore: restores the home of a tenant's agent; documented in plugins/modules/tenants_restore.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import restoring
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster
from ansible_collections.alwayson.hermes.plugins.modules.tenants_restore import SPECIFICATION


class ActionModule(ActionBase):
    """Runs on the controller only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(**SPECIFICATION)
        check, what = self._task.check_mode, (given["tenant"], given["archive"])
        try:
            with Cluster(given["kubeconfig"], given["context"], given["namespace"]) as cluster:
                if check:
                    text = restoring.preview(cluster, *what)
                else:
                    text = restoring.restore(cluster, *what, force=given["force"], wait=given["wait"])
        except OpsError as error:
            return {**result, "failed": True, "msg": str(error)}
        lines = [f"{given['tenant']}: {line}" for line in text.splitlines()]
        for line in lines:
            Display().display(line)
        return {**result, "changed": not check, "lines": lines}
