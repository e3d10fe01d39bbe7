# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The progress of an update, and its outcome."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

STEPS = (
    "resolve",
    "preconditions",
    "build",
    "snapshot",
    "canary",
    "freeze",
    "stop",
    "switch",
    "start",
    "verify",
    "prune",
)
# The outcomes of a run, and their exit statuses.
ENDS = {"success": 0, "up_to_date": 0, "held": 0, "failed": 1, "rolled_back": 1}


@dataclass
class Journal:
    """The facts needed to finish or undo a run.

    :param kind: ``update`` or ``rollback``
    :param began: seconds since 1970
    :param source: id of the release to go back to
    :param target: id of the release to go to
    :param gateways: agents whose gateways were stopped, and have to run again
    :param before: agent -> causes of the problems that its gateway had before
    :param attempt: how often the run was begun, this time included
    :param problem: why the run goes back; empty: it does not
    :param failed_step: the step at which that happened
    :param blame: whether the release is at fault
    :param lacks: what a rollback with data could not put back; empty: nothing
    """

    kind: str
    began: float
    source: str
    target: str
    step: str = "build"
    gateways: list[str] = field(default_factory=list)
    before: dict[str, list[str]] = field(default_factory=dict)
    attempt: int = 1
    problem: str = ""
    failed_step: str = ""
    blame: bool = False
    lacks: str = ""

    @property
    def name(self) -> str:
        """The name of this run, in all files and directories that it leaves."""
        return f"{self.kind}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(self.began))}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    :param status: one of :data:`ENDS`
    :param message: for people, one or a few sentences
    :param source: id of the release that was current before
    :param target: id of the release that was wanted
    """

    status: str
    message: str
    began: float
    source: str | None = None
    target: str | None = None
    failed_step: str | None = None

    @property
    def exit_status(self) -> int:
        return ENDS[self.status]


def after_kill(step: str) -> str:
    """How to recover from a kill during *step*.

    :returns: ``again``: nothing that runs was touched, so start again; ``undo``: go back to the old release;
        ``finish``: the new release has proved itself
    """
    if step == "prune":
        return "finish"
    return "undo" if STEPS.index(step) >= STEPS.index("stop") else "again"


def data_is_frozen(step: str) -> bool:
    """Whether the frozen copies are complete, and the new release may have run since."""
    return STEPS.index(step) >= STEPS.index("switch")
