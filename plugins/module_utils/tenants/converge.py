# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings a namespace to the declared tenants. What differs is found by a few lists; only that is written, some tenants
at a time, and an error of one is no other's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from typing import Any

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.plan import HIDDEN, Difference, diff
from . import capacity, objects, readiness
from .cluster import CALLS, Cluster, Unreachable
from .declared import PREFIX, Declared, Tenant, amount
from .objects import MANAGED, NAME, REMOVE, TENANT, annotations

# What a tenant consists of, in the order in which it is removed. The volume goes last, and later.
_KINDS = (("apps/v1", "StatefulSet"), ("v1", "Service"), ("v1", "Secret"))
_VOLUME = ("v1", "PersistentVolumeClaim")
# What all tenants have once, beside the namespace.
_OF_ALL = (("networking.k8s.io/v1", "NetworkPolicy"), ("v1", "ResourceQuota"))
# Below these keys of an object stand quantities, of which the server writes another form.
_QUANTITIES = frozenset({"requests", "limits", "hard"})


@dataclass(frozen=True)
class Steps:
    """What is to be done for one tenant, or for all."""

    word: str
    differences: list[Difference] = field(default_factory=list)
    actions: list[Callable[[], object]] = field(default_factory=list)


@dataclass
class Outcome:
    """What became, or would become, of the tenants.

    :param words: a tenant's name -> ``created``, ``changed``, ``unchanged``, ``removed``, or ``absent``
    :param errors: a tenant's name -> why it is not as declared
    :param undeclared: names of tenants that are there and not declared
    :param differences: of all, in order
    :param warnings: what could not be found out
    """

    words: dict[str, str] = field(default_factory=dict)
    errors: dict[str, OpsError] = field(default_factory=dict)
    undeclared: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.differences)

    def diff(self, header: str) -> dict[str, str]:
        return diff(self.differences, header)

    def take(self, steps: Steps) -> None:
        """Do *steps*, which are no tenant's."""
        for action in steps.actions:
            action()
        self.differences += steps.differences


# kind -> name -> the object
_Found = dict[str, dict[str, dict[str, Any]]]


def converge(
    cluster: Cluster, declared: Declared, today: date, *, check: bool = False, purge: bool = False, wait: float = 0.0
) -> Outcome:
    """Bring the namespace to what is *declared*.

    :param check: change nothing; the server is asked whether it would take what differs
    :param purge: remove tenants that are not declared, as if they were declared absent
    :param wait: seconds for the tenants that changed to be ready
    :raises OpsError: what all tenants need cannot be had
    """
    outcome = Outcome()
    namespace, *others = objects.of_namespace(declared)
    present = cluster.get(namespace["apiVersion"], "Namespace", declared.namespace)
    run = _Run(cluster, declared, today, check)
    outcome.take(run.applied([namespace], {"Namespace": {declared.namespace: present} if present else {}}, "namespace"))
    run = replace(run, unborn=check and present is None)
    outcome.take(run.applied(others, run.found(_OF_ALL), "namespace"))
    found = run.found((*_KINDS, _VOLUME))
    if any(each.present and each.object not in found["StatefulSet"] for each in declared.tenants):
        outcome.warnings += capacity.check(cluster, declared)
    steps: dict[str, Callable[[], Steps]] = {each.name: partial(run.tenant, each, found) for each in declared.tenants}
    labels = {tenant.label for tenant in declared.tenants}
    for label, name in sorted(_present(found).items()):
        if label in labels:
            continue
        outcome.undeclared.append(name)
        if purge:
            steps[name] = partial(run.gone, label, found)
    _carry_out(steps, outcome)
    if wait and not check:
        tenants = {
            each.name: each for each in declared.tenants if outcome.words.get(each.name) in ("created", "changed")
        }
        outcome.errors.update(readiness.unready(cluster, tenants, wait))
    return outcome


