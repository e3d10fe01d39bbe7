# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings a namespace to the declared tenants. What differs is found by a few lists; only that is written, some tenants
at a time, and an error of one is no other's."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property, partial
from typing import Any

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.plan import HIDDEN, Difference
from . import capacity, editions, lease, objects, readiness, restoring
from .cluster import Cluster
from .declared import PREFIX, Declared, Tenant, amount
from .objects import MANAGED, NAME, REMOVE, TENANT, annotations
from .rollout import Rollout
from .steps import Outcome, Steps, Turn

# What a tenant consists of, in the order in which it is removed. The Secrets, which have names of their own, come then,
# and the volume last, and later.
_KINDS = (("apps/v1", "StatefulSet"), ("v1", "Service"))
_SECRET = ("v1", "Secret")
_VOLUME = ("v1", "PersistentVolumeClaim")
# What all tenants have once, beside the namespace.
_OF_ALL = (("networking.k8s.io/v1", "NetworkPolicy"), ("v1", "ResourceQuota"), ("v1", "LimitRange"))
# Below these keys of an object stand quantities, of which the server writes another form.
_QUANTITIES = frozenset({"requests", "limits", "hard"})


@dataclass(frozen=True)
class _Found:
    """The objects of a namespace.

    :param of: kind -> name -> the object
    """

    of: dict[str, dict[str, dict[str, Any]]]

    @cached_property
    def secrets(self) -> defaultdict[str, list[dict[str, Any]]]:
        """Those of each tenant, by its label."""
        return editions.by_tenant(self.of["Secret"].values())


def converge(
    cluster: Cluster,
    declared: Declared,
    today: date,
    *,
    check: bool = False,
    purge: bool = False,
    wait: float = 0.0,
    room: bool = True,
    reply: bool = False,
) -> Outcome:
    """Bring the namespace to what is *declared*.

    :param check: change nothing; the server is asked whether it would take what differs
    :param purge: remove tenants that are not declared, as if they were declared absent
    :param wait: seconds for the tenants that changed to be ready, for each batch of an update; 0: everything is done at
        once, and nothing is waited for
    :param room: whether the nodes have to have room for all tenants before one is made
    :param reply: whether the agents that an update is about are asked how they are, and for a reply, before and after
    :raises OpsError: what all tenants need cannot be had
    """
    run = _Run(cluster, declared, today, check)
    namespace, *_others = objects.of_namespace(declared)
    present = cluster.get(namespace["apiVersion"], "Namespace", declared.namespace)
    before = _Found({"Namespace": {declared.namespace: present} if present else {}})
    made = run.applied([namespace], before, "namespace")
    run = replace(run, unborn=check and present is None)
    for action in made.actions:
        action()
    plan = run.plan(purge=purge, room=room)
    if check or plan.is_idle:
        return _carried_out(run, made, plan, wait=0.0, reply=False)
    with lease.held(cluster):
        # Another run may have ended meanwhile.
        return _carried_out(run, made, run.plan(purge=purge, room=room), wait=wait, reply=reply)


@dataclass(frozen=True)
class _Plan:
    """What is to be done.

    :param found: what was there then
    :param of_all: for what all tenants have once
    :param tenants: a tenant's name -> what is to be done for it
    :param outcome: what is known before that
    :param stays: a tenant's name -> what of it cannot be changed, though all else is
    """

    found: _Found
    of_all: Steps
    tenants: dict[str, Steps]
    outcome: Outcome
    stays: dict[str, OpsError]

    @property
    def is_idle(self) -> bool:
        idle = all(each.turn is Turn.AT_ONCE and not each.differences for each in self.tenants.values())
        return idle and not self.of_all.differences


def _carried_out(run: _Run, made: Steps, plan: _Plan, *, wait: float, reply: bool) -> Outcome:
    """Do what is planned.

    :param made: what was done before
    """
    outcome = plan.outcome
    outcome.differences += made.differences
    outcome.take(plan.of_all)
    if wait:
        anew = partial(run.anew, plan.found, outcome)
        Rollout(run.cluster, run.declared, plan.tenants, outcome, wait, anew, reply).run()
    else:
        outcome.carry_out(plan.tenants)
    # Not before: it stops no update.
    outcome.errors.update({name: error for name, error in plan.stays.items() if name not in outcome.errors})
    return outcome


def _planned(plans: dict[str, Callable[[], Steps]], outcome: Outcome) -> dict[str, Steps]:
    steps: dict[str, Steps] = {}
    for name, plan in plans.items():
        try:
            steps[name] = plan()
        except OpsError as error:
            outcome.errors[name] = error
    return steps


