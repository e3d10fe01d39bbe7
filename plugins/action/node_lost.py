# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action node_lost: has the cluster give up a worker, or use it again; documented in plugins/modules/node_lost.py."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import diff
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import nodes
from ansible_collections.alwayson.hermes.plugins.modules.node_lost import SPECIFICATION
from ansible_collections.alwayson.hermes.plugins.plugin_utils.on_controller import OnController, cluster_of


class ActionModule(OnController):
    specification = SPECIFICATION

    def act(self, given: dict[str, Any], *, check: bool) -> dict[str, Any]:
        name = given["node"]
        with cluster_of(given) as cluster:
            if given["state"] == "lost":
                now = datetime.now(timezone.utc)
                differences = nodes.lost(cluster, name, now, is_off=given["is_off"], check=check)
            else:
                differences = nodes.back(cluster, name, check=check)
        return {"changed": bool(differences), "diff": diff(differences, f"node {name}"), "node": name}
