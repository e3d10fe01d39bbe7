# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores the home of a tenant's agent.

The agent need not work, so it is not asked: its StatefulSet is told to have no pod, and says why; a pod of the same
template, which only waits, has the volume meanwhile, and the kit is run in that. A run that is killed is ended by the
next one, of this or of a convergence: it removes that pod, and the tenant has its own again.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..hermes_ops.backup import extracting
from ..hermes_ops.cli import EXIT_OK
from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.text import moment, printable
from .cluster import Changed, Cluster
from .execute import WHOLE, Command, execute, runs, said
from .objects import CONTAINER, MANAGED, MANAGER, NAME, TENANT, annotations
from .readiness import by_label, is_ready, reason

# Annotation of a StatefulSet without a pod, since the home of its agent is being restored; and label of the pod that
# has the volume meanwhile. That is none of the tenant's pods: nobody calls it, and no controller counts it.
RESTORING = f"{MANAGER}/restoring"
_SUFFIX = "-restore"
_KEEPER, _POD = ("apps/v1", "StatefulSet"), ("v1", "Pod")
_RESTORE = ("hermes-ops", "agent", "restore")
# Seconds between two looks, and until a pod is gone that has nothing to end.
_PAUSE, _GONE = 1.0, 60.0
# Attempts to change an object that the cluster changes, too.
_ATTEMPTS = 10


def preview(cluster: Cluster, name: str, archive: str) -> str:
    """What a restore would do.

    :param archive: its path; empty: the former home
    :raises OpsError: it cannot be done
    """
    _keeper(cluster, name)
    what = _verified(archive) if archive else "the home before the last restore"
    return f"would stop the agent, restore {what}, and start it"


def restore(cluster: Cluster, name: str, archive: str, *, force: bool, wait: float) -> str:
    """Replace the home of the agent of the tenant *name*, which is stopped meanwhile.

    :param archive: its path; empty: the home before the last restore
    :param force: restore even if the home has learnt something since the backup
    :param wait: seconds for each of the pods to be ready
    :returns: what the kit says of it
    :raises OpsError: it failed, or the agent is not ready with what it was given
    """
    keeper, where = _keeper(cluster, name), f"tenant {name}"
    command = Command((*_RESTORE, "--former"), seconds=WHOLE)
    if archive:
        _verified(archive)
        words = (*_RESTORE, f"--bytes={os.path.getsize(archive)}", *(["--force"] if force else []))
        command = Command(words, file=archive, seconds=WHOLE)
    with _stopped(cluster, keeper, where, wait) as pod, io.BytesIO() as out:
        ended = execute(cluster, pod, command, out)
        text = printable(out.getvalue().decode("utf-8", "replace"))
        if ended.status != EXIT_OK:
            raise OpsError(f"was not restored: {said(ended)}", where=where)
    return text


def remove_pod(cluster: Cluster, keeper: str) -> None:
    """Remove the pod that has the volume of the StatefulSet *keeper* during a restore, if it is there.

    :raises OpsError: it stays
    """
    name = f"{keeper}{_SUFFIX}"
    found = cluster.get(*_POD, name)
    if found:
        cluster.delete(found, *_POD)
        _wait(_GONE, lambda: cluster.get(*_POD, name) is None, lambda: _stays(f"Pod {name}"))


def _keeper(cluster: Cluster, name: str) -> str:
    """The name of a tenant's StatefulSet."""
    for each in by_label(cluster, *_KEEPER).values():
        if annotations(each).get(NAME) == name:
            return each["metadata"]["name"]
    raise OpsError("is not there", where=f"tenant {name}", fix="declare it, and run alwayson.hermes.tenants")


def _verified(archive: str) -> str:
    """What is in an archive that is whole."""
    manifest = extracting.verify(archive)
    return f"{manifest.members} files of {manifest.agent} on {manifest.host}, {moment(manifest.created)}"


@contextlib.contextmanager
def _stopped(cluster: Cluster, keeper: str, where: str, wait: float) -> Iterator[str]:
    """Stop the agent during the block, which gets the name of a pod with its volume."""
    try:
        _scale(cluster, keeper, 0)
        remove_pod(cluster, keeper)
        pod = _take_volume(cluster, keeper, where, wait)
        yield pod
    except BaseException as error:
        try:
            _start(cluster, keeper)
        except OpsError as another:
            if isinstance(error, OpsError):
                error.what += f"; and it was not started again: {another.what}; alwayson.hermes.tenants does it"
        raise
    _start(cluster, keeper)
    _wait(wait, lambda: is_ready(cluster.get(*_KEEPER, keeper)), lambda: _not_ready(cluster, keeper, where))