@dataclass(frozen=True)
class _Run:
    """Decides what is to be done.

    :param unborn: whether the namespace is not there and only a check is made, so that nothing can be asked in it
    :param had: a tenant's label -> causes of the problems that its agent has, if it was asked
    """

    cluster: Cluster
    declared: Declared
    today: date
    check: bool
    unborn: bool = False
    had: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def plan(self, *, purge: bool, room: bool) -> _Plan:
        """What is to be done, and what cannot be."""
        _namespace, *others = objects.of_namespace(self.declared)
        once = self.found(_OF_ALL)
        _check_whole(others, once)
        of_all = self.applied(others, once, "namespace")
        found, outcome = self.found((*_KINDS, _SECRET, _VOLUME)), Outcome()
        stays: dict[str, OpsError] = {}
        plans: dict[str, Callable[[], Steps]] = {}
        for each in self.declared.tenants:
            plans[each.name] = partial(self.tenant, each, found)
            if error := _with_its_volume(each, found)[1]:
                stays[each.name] = error
        labels = {tenant.label for tenant in self.declared.tenants}
        for label, name in sorted(_leaving(found, self.today).items()):
            if label not in labels:
                plans[name] = partial(self.gone, label, found)
        for label, name in sorted(_present(found).items()):
            if label in labels:
                continue
            outcome.undeclared.append(name)
            if purge:
                plans[name] = partial(self.gone, label, found)
        here = self.declared.tenants
        new = [each.name for each in here if each.present and each.object not in found.of["StatefulSet"]]
        if new and room:
            try:
                outcome.warnings += capacity.check(self.cluster, self.declared)
            except OpsError as error:
                outcome.errors.update(dict.fromkeys(new, error))
        planned = _planned({name: plan for name, plan in plans.items() if name not in outcome.errors}, outcome)
        return _Plan(found, of_all, planned, outcome, stays)

    def found(self, kinds: Iterable[tuple[str, str]]) -> _Found:
        """The objects of *kinds* in the namespace."""
        return _Found({kind: {} if self.unborn else self.cluster.all(api, kind) for api, kind in kinds})

    def anew(
        self, found: _Found, outcome: Outcome, keepers: Mapping[str, dict[str, Any]], had: Mapping[str, Sequence[str]]
    ) -> dict[str, Steps]:
        """The steps to tenants as they are by now.

        :param keepers: a tenant's label -> its StatefulSet
        :param had: likewise, see :class:`_Run`
        """
        now = _Found({**found.of, "StatefulSet": {each["metadata"]["name"]: each for each in keepers.values()}})
        run, tenants = replace(self, had=had), [each for each in self.declared.tenants if each.label in keepers]
        return _planned({each.name: partial(run.tenant, each, now) for each in tenants}, outcome)

    def tenant(self, tenant: Tenant, found: _Found) -> Steps:
        """The steps to a declared *tenant*."""
        kept, _why = _with_its_volume(tenant, found)
        return self.there(kept, found) if tenant.present else self.gone(tenant.label, found, purge=tenant.purge)

    def there(self, tenant: Tenant, found: _Found) -> Steps:
        """The steps to a *tenant* that is there."""
        where = f"tenant {tenant.name}"
        keeper = found.of["StatefulSet"].get(tenant.object)
        used = editions.secrets_of(keeper["spec"]["template"]) if keeper else ()
        former = next((each for each in found.secrets[tenant.label] if each["metadata"]["name"] in used), None)
        steps = self.applied(objects.of_tenant(tenant), found, where, former)
        if keeper and readiness.is_ready(keeper) and steps.turn is Turn.AT_ONCE:
            left = editions.settled(self.cluster, where, keeper, found.secrets[tenant.label])
            steps.differences.extend(left.differences)
            steps.actions.extend(() if self.check else left.actions)
        if keeper and restoring.RESTORING in annotations(keeper):
            # Of a run that was killed. Its pod may have the volume.
            steps.differences.append(Difference(f"{where}: restore", "under way", "ended"))
            if not self.check:
                steps.actions.insert(0, partial(restoring.remove_pod, self.cluster, tenant.object))
        volume = found.of[_VOLUME[1]].get(tenant.object)
        day = annotations(volume).get(REMOVE) if volume else None
        if day:
            steps.differences.append(Difference(f"{where}: volume", f"goes on {day}", "stays"))
            if not self.check:
                steps.actions.append(lambda: self.cluster.annotate(volume, *_VOLUME, REMOVE, None))
        return replace(steps, word="changed") if steps.word == "unchanged" and steps.differences else steps

    def applied(
        self, wanted: list[dict[str, Any]], found: _Found, where: str, former: dict[str, Any] | None = None
    ) -> Steps:
        """The steps to all of *wanted*.

        :param former: the Secret that a new one replaces
        :raises OpsError: an object of one of their names is somebody else's
        """
        steps, created = Steps(""), False
        for each in wanted:
            kind, name = each["kind"], each["metadata"]["name"]
            before = found.of[kind].get(name)
            if before is not None:
                _check(before, kind)
            compared = former if before is None and kind == "Secret" else before
            # A list leaves out what all of its objects have in common.
            listed = {"apiVersion": each["apiVersion"], "kind": kind, **(compared or {})}
            differs = list(_differences(listed, each, ""))
            if compared is None:
                created = True
                steps.differences.append(Difference(f"{where}: {kind} {name}", None, "present"))
            else:
                for path, *pair in differs:
                    steps.differences.append(Difference(f"{where}: {kind}{path}", *_shown(kind, path, *pair)))
            if kind == "StatefulSet" and before is not None:
                again = any(path.startswith(".spec.template") for path, *_pair in differs)
                steps = replace(steps, turn=editions.turn_of(before, again=again))
                had = self.had.get(each["metadata"]["labels"][TENANT])
                each = editions.noted(each, before, again=again, had=had)
            if (before is None or differs) and not self.unborn:
                steps.actions.append(partial(self.cluster.apply, each, check=self.check))
        word = "created" if created else "changed" if steps.differences else "unchanged"
        return replace(steps, word=word)

    def gone(self, label: str, found: _Found, *, purge: bool = False) -> Steps:
        """The steps to a tenant that is not there. Its volume stays until its day, or goes with it if *purge*."""
        name, steps = f"{PREFIX}{label}", Steps("absent")
        objects_of = [(api, kind, found.of[kind].get(name)) for api, kind in _KINDS]
        objects_of += [(*_SECRET, each) for each in found.secrets[label]]
        for api, kind, present in objects_of:
            if present and _is_ours(present):
                steps.differences.append(Difference(f"{kind} {present['metadata']['name']}", "present", None))
                steps.actions.append(partial(self.cluster.delete, present, api, kind))
        volume = found.of[_VOLUME[1]].get(name)
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


