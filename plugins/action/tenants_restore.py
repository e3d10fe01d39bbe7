# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action tenants_restore: restores the home of a tenant's agent; documented in plugins/modules/tenants_restore.py."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

from ansible.utils.display import Display
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import lease, offsite, restoring
from ansible_collections.alwayson.hermes.plugins.modules.tenants_restore import SPECIFICATION
from ansible_collections.alwayson.hermes.plugins.plugin_utils.on_controller import OnController, cluster_of


class ActionModule(OnController):
    specification = SPECIFICATION

    def act(self, given: dict[str, Any], *, check: bool) -> dict[str, Any]:
        tenant = given["tenant"]
        with contextlib.ExitStack() as stack:
            archive = stack.enter_context(_archive(given))
            cluster = stack.enter_context(cluster_of(given))
            if check:
                text = restoring.preview(cluster, tenant, archive)
            else:
                # A run of tenants would start the agent meanwhile.
                stack.enter_context(lease.held(cluster))
                text = restoring.restore(cluster, tenant, archive, force=given["force"], wait=given["wait"])
        lines = [f"{tenant}: {line}" for line in text.splitlines()]
        for line in lines:
            Display().display(line)
        return {"changed": not check, "lines": lines}


def _archive(given: dict[str, Any]) -> AbstractContextManager[str]:
    """The path of the archive, during the block; empty: the former home is meant."""
    if not given["snapshot"]:
        return contextlib.nullcontext(given["archive"])
    repository = offsite.repository(given["restic"], given["directory"], given["namespace"])
    if repository is None:
        raise OpsError("no repository is declared", fix="declare backup_restic_repository")
    return offsite.fetched(repository, given["snapshot"], given["tenant"])