@dataclass(frozen=True)
class _Run:
    """Decides what is to be done.

    :param unborn: whether the namespace is not there and only a check is made, so that nothing can be asked in it
    """

    cluster: Cluster
    declared: Declared
    today: date
    check: bool
    unborn: bool = False

    def found(self, kinds: Iterable[tuple[str, str]]) -> _Found:
        """The objects of *kinds* in the namespace."""
        return {kind: {} if self.unborn else self.cluster.all(api, kind) for api, kind in kinds}

    def tenant(self, tenant: Tenant, found: _Found) -> Steps:
        """The steps to a declared *tenant*."""
        return self.there(tenant, found) if tenant.present else self.gone(tenant.label, found, purge=tenant.purge)

    def there(self, tenant: Tenant, found: _Found) -> Steps:
        """The steps to a *tenant* that is there."""
        steps = self.applied(objects.of_tenant(tenant), found, f"tenant {tenant.name}")
        volume = found[_VOLUME[1]].get(tenant.object)
        day = annotations(volume).get(REMOVE) if volume else None
        if day:
            steps.differences.append(Difference(f"tenant {tenant.name}: volume", f"goes on {day}", "stays"))
            if not self.check:
                steps.actions.append(lambda: self.cluster.annotate(volume, *_VOLUME, REMOVE, None))
        return steps

    def applied(self, wanted: list[dict[str, Any]], found: _Found, where: str) -> Steps:
        """The steps to all of *wanted*.

        :raises OpsError: an object of one of their names is somebody else's
        """
        steps, created = Steps(""), False
        for each in wanted:
            kind, name = each["kind"], each["metadata"]["name"]
            before = found[kind].get(name)
            if before is not None and kind != "Namespace":
                _check(before, f"{kind} {name}")
            created = created or before is None
            # A list leaves out what all of its objects have in common.
            differs = list(_differences({"apiVersion": each["apiVersion"], "kind": kind, **(before or {})}, each, ""))
            if before is None:
                steps.differences.append(Difference(f"{where}: {kind} {name}", None, "present"))
            else:
                for path, *pair in differs:
                    steps.differences.append(Difference(f"{where}: {kind}{path}", *_shown(kind, path, *pair)))
            if (before is None or differs) and not self.unborn:
                steps.actions.append(lambda each=each: self.cluster.apply(each, check=self.check))
        word = "created" if created else "changed" if steps.differences else "unchanged"
        return replace(steps, word=word)

    def gone(self, label: str, found: _Found, *, purge: bool = False) -> Steps:
        """The steps to a tenant that is not there. Its volume stays until its day, or goes with it if *purge*."""
        name, steps = f"{PREFIX}{label}", Steps("absent")
        for api, kind in _KINDS:
            present = found[kind].get(name)
            if present and _is_ours(present):
                steps.differences.append(Difference(f"{kind} {name}", "present", None))
                steps.actions.append(partial(self.cluster.delete, present, api, kind))
        volume = found[_VOLUME[1]].get(name)
        if volume and _is_ours(volume):
            day = annotations(volume).get(REMOVE, "")
            if purge or (day and day <= self.today.isoformat()):
                steps.differences.append(Difference(f"volume {name}", "present", None))
                steps.actions.append(partial(self.cluster.delete, volume, *_VOLUME))
            elif not day:
                until = (self.today + self.declared.keep).isoformat()
                steps.differences.append(Difference(f"volume {name}", "stays", f"goes on {until}"))
                steps.actions.append(partial(self.cluster.annotate, volume, *_VOLUME, REMOVE, until))
        word = "removed" if steps.differences else "absent"
        return Steps(word, steps.differences, [] if self.check else steps.actions)


def _carry_out(steps: dict[str, Callable[[], Steps]], outcome: Outcome) -> None:
    """Do all *steps*, some tenants at a time. If the cluster is gone, the rest is not tried."""
    gone: list[Unreachable] = []

    def one(plan: Callable[[], Steps]) -> tuple[Steps | None, OpsError | None]:
        """What was done, as far as it came, and why no further."""
        planned, done = None, 0
        try:
            if gone:
                raise gone[0]
            planned = plan()
            for action in planned.actions:
                action()
                done += 1
        except OpsError as error:
            if isinstance(error, Unreachable):
                gone.append(error)
            return (planned if done else None), error
        return planned, None

    with ThreadPoolExecutor(CALLS) as pool:
        for name, (done, error) in zip(steps, pool.map(one, steps.values())):
            if done:
                outcome.differences += done.differences
            if error:
                outcome.errors[name] = error
            elif done:
                outcome.words[name] = done.word


def _check(present: dict[str, Any], where: str) -> None:
    """:raises OpsError: the object *present* is not ours to change"""
    if not _is_ours(present):
        raise OpsError("is there, and not ours", where=where, fix="remove it, or give the tenant another name")
    if present["metadata"].get("deletionTimestamp"):
        raise OpsError("is being removed", where=where, fix="run this again once it is gone")


def _present(found: _Found) -> dict[str, str]:
    """The labels of the tenants that are there -> their names."""
    return {
        each["metadata"]["labels"][TENANT]: annotations(each).get(NAME, each["metadata"]["name"])
        for _api, kind in (*_KINDS, _VOLUME)
        for each in found[kind].values()
        if _is_ours(each) and TENANT in each["metadata"]["labels"] and not annotations(each).get(REMOVE)
    }


def _is_ours(found: dict[str, Any]) -> bool:
    return (found["metadata"].get("labels") or {}).items() >= MANAGED.items()


def _differences(present: Any, wanted: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Where *present* lacks or differs from something in *wanted*: path, before, after."""
    if isinstance(wanted, dict) and isinstance(present, dict):
        quantities = path.rpartition(".")[2] in _QUANTITIES
        for key, value in wanted.items():
            here = f"{path}.{key}"
            if quantities and key in present:
                if amount(present[key], here) != amount(value, here):
                    yield here, present[key], value
            else:
                yield from _differences(present.get(key), value, here)
    elif isinstance(wanted, list) and isinstance(present, list) and len(wanted) == len(present):
        for number, (before, after) in enumerate(zip(present, wanted)):
            yield from _differences(before, after, f"{path}[{number}]")
    elif present != wanted and not (present is None and wanted in ({}, [])):
        yield path, present, wanted


def _shown(kind: str, path: str, before: Any, after: Any) -> tuple[str | None, str | None]:
    """The two for a diff. What is in a Secret is not shown."""
    if kind == "Secret" and path.startswith(".data"):
        return (None if before is None else HIDDEN), f"{HIDDEN}, another one"
    before, after = (None if each is None else json.dumps(each, sort_keys=True) for each in (before, after))
    return before, after
