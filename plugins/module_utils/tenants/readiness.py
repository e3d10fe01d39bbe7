# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether tenants are ready, and if not, why."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from typing import Any

from ..hermes_ops.supervise.entrypoint import Misdeclared, Unconverged
from ..hermes_ops.system.text import printable
from ..hermes_ops.update.contained import NotCopied
from .cluster import Changed, Cluster, NotAllowed
from .declared import Tenant
from .objects import SELECTOR, STARTED, TENANT, annotations

# Seconds between two looks; and how many times longer than a look took, for the sake of the API server.
_PAUSE, _TIMES = 1.0, 4
# Of so few tenants only their own objects are listed. More names would be too long for the address of a request.
_FEW = 50
# Statuses with which the agent's entrypoint ends.
_STATUSES = {
    Misdeclared.exit_status: "its description or a secret is wrong",
    Unconverged.exit_status: "its home could not be converged",
    NotCopied.exit_status: "its data cannot be copied before another release of Hermes starts; see its log",
}
# Those after which another start does not help.
_FINAL = (Misdeclared.exit_status, NotCopied.exit_status)
# Reasons that do not pass why a container does not start; and seconds for which one has to be seen, since a kubelet
# that was just started gives the last of them for containers that it can start a moment later (Kubernetes 1.34,
# pkg/kubelet/kubelet_pods.go: getServiceEnvVarMap). A registry may come back, so ImagePullBackOff is not among them.
_HOPELESS = ("InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")
_SURE = 20.0
# Characters of what a cluster says of a pod.
_LONGEST = 300


def unready(cluster: Cluster, tenants: Mapping[str, Tenant], wait: float) -> dict[str, str]:
    """Wait until *tenants* are ready with what was applied, or cannot be.

    :param wait: seconds
    :returns: name -> why it is not, for those that are not ready by then
    """
    deadline = time.monotonic() + wait
    waiting = dict(tenants)
    hopeless: dict[str, float] = {}
    while waiting:
        begun = time.monotonic()
        keepers = by_label(cluster, "apps/v1", "StatefulSet", waiting.values())
        waiting = {name: each for name, each in waiting.items() if not is_ready(keepers.get(each.label))}
        if not waiting:
            break
        pods = by_label(cluster, "v1", "Pod", waiting.values())
        for name, each in waiting.items():
            keeper, pod = keepers.get(each.label), pods.get(each.label)
            if keeper and pod and _is_outdated(keeper, pod):
                _make_way(cluster, pod)
            elif pod and _is_hopeless(pod):
                hopeless.setdefault(name, begun)
                continue
            hopeless.pop(name, None)
        sure = {name for name in waiting if name in hopeless and begun - hopeless[name] >= _SURE}
        if begun > deadline or sure == waiting.keys():
            refused = _refused(cluster) if any(each.label not in pods for each in waiting.values()) else {}
            return {
                name: f"is not ready{'' if name in sure else f' after {wait:.0f} s'}: "
                + reason(pods.get(each.label), refused.get(each.object, ""))
                for name, each in waiting.items()
            }
        time.sleep(max(_PAUSE, _TIMES * (time.monotonic() - begun)))
    return {}


def selector(tenants: Collection[Tenant]) -> str:
    """For a list of the objects of *tenants*, and perhaps of others."""
    few = len(tenants) <= _FEW
    return f"{SELECTOR},{TENANT} in ({','.join(each.label for each in tenants)})" if few else SELECTOR


def by_label(
    cluster: Cluster, api: str, kind: str, tenants: Collection[Tenant] | None = None
) -> dict[str, dict[str, Any]]:
    """The tenants' objects of a kind, by the tenants' labels.

    :param tenants: those that it is about; None: all
    """
    found = cluster.all(api, kind, SELECTOR if tenants is None else selector(tenants)).values()
    return {each["metadata"]["labels"][TENANT]: each for each in found if TENANT in each["metadata"]["labels"]}


def is_ready(keeper: dict[str, Any] | None) -> bool:
    """Whether the pod of a StatefulSet is ready, and the one that was applied last."""
    status = (keeper or {}).get("status", {})
    return bool(
        keeper
        and status.get("observedGeneration") == keeper["metadata"]["generation"]
        and status.get("updatedReplicas") == status.get("readyReplicas") == 1
    )


def _is_outdated(keeper: dict[str, Any], pod: dict[str, Any]) -> bool:
    """Whether *pod* was made from another template of the StatefulSet *keeper* than the present one."""
    started = annotations(keeper["spec"]["template"]).get(STARTED)
    return pod["metadata"]["name"] == f"{keeper['metadata']['name']}-0" and annotations(pod).get(STARTED) != started


def _make_way(cluster: Cluster, pod: dict[str, Any]) -> None:
    """Remove a *pod* of another template that is not ready.

    The cluster would wait for it to become ready before it replaces it, as upstream documents under "Forced rollback"
    (Kubernetes 1.34, pkg/controller/statefulset/stateful_set_control.go: processReplica). The other policy of managing
    pods, Parallel, would not always help: it cannot be given to a StatefulSet that is there, and where the feature
    MaxUnavailableStatefulSet is on, it waits as well (updateStatefulSetAfterInvariantEstablished).
    """
    conditions = pod.get("status", {}).get("conditions", ())
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    if not ready and not pod["metadata"].get("deletionTimestamp"):
        # The cluster may have replaced it meanwhile.
        with contextlib.suppress(Changed):
            cluster.delete(pod, "v1", "Pod")


def _is_hopeless(pod: dict[str, Any]) -> bool:
    """Whether a *pod* will not become ready."""
    for container in pod.get("status", {}).get("containerStatuses", ()):
        state = container.get("state", {})
        if state.get("waiting", {}).get("reason") in _HOPELESS:
            return True
        ended = _ended(container)
        if ended and "running" not in state and ended.get("exitCode") in _FINAL:
            return True
    return False


def _ended(container: dict[str, Any]) -> dict[str, Any] | None:
    """How a container ended the last time."""
    return container.get("lastState", {}).get("terminated") or container.get("state", {}).get("terminated")


def _refused(cluster: Cluster) -> dict[str, str]:
    """The names of StatefulSets -> why the cluster makes no pod for them, such as a quota or a priority class."""
    try:
        found = cluster.selected("v1", "Event", "involvedObject.kind=StatefulSet,reason=FailedCreate")
    except NotAllowed:
        return {}
    found.sort(key=lambda each: str(each.get("lastTimestamp") or ""))
    # Of all that was said, the last.
    return {each["involvedObject"]["name"]: str(each.get("message", "")) for each in found}


def reason(pod: dict[str, Any] | None, refused: str = "") -> str:
    """Why a pod is not ready, in the cluster's words.

    :param refused: what the cluster said when it made no pod
    """
    if pod is None:
        return printable(refused)[:_LONGEST] or "the cluster has made no pod for it"
    status = pod.get("status", {})
    for container in status.get("containerStatuses", ()):
        ended = _ended(container)
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