def _start(cluster: Cluster, keeper: str) -> None:
    remove_pod(cluster, keeper)
    _scale(cluster, keeper, 1)


def _scale(cluster: Cluster, keeper: str, replicas: int) -> None:
    """Have the StatefulSet have its pod, or none; it says why.

    :raises OpsError: it cannot be changed
    """
    for attempt in range(_ATTEMPTS):
        found = cluster.get(*_KEEPER, keeper)
        if found is None:
            raise OpsError("was removed meanwhile", where=f"StatefulSet {keeper}")
        # All that we own has to be in what is applied; what the cluster added may be.
        metadata = found["metadata"]
        notes = {key: value for key, value in annotations(found).items() if key.startswith(f"{MANAGER}/")}
        notes.pop(RESTORING, None)
        wanted = {
            "apiVersion": _KEEPER[0],
            "kind": _KEEPER[1],
            "metadata": {
                "name": keeper,
                "resourceVersion": metadata["resourceVersion"],
                "labels": {**MANAGED, TENANT: metadata["labels"][TENANT]},
                "annotations": notes if replicas else {**notes, RESTORING: "true"},
            },
            "spec": {**found["spec"], "replicas": replicas},
        }
        try:
            cluster.apply(wanted, check=False)
            return
        except Changed:
            # Also its status counts.
            if attempt == _ATTEMPTS - 1:
                raise


def _take_volume(cluster: Cluster, keeper: str, where: str, wait: float) -> str:
    """Have a pod of the tenant's template that does nothing; returns its name once it runs."""
    found = cluster.get(*_KEEPER, keeper) or {}
    template, own = found["spec"]["template"]["spec"], f"{keeper}-0"
    ends = wait + template.get("terminationGracePeriodSeconds", 0)
    _wait(ends, lambda: cluster.get(*_POD, own) is None, lambda: _stays(f"Pod {own}"))
    name = f"{keeper}{_SUFFIX}"
    owner = {"apiVersion": _KEEPER[0], "kind": _KEEPER[1], "name": keeper, "uid": found["metadata"]["uid"]}
    labels = {**MANAGED, RESTORING: found["metadata"]["labels"][TENANT]}
    metadata = {"name": name, "labels": labels, "ownerReferences": [owner]}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _waiting(template)}, check=False)

    def running() -> bool:
        return runs(cluster.get(*_POD, name) or {})

    _wait(wait, running, lambda: _no_volume(cluster, name, where))
    return name


def _waiting(template: dict[str, Any]) -> dict[str, Any]:
    """A pod as those of *template*, which waits in place of its agent."""
    (agent,) = (each for each in template["containers"] if each["name"] == CONTAINER)
    kept = {key: value for key, value in agent.items() if not key.endswith("Probe") and key != "args"}
    return {
        **template,
        "containers": [{**kept, "command": ["sleep", "infinity"]}],
        "restartPolicy": "Never",
        # Of a controller that is gone.
        "activeDeadlineSeconds": int(2 * WHOLE),
        "terminationGracePeriodSeconds": 1,
    }


def _wait(seconds: float, done: Callable[[], bool], error: Callable[[], OpsError]) -> None:
    """Wait until *done*.

    :raises OpsError: *error*, since it took longer than *seconds*
    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise error()
        time.sleep(_PAUSE)


def _stays(where: str) -> OpsError:
    return OpsError("is still there", where=where, fix="if its node is lost: alwayson.hermes.node_lost; run this again")


def _no_volume(cluster: Cluster, pod: str, where: str) -> OpsError:
    return OpsError(f"no pod gets its volume: {reason(cluster.get(*_POD, pod))}", where=where, fix="run this again")


def _not_ready(cluster: Cluster, keeper: str, where: str) -> OpsError:
    why = reason(cluster.get(*_POD, f"{keeper}-0"))
    fix = "restore another archive, or have what it had before: -e restore_former=true"
    return OpsError(f"was restored, and is not ready: {why}", where=where, fix=fix)
