# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a tenant runs, and what it ran before an update: until that is over, its StatefulSet says what to go back to.

It does so in an annotation, which is written together with the new template, so a run may be killed at any point. The
cluster's own revisions of a StatefulSet are made later, by a controller, and do not say with which of them the tenant
was ready. The template has no secrets in it, only the name of a Secret that never changes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.plan import Difference
from .cluster import Cluster
from .objects import APPLIED, FORMER, MANAGED, TENANT, annotations
from .readiness import is_ready
from .steps import Steps, Turn


def turn_of(present: dict[str, Any], *, again: bool) -> Turn:
    """When it is the turn of a tenant whose StatefulSet is *present*.

    :param again: whether its pod would be started again
    """
    if is_ready(present) and (again or not _is_unproved(present)):
        return Turn.ROLLED if again else Turn.AT_ONCE
    former = _former(present)
    # One that went back, and is declared so, is ill on its own.
    if former and (again or annotations(present).get(APPLIED) != former["applied"]):
        return Turn.BEGUN
    return Turn.LAST if again else Turn.AT_ONCE


def noted(
    wanted: dict[str, Any], present: dict[str, Any], *, again: bool, had: Sequence[str] | None = None
) -> dict[str, Any]:
    """The StatefulSet *wanted*, saying what to go back to: that with which the tenant was well the last time.

    :param again: whether its pod would be started again
    :param had: the causes of its agent's problems, see :func:`had_before`
    """
    if is_ready(present) and not _is_unproved(present):
        what = {"applied": annotations(present).get(APPLIED), "template": present["spec"]["template"], "had": had}
        note = json.dumps(what, sort_keys=True) if again else None
    else:
        note = annotations(present).get(FORMER)
    return _with(wanted, {FORMER: note} if note else {})


def had_before(present: dict[str, Any]) -> list[str] | None:
    """The causes of the problems that the agent had before the update that is not over; None: it was not asked."""
    former = _former(present)
    return former["had"] if former else None


def _is_unproved(present: dict[str, Any]) -> bool:
    """Whether a tenant has the change of an update, and its agent is still to be asked whether it is as well."""
    former = _former(present)
    return bool(former and former["had"] is not None and annotations(present).get(APPLIED) != former["applied"])


def back(wanted: dict[str, Any], present: dict[str, Any] | None) -> dict[str, Any]:
    """The StatefulSet *wanted* as it was when the tenant was ready. It still says so, until the tenant is again.

    :raises OpsError: that is not known
    """
    former = _former(present) if present else None
    if present is None or former is None:
        raise OpsError("does not say what it ran before", where=f"StatefulSet {wanted['metadata']['name']}")
    notes = {APPLIED: former["applied"], FORMER: annotations(present)[FORMER]}
    return {**_with(wanted, notes), "spec": {**wanted["spec"], "template": former["template"]}}


def settled(cluster: Cluster, where: str, present: dict[str, Any], secrets: Iterable[dict[str, Any]]) -> Steps:
    """The steps for a tenant that is ready: what it ran before is not kept any more.

    :param secrets: the tenant's
    """
    steps = Steps("changed")
    if FORMER in annotations(present):
        steps.differences.append(Difference(f"{where}: update", "under way", "done"))
        steps.actions.append(partial(cluster.annotate, present, "apps/v1", "StatefulSet", FORMER, None))
    needed = secrets_of(present["spec"]["template"])
    for each in secrets:
        name = each["metadata"]["name"]
        if name not in needed:
            steps.differences.append(Difference(f"{where}: Secret {name}", "present", None))
            steps.actions.append(partial(cluster.delete, each, "v1", "Secret"))
    return steps


def by_tenant(found: Iterable[dict[str, Any]]) -> defaultdict[str, list[dict[str, Any]]]:
    """Objects of tenants, by the tenants' labels."""
    grouped: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in found:
        labels = each["metadata"].get("labels") or {}
        if labels.items() >= MANAGED.items() and TENANT in labels:
            grouped[labels[TENANT]].append(each)
    return grouped


def secrets_of(template: dict[str, Any]) -> set[str]:
    """The names of the Secrets that a pod of *template* needs."""
    volumes = template["spec"].get("volumes", ())
    return {each["secret"]["secretName"] for each in volumes if "secret" in each}


def _with(wanted: dict[str, Any], notes: dict[str, Any]) -> dict[str, Any]:
    metadata = wanted["metadata"]
    return {**wanted, "metadata": {**metadata, "annotations": {**metadata["annotations"], **notes}}}


def _former(present: dict[str, Any]) -> dict[str, Any] | None:
    try:
        found = json.loads(annotations(present).get(FORMER, "null"))
        if found is None:
            return None
        had = found.get("had")
        had = None if had is None else [str(cause) for cause in had]
        return {"applied": str(found["applied"]), "template": dict(found["template"]), "had": had}
    except (ValueError, KeyError, TypeError):
        raise OpsError("cannot be read", where=f"annotation {FORMER}", fix="remove it") from None
