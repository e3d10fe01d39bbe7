# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action tenants: converges tenants from the controller's own process, so that their secrets lie in no file and on no
command line; documented in plugins/modules/tenants.py."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.converge import converge
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.declared import resolve
from ansible_collections.alwayson.hermes.plugins.modules.tenants import SPECIFICATION
from ansible_collections.alwayson.hermes.plugins.plugin_utils.on_controller import errors_of
from ansible_collections.alwayson.hermes.plugins.plugin_utils.variables import plain


class ActionModule(ActionBase):
    """Runs on the controller only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        checked = ArgumentSpecValidator(**SPECIFICATION).validate(plain(self._task.args))
        if checked.error_messages:
            return {**result, "failed": True, "msg": f"tenants: {'; '.join(checked.error_messages)}"}
        try:
            return {**result, **_converge(checked.validated_parameters, check=self._task.check_mode)}
        except OpsError as error:
            return {**result, "failed": True, "msg": str(error)}


def _converge(given: dict[str, Any], *, check: bool) -> dict[str, Any]:
    template = {**given["template"], "secret": given["secret"]}
    declared = resolve(
        given["namespace"],
        template,
        given["tenants"],
        callers=tuple(given["callers"]),
        egress=tuple(given["egress"]),
        keep=timedelta(days=given["keep_days"]),
        canaries=tuple(given["canaries"]),
        batch=given["batch"],
    )
    with Cluster(given["kubeconfig"], given["context"], declared.namespace) as cluster:
        more = {name: given[name] for name in ("purge", "wait", "room", "reply")}
        outcome = converge(cluster, declared, date.today(), check=check, **more)
    return {
        "changed": outcome.changed,
        "diff": outcome.diff(f"namespace {declared.namespace}"),
        "tenants": outcome.words,
        "undeclared": outcome.undeclared,
        "warnings": outcome.warnings,
        **errors_of(outcome.errors),
    }
