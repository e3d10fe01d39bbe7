# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether tenants are ready, and if not, why."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..hermes_ops.supervise.entrypoint import Misdeclared, Unconverged
from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.text import printable
from .cluster import Cluster
from .declared import Tenant
from .objects import SELECTOR, TENANT

_PAUSE = 1.0
# Statuses with which the agent's entrypoint ends.
_STATUSES = {
    Misdeclared.exit_status: "its description or a secret is wrong",
    Unconverged.exit_status: "its home could not be converged",
}
# Characters of what a cluster says of a pod.
_LONGEST = 300


def unready(cluster: Cluster, tenants: Mapping[str, Tenant], wait: float) -> dict[str, OpsError]:
    """Wait until *tenants* are ready with what was applied.

    :param wait: seconds
    :returns: name -> why it is not, for those that are not ready by then
    """
    deadline = time.monotonic() + wait
    waiting = dict(tenants)
    while waiting:
        keepers = by_label(cluster, "apps/v1", "StatefulSet")
        waiting = {name: each for name, each in waiting.items() if not is_ready(keepers.get(each.label))}
        if not waiting or time.monotonic() > deadline:
            break
        time.sleep(_PAUSE)
    if not waiting:
        return {}
    pods = by_label(cluster, "v1", "Pod")
    return {
        name: OpsError(
            f"is not ready after {wait:.0f} s: {reason(pods.get(each.label))}",
            where=f"{each.object}-0",
            fix=f"read its log: kubectl --namespace {cluster.namespace} logs {each.object}-0",
        )
        for name, each in waiting.items()
    }


def by_label(cluster: Cluster, api: str, kind: str) -> dict[str, dict[str, Any]]:
    """The tenants' objects of a kind, by the tenants' labels."""
    found = cluster.all(api, kind, SELECTOR).values()
    return {each["metadata"]["labels"][TENANT]: each for each in found if TENANT in each["metadata"]["labels"]}


def is_ready(keeper: dict[str, Any] | None) -> bool:
    """Whether the pod of a StatefulSet is ready, and the one that was applied last."""
    status = (keeper or {}).get("status", {})
    return bool(
        keeper
        and status.get("observedGeneration") == keeper["metadata"]["generation"]
        and status.get("updatedReplicas") == status.get("readyReplicas") == 1
    )


def reason(pod: dict[str, Any] | None) -> str:
    """Why a pod is not ready, in the cluster's words."""
    if pod is None:
        return "the cluster has made no pod for it"
    status = pod.get("status", {})
    for container in status.get("containerStatuses", ()):
        ended = container.get("lastState", {}).get("terminated") or container.get("state", {}).get("terminated")
        if ended and ended.get("exitCode") in _STATUSES:
            return _STATUSES[ended["exitCode"]]
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            return _said(waiting)
        if ended:
            return f"it ended with status {ended.get('exitCode')} ({_said(ended)})"
    for condition in status.get("conditions", ()):
        if condition.get("status") == "False" and condition.get("message"):
            return _said(condition)
    return f"it is {printable(str(status.get('phase', 'unknown')))}"


def _said(state: Mapping[str, Any]) -> str:
    words = ": ".join(str(state[key]) for key in ("reason", "message") if state.get(key))
    return printable(words)[:_LONGEST] or "no reason was given"
