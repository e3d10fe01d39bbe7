# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that is lost, and one that is back. Nothing here guesses: a taint on a machine that still runs would start
its tenants a second time, on the same volumes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.plan import Difference
from ..hermes_ops.system.text import printable
from .cluster import Changed, Cluster

# With it, Kubernetes removes the node's pods at once, and lets go of their volumes.
_TAINT = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
# For how long a node has to be silent before it counts as lost.
_SILENCE = timedelta(minutes=1)
# Looks at a node that changes all the time.
_ATTEMPTS = 5
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def lost(cluster: Cluster, name: str, now: datetime, *, is_off: bool, check: bool = False) -> list[Difference]:
    """Have the cluster give up the node, so that its pods start elsewhere.

    :param now: with a time zone
    :param is_off: whether somebody made sure that the machine is powered off
    :param check: only say what would change
    :returns: what changed
    :raises OpsError: the node may still run
    """
    return _again(lambda: _lost(cluster, name, now, is_off, check))


def _again(act: Callable[[], list[Difference]]) -> list[Difference]:
    """Decide and do by *act*: anew, if the node changed in between, as it does every few seconds."""
    for _attempt in range(_ATTEMPTS - 1):
        with contextlib.suppress(Changed):
            return act()
    return act()


def _lost(cluster: Cluster, name: str, now: datetime, is_off: bool, check: bool) -> list[Difference]:
    node = _node(cluster, name)
    if _tainted(node):
        return []
    ready = _ready(node)
    status = ready.get("status", "not known")
    if status != "Unknown":
        said = "answers: it is ready" if status == "True" else f"is not given up by the cluster: Ready is {status}"
        raise OpsError(
            said, where=f"node {name}", fix="power it off, and wait until kubectl get nodes says NotReady of it"
        )
    silent = now - datetime.strptime(ready["lastTransitionTime"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    if silent < _SILENCE:
        raise OpsError(
            f"is silent for {silent.total_seconds():.0f} s only",
            where=f"node {name}",
            fix=f"wait until it is {_SILENCE.total_seconds():.0f} s; it may come back",
        )
    if not is_off:
        raise OpsError(
            "is silent, and its tenants may run on all the same",
            where=f"node {name}",
            fix="power the machine off at its provider, see that it is off, then say so with -e node_is_off=true",
        )
    _write(cluster, node, [*_taints(node), _TAINT], check=check)
    return [Difference(f"node {name}: taint {_TAINT['key']}", None, "nodeshutdown:NoExecute")]


def back(cluster: Cluster, name: str, *, check: bool = False) -> list[Difference]:
    """Have the cluster use the node again.

    :param check: only say what would change
    :returns: what changed
    :raises OpsError: it is not ready
    """
    return _again(lambda: _back(cluster, name, check))


def _back(cluster: Cluster, name: str, check: bool) -> list[Difference]:
    node = _node(cluster, name)
    if not _tainted(node):
        return []
    if _ready(node).get("status") != "True":
        raise OpsError("is not ready", where=f"node {name}", fix="start it, and run this again once it is ready")
    _write(cluster, node, [each for each in _taints(node) if each["key"] != _TAINT["key"]], check=check)
    return [Difference(f"node {name}: taint {_TAINT['key']}", "nodeshutdown:NoExecute", None)]


def _node(cluster: Cluster, name: str) -> dict[str, Any]:
    node = cluster.get("v1", "Node", name) if _NAME.fullmatch(name) else None
    if node is None:
        raise OpsError(f"{printable(name)!r} is none of the cluster", where="node", fix="see kubectl get nodes")
    return node


def _ready(node: dict[str, Any]) -> dict[str, Any]:
    conditions = node.get("status", {}).get("conditions", ())
    return next((each for each in conditions if each["type"] == "Ready"), {})


def _taints(node: dict[str, Any]) -> list[dict[str, Any]]:
    return node.get("spec", {}).get("taints", [])


def _tainted(node: dict[str, Any]) -> bool:
    return any(each["key"] == _TAINT["key"] for each in _taints(node))


def _write(cluster: Cluster, node: dict[str, Any], taints: list[dict[str, Any]], *, check: bool) -> None:
    # A list of taints can only be replaced. With the version, none is lost that was set meanwhile, and no node is
    # given up that became ready meanwhile.
    version = node["metadata"]["resourceVersion"]
    body = {"metadata": {"resourceVersion": version}, "spec": {"taints": taints}}
    cluster.patch(node, "v1", "Node", body, check=check)
