# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How tenants that run get a changed declaration: canaries first, then the others, in batches.

A tenant that was ready before and is not in time with what is declared stops it: those of its batch that are not ready
go back to what they ran, and no further tenant is tried. All that this takes stands on the tenants' StatefulSets (see
editions.py), so a run that was killed is simply begun again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.plan import Difference
from . import editions, objects, readiness, verify
from .cluster import Cluster, NotAllowed, at_once
from .declared import Declared, Tenant
from .steps import Outcome, Steps, Turn


def batches(names: Sequence[str], canaries: Sequence[str], size: int) -> Iterator[list[str]]:
    """*names* in the order of their turns, at most *size* at a time.

    :param canaries: those that come first, by themselves; if none of them is in *names*, the first of these does
    """
    first = [name for name in names if name in canaries] or names[:1]
    others = [name for name in names if name not in first]
    for some in (first, others):
        for start in range(0, len(some), size):
            yield list(some[start : start + size])


@dataclass
class Rollout:
    """A run that waits for the tenants.

    :param steps: a tenant's name -> what is to be done
    :param wait: seconds for the tenants of a batch to be ready
    :param anew: gives the steps to tenants as they are when it is their turn, see :meth:`converge._Run.anew`
    :param reply: whether their agents are asked how they are, and for a reply
    """

    cluster: Cluster
    declared: Declared
    steps: dict[str, Steps]
    outcome: Outcome
    wait: float
    anew: Callable[[Mapping[str, dict[str, Any]], Mapping[str, Sequence[str]]], dict[str, Steps]]
    reply: bool
    _tenants: dict[str, Tenant] = field(init=False)
    # Tenants whose agents could not be asked -> why.
    _unasked: dict[str, OpsError] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._tenants = {each.name: each for each in self.declared.tenants}

    def run(self) -> None:
        """Do all steps in their turn, and wait for the tenants that changed."""
        free, begun, last = map(self._whose, (Turn.AT_ONCE, Turn.BEGUN, Turn.LAST))
        self._carry_out(free)
        # Those that were begun are unavailable already, however many they are.
        queue = [begun] if begun else []
        queue += batches(self._whose(Turn.ROLLED), self.declared.canaries, self.declared.batch)
        goes_on = self.outcome.unreachable is None
        while goes_on and queue:
            batch = queue.pop(0)
            if batch is not begun:
                batch, ill = self._parted(batch)
                last += ill
            goes_on = not batch or self._try(batch, sum(map(len, queue)) + len(last))
            if goes_on and batch is not begun and self.outcome.errors.keys() >= set(batch):
                # Those that are refused have proved nothing.
                queue = list(batches(list(chain(*queue)), self.declared.canaries, self.declared.batch))
        if goes_on:
            self._plan(self._keepers(last))
            self._carry_out(last)
        else:
            self.outcome.words.update(dict.fromkeys((*chain(*queue), *last), "not tried"))
        self._await([name for name in (*free, *last) if self.outcome.words.get(name) in ("created", "changed")])
        for name, error in list(self._unasked.items())[:1]:
            self.outcome.warnings.append(
                f"tenants whose agents could not be asked before the update, so that it counts whether they are ready, "
                f"and no more: {len(self._unasked)}, such as {name}: {error}"
            )

    def _parted(self, batch: list[str]) -> tuple[list[str], list[str]]:
        """Those of *batch* that are ready, and those that got ill while others had their turn.

        What the former go back to is what they run now, whatever they ran when this run began.
        """
        found = self._keepers(batch)
        ready = [name for name in batch if readiness.is_ready(found.get(name))]
        self._plan({name: found[name] for name in ready}, self._asked(ready))
        going = [name for name in ready if name not in self.outcome.errors]
        return going, [name for name in batch if name not in ready]

    def _keepers(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The StatefulSets of tenants that have one, by the tenants' names."""
        tenants = [self._tenants[name] for name in names]
        found = readiness.by_label(self.cluster, "apps/v1", "StatefulSet", tenants) if tenants else {}
        return {each.name: found[each.label] for each in tenants if each.label in found}

    def _plan(self, keepers: Mapping[str, dict[str, Any]], had: Mapping[str, Sequence[str]] | None = None) -> None:
        """Plan anew for the tenants with the StatefulSets *keepers*.

        :param had: causes of the problems of those whose agents were asked
        """
        by_label = ({self._tenants[name].label: each for name, each in some.items()} for some in (keepers, had or {}))
        self.steps |= self.anew(*by_label)

    def _asked(self, names: Iterable[str]) -> dict[str, Sequence[str]]:
        """The tenants whose agents could be asked -> the causes of their problems."""
        had: dict[str, Sequence[str]] = {}
        for name, found, error in at_once(names if self.reply else (), partial(self._look, before=None)):
            if found:
                had[name] = found.causes
            elif error:
                self._unasked[name] = error
                # The next ones neither.
                self.reply = self.reply and not isinstance(error, NotAllowed)
        return had

    def _look(self, name: str, before: Sequence[str] | None) -> verify.Look:
        return verify.look(self.cluster, self._tenants[name], before)

    def _mute(self, tried: Iterable[str]) -> dict[str, str]:
        """Those of *tried*, which are ready, whose agents are not as well as before -> why."""
        noted = {name: editions.had_before(each) for name, each in self._keepers(tried).items()}
        had = {name: causes for name, causes in noted.items() if causes is not None and self.reply}
        mute: dict[str, str] = {}
        for name, found, error in at_once(had, lambda name: self._look(name, had[name])):
            why = str(error) if error else found and found.worse
            if why:
                mute[name] = f"is ready, and not as well as before: {why}"
        return mute

    def _whose(self, turn: Turn) -> list[str]:
        return [name for name, each in self.steps.items() if each.turn is turn]

    def _carry_out(self, names: Iterable[str]) -> None:
        self.outcome.carry_out({name: self.steps[name] for name in names})

    def _try(self, batch: list[str], others: int) -> bool:
        """Whether all of *batch* are ready with what is declared. Those that are not go back.

        :param others: how many would come after them
        """
        self._carry_out(batch)
        tried = {name: self._tenants[name] for name in batch if name not in self.outcome.errors}
        try:
            failed = readiness.unready(self.cluster, tried, self.wait)
            failed |= self._mute(name for name in tried if name not in failed)
            self._settle(name for name in tried if name not in failed)
            fates = self._back(failed) if failed else {}
        except OpsError as error:
            self.outcome.errors.update(dict.fromkeys(tried, error))
            return False
        for name, why in failed.items():
            self.outcome.errors[name] = OpsError(
                f"{why}; {fates[name]}; other tenants that were not tried: {others}",
                where=f"{tried[name].object}-0",
                fix="declare another image or description; the next run tries again what is declared",
            )
        return not failed and self.outcome.unreachable is None

    def _back(self, failed: Iterable[str]) -> dict[str, str]:
        """Have the tenants *failed* run again with what they were ready with.

        :returns: a tenant's name -> what became of it
        """
        tenants = {name: self._tenants[name] for name in failed}
        keepers = readiness.by_label(self.cluster, "apps/v1", "StatefulSet", tenants.values())

        def apply(tenant: Tenant) -> None:
            *_others, wanted = objects.of_tenant(tenant)
            self.cluster.apply(editions.back(wanted, keepers.get(tenant.label)), check=False)

        backwards = Outcome()
        backwards.carry_out(
            {
                name: Steps(
                    "rolled back",
                    [Difference(f"tenant {name}: update", "under way", "rolled back")],
                    [partial(apply, tenant)],
                )
                for name, tenant in tenants.items()
            }
        )
        self.outcome.differences += backwards.differences
        gone = {name: tenants[name] for name in backwards.words}
        ill = readiness.unready(self.cluster, gone, self.wait)
        self._settle(name for name in gone if name not in ill)
        self.outcome.words.update(backwards.words)
        return {
            **dict.fromkeys(gone, "it was rolled back"),
            **{name: f"it was rolled back, and with what it ran before it {why}" for name, why in ill.items()},
            **{name: f"it could not be rolled back: {error}" for name, error in backwards.errors.items()},
        }

    def _await(self, names: Iterable[str]) -> None:
        """Wait for tenants that nothing depends on."""
        tenants = {name: self._tenants[name] for name in names}
        try:
            failed = readiness.unready(self.cluster, tenants, self.wait)
            self._settle(name for name in tenants if self.steps[name].turn is not Turn.AT_ONCE and name not in failed)
        except OpsError as error:
            self.outcome.errors.update(dict.fromkeys(tenants, error))
            return
        for name, why in failed.items():
            log = f"kubectl --namespace {self.cluster.namespace} logs {tenants[name].object}-0"
            self.outcome.errors[name] = OpsError(why, where=f"{tenants[name].object}-0", fix=f"read its log: {log}")

    def _settle(self, names: Iterable[str]) -> None:
        """End the update of tenants that are ready."""
        tenants = {name: self._tenants[name] for name in names}
        if not tenants:
            return
        keepers = readiness.by_label(self.cluster, "apps/v1", "StatefulSet", tenants.values())
        secrets = editions.by_tenant(self.cluster.all("v1", "Secret", readiness.selector(tenants.values())).values())
        ended = Outcome()
        ended.carry_out(
            {
                name: editions.settled(self.cluster, f"tenant {name}", keepers[each.label], secrets[each.label])
                for name, each in tenants.items()
                if readiness.is_ready(keepers.get(each.label))
            }
        )
        self.outcome.words.update(ended.words)
        self.outcome.errors.update(ended.errors)
        self.outcome.differences += ended.differences