def _check(present: dict[str, Any], kind: str) -> None:
    """:raises OpsError: the object *present* is not ours to change"""
    where = f"{kind} {present['metadata']['name']}"
    if not _is_ours(present):
        fix = "remove it, or give the tenant another name"
        if kind == "Namespace":
            # Its pods would be restricted, and cut off from the network.
            label = " ".join(f"{name}={value}" for name, value in MANAGED.items())
            fix = f"name another one; or if nothing else is in it: kubectl label {where.lower()} {label}"
        raise OpsError("is there, and not ours", where=where, fix=fix)
    if present["metadata"].get("deletionTimestamp"):
        raise OpsError("is being removed", where=where, fix="run this again once it is gone")


def _check_whole(wanted: Iterable[dict[str, Any]], found: _Found) -> None:
    """:raises OpsError: a policy of the network has a field of somebody else, which may open what it closes"""
    for each in wanted:
        name = each["metadata"]["name"]
        before = found.of[each["kind"]].get(name) if each["kind"] == "NetworkPolicy" else None
        if before is None:
            continue
        ours = {path for path, *_pair in _differences(before["spec"], each["spec"], "spec")}
        theirs = [path for path, *_pair in _differences(each["spec"], before["spec"], "spec") if path not in ours]
        if theirs:
            raise OpsError(
                f"has fields that are not ours: {', '.join(theirs)}",
                where=f"NetworkPolicy {name}",
                fix="remove them, or the policy, which is then made again; ranges and callers can be declared",
            )


def _with_its_volume(tenant: Tenant, found: _Found) -> tuple[Tenant, OpsError | None]:
    """The *tenant* with the volume that it has, if that cannot be what is declared, and an error about it."""
    volume = found.of[_VOLUME[1]].get(tenant.object)
    if volume is None or not tenant.present:
        return tenant, None
    size, name = volume["spec"]["resources"]["requests"]["storage"], volume["spec"].get("storageClassName", "")
    where, said, kept = f"tenant {tenant.name}", [], {}
    if amount(size, where) > amount(tenant.volume, where):
        said.append(f"has {size} and cannot become {tenant.volume}, which is smaller")
        kept["volume"] = size
    if tenant.storage_class and tenant.storage_class != name:
        said.append(f"has the class {name or 'of the cluster'} and cannot get {tenant.storage_class}")
        kept["storage_class"] = name
    if not said:
        return tenant, None
    fix = "declare for it what it has; or for another volume: back it up, make it absent with purge, declare it again"
    return replace(tenant, **kept), OpsError(" and ".join(said), where=f"{where}: its volume", fix=fix)


def _present(found: _Found) -> dict[str, str]:
    """The labels of the tenants that are there -> their names."""
    return {
        each["metadata"]["labels"][TENANT]: annotations(each).get(NAME, each["metadata"]["name"])
        for kind in found.of
        for each in found.of[kind].values()
        if _is_ours(each) and TENANT in each["metadata"]["labels"] and not annotations(each).get(REMOVE)
    }


def _leaving(found: _Found, today: date) -> dict[str, str]:
    """The labels of tenants whose volumes have had their day -> their names."""
    return {
        each["metadata"]["labels"][TENANT]: annotations(each).get(NAME, each["metadata"]["name"])
        for each in found.of[_VOLUME[1]].values()
        if _is_ours(each)
        and TENANT in each["metadata"]["labels"]
        and "" < annotations(each).get(REMOVE, "") <= today.isoformat()
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
