# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What actions have in common that do their work on the controller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster


class OnController(ActionBase):
    """An action whose errors are :class:`OpsError`.

    :cvar specification: of its arguments
    """

    _requires_connection = False
    _supports_check_mode = True
    specification: ClassVar[dict[str, Any]]

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, given = self.validate_argument_spec(**self.specification)
        try:
            return {**result, **self.act(given, check=self._task.check_mode)}
        except OpsError as error:
            return {**result, "failed": True, "msg": str(error)}

    def act(self, given: dict[str, Any], *, check: bool) -> dict[str, Any]:
        """Do it; returns the result."""
        raise NotImplementedError


def cluster_of(given: dict[str, Any]) -> Cluster:
    """The cluster that the arguments *given* name."""
    return Cluster(given["kubeconfig"], given["context"], given["namespace"])


def errors_of(errors: Mapping[str, OpsError]) -> dict[str, Any]:
    """The part of a result that says what went wrong with which tenants."""
    result: dict[str, Any] = {"errors": {name: str(error) for name, error in errors.items()}}
    if errors:
        name, error = next(iter(errors.items()))
        more = f", and {len(errors) - 1} more; see errors" if len(errors) > 1 else ""
        result.update(failed=True, msg=f"tenant {name}: {error}{more}")
    return result
