# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many workers tenants take and what they cost, and whether the workers of a cluster have room for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.text import table
from .cluster import Cluster, NotAllowed
from .declared import Declared, Resources, Tenant, amount
from .objects import TENANT

# Pods of a node, unless its kubelet is told otherwise.
_PODS = 110
_GIB = 2**30
_NOTHING = Resources("0", "0")


@dataclass(frozen=True)
class Worker:
    """A type of machine.

    :param cpu: cores that pods may request (allocatable)
    :param memory: that pods may request
    :param price: a month
    :param pods: that a node may have
    :param disk: for volumes, where the workers keep them
    """

    type: str
    cpu: str
    memory: str
    price: float
    pods: int = _PODS
    disk: str = "0"


@dataclass(frozen=True)
class Offer:
    """The tenants on workers of one type.

    :param fits: tenants on a worker
    :param workers: with those to spare
    :param price: of all a month, with what costs the same for any number
    """

    type: str
    fits: int
    workers: int
    price: float


def plan(
    tenants: int,
    requests: Resources,
    workers: Iterable[Worker],
    *,
    storage: str = "0",
    spare: int = 1,
    reserved: Resources = _NOTHING,
    base: float = 0.0,
) -> list[Offer]:
    """What *tenants* take of each type of worker, the cheapest first.

    :param requests: of a tenant
    :param storage: what a tenant takes of the disks of workers, with all copies; 0 if volumes are elsewhere
    :param spare: workers that may be lost, and all tenants still have room
    :param reserved: what pods of others request on each worker
    :param base: a month, for what is there once, such as servers and a load balancer
    :raises OpsError: a tenant fits on none
    """
    offers = []
    for worker in workers:
        fits = _fits(worker, requests, reserved, amount(storage, "storage"))
        if fits < 1:
            continue
        needed = int((Decimal(tenants) / fits).to_integral_value(ROUND_CEILING)) + spare
        offers.append(Offer(worker.type, fits, needed, round(needed * worker.price + base, 2)))
    if not offers:
        raise OpsError("fits on no worker", where="a tenant", fix="name larger types of workers, or ask for less")
    return sorted(offers, key=lambda each: (each.price, each.workers))


def _fits(worker: Worker, requests: Resources, reserved: Resources, storage: Decimal) -> int:
    """Tenants on one *worker*."""
    most = Decimal(worker.pods)
    for name in ("cpu", "memory"):
        there, gone, each = (amount(getattr(one, name), name) for one in (worker, reserved, requests))
        most = min(most, (there - gone) / each)
    if storage:
        most = min(most, amount(worker.disk, "disk") / storage)
    return int(most.to_integral_value(ROUND_FLOOR))


def lines(offers: Sequence[Offer], tenants: int, priced: str) -> Iterator[str]:
    """*offers* as a table.

    :param priced: the date of the prices, as in 2026-04-15
    :raises OpsError: it is none
    """
    try:
        date.fromisoformat(priced)
    except ValueError:
        raise OpsError(
            f"is {priced!r}", where="priced", fix="write the date of the prices, such as 2026-04-15"
        ) from None
    yield f"{tenants} tenants, with prices of {priced}:"
    rows = [("WORKER", "TENANTS EACH", "WORKERS", "A MONTH", "A TENANT")]
    for each in offers:
        share = f"{each.price / tenants:.2f}" if tenants else "-"
        rows.append((each.type, str(each.fits), str(each.workers), f"{each.price:.2f}", share))
    yield from table(rows)


def check(cluster: Cluster, declared: Declared) -> list[str]:
    """Whether the workers have room for all *declared* tenants beside all else that runs there. Room that is there in
    sum may still be in pieces that are too small.

    :returns: why this could not be found out
    :raises OpsError: they have not
    """
    tenants = [each for each in declared.tenants if each.present]
    try:
        nodes = cluster.everywhere("v1", "Node")
        if not nodes:
            return ["the cluster has no nodes, so that no tenant can start"]
        usable = {each["metadata"]["name"]: each for each in nodes if any(_takes(each, tenant) for tenant in tenants)}
        pods = cluster.everywhere("v1", "Pod")
    except NotAllowed as error:
        return [f"whether the workers have room was not checked: {error}"]
    # Those of tenants that become absent make room.
    labels = {each.label for each in declared.tenants}
    others = [each for each in pods if _is_other(each, declared.namespace, labels) and _node_of(each) in usable]
    for name, unit, factor in (("cpu", "cores", 1), ("memory", "GiB", _GIB), ("pods", "pods", 1)):
        room = sum((_read(each["status"]["allocatable"].get(name)) for each in usable.values()), Decimal(0))
        taken = sum((_requested(each, name) for each in others), Decimal(0))
        asked = sum((_asked(each, name) for each in tenants), Decimal(0))
        left = room - taken
        if asked > left:
            raise OpsError(
                f"ask for {asked / factor:.2f} {unit}, and {len(usable)} workers have {left / factor:.2f} left",
                where="hermes_tenants",
                fix="add workers; alwayson.hermes.tenants_capacity says how many",
            )
    return []


def _takes(node: Mapping[str, Any], tenant: Tenant) -> bool:
    """Whether a *tenant* may be placed on the *node*."""
    spec = node.get("spec", {})
    labels = node["metadata"].get("labels") or {}
    return (
        not spec.get("unschedulable")
        and "allocatable" in node.get("status", {})
        and labels.items() >= tenant.node_selector.items()
        and all(_tolerated(each, tenant) for each in spec.get("taints", ()))
    )


def _tolerated(taint: Mapping[str, Any], tenant: Tenant) -> bool:
    if taint["effect"] == "PreferNoSchedule":
        return True
    return any(
        each.get("effect", taint["effect"]) == taint["effect"]
        and each.get("key", taint["key"]) == taint["key"]
        and (each.get("operator") == "Exists" or each.get("value", "") == taint.get("value", ""))
        for each in tenant.tolerations
    )


def _node_of(pod: Mapping[str, Any]) -> str:
    return pod["spec"].get("nodeName", "")


def _is_other(pod: Mapping[str, Any], namespace: str, labels: set[str]) -> bool:
    """Whether a *pod* takes room and is none of the tenants with *labels*."""
    metadata = pod["metadata"]
    ours = metadata["namespace"] == namespace and (metadata.get("labels") or {}).get(TENANT) in labels
    return not ours and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _asked(tenant: Tenant, name: str) -> Decimal:
    return Decimal(1) if name == "pods" else amount(getattr(tenant.requests, name), f"tenant {tenant.name}")


def _requested(pod: Mapping[str, Any], name: str) -> Decimal:
    if name == "pods":
        return Decimal(1)
    together, first = (
        [_read(each.get("resources", {}).get("requests", {}).get(name)) for each in pod["spec"].get(kind, ())]
        for kind in ("containers", "initContainers")
    )
    # Those that run first end before the others start.
    return max(sum(together, Decimal(0)), *first, Decimal(0))


def _read(quantity: str | None) -> Decimal:
    """A quantity of somebody else, which may be written as nobody of ours writes it: such a one counts as nothing."""
    try:
        return amount(quantity or "0", "")
    except OpsError:
        return Decimal(0)
