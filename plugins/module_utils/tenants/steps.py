# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done for tenants, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.plan import Difference, diff
from .cluster import Unreachable, at_once


class Turn(Enum):
    """When a tenant's steps are done: with all others; first of an update, since it was begun by a run that did not end
    it; when the update comes to it; or after the update, since the tenant was not ready before."""

    AT_ONCE, BEGUN, ROLLED, LAST = range(4)


@dataclass(frozen=True)
class Steps:
    """What is to be done for one tenant, or for all."""

    word: str
    differences: list[Difference] = field(default_factory=list)
    actions: list[Callable[[], object]] = field(default_factory=list)
    turn: Turn = Turn.AT_ONCE


@dataclass
class Outcome:
    """What became, or would become, of the tenants.

    :param words: a tenant's name -> ``created``, ``changed``, ``unchanged``, ``removed``, ``absent``, ``rolled back``,
        or ``not tried``
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

    @property
    def unreachable(self) -> Unreachable | None:
        """Why no other call would fare better; None: it would."""
        return next((error for error in self.errors.values() if isinstance(error, Unreachable)), None)

    def diff(self, header: str) -> dict[str, str]:
        return diff(self.differences, header)

    def take(self, steps: Steps) -> None:
        """Do *steps*, which are no tenant's."""
        for action in steps.actions:
            action()
        self.differences += steps.differences

    def carry_out(self, steps: Mapping[str, Steps]) -> None:
        """Do all *steps*, some tenants at a time. If the cluster is gone, the rest is not tried."""
        if gone := self.unreachable:
            self.errors.update(dict.fromkeys(steps, gone))
            return
        begun: set[str] = set()

        def one(name: str) -> None:
            for action in steps[name].actions:
                action()
                begun.add(name)

        for name, _done, error in at_once(steps, one):
            # What came before an error is a change, too.
            if name in begun or not error:
                self.differences += steps[name].differences
            if error:
                self.errors[name] = error
            else:
                self.words[name] = steps[name].word
