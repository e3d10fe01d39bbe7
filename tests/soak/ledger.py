# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The accounts of a soak: which messages were acknowledged, where they are in the end, how long recoveries took."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from faults import KINDS


@dataclass(frozen=True)
class Message:
    """One message to an agent; times are seconds since 1970.

    :param number: unique in the soak
    :param answered: when the whole reply was there (status 200); None: it was not acknowledged
    """

    number: int
    agent: str
    sent: float
    answered: float | None


@dataclass(frozen=True)
class Full:
    """A time in which a disk was full, from the first byte that did not fit until the space was free again."""

    agents: tuple[str, ...]
    began: float
    ended: float

    def covers(self, message: Message) -> bool:
        """Whether *message* may have been answered while its agent could write nothing."""
        assert message.answered is not None
        return message.agent in self.agents and message.sent <= self.ended and message.answered >= self.began


@dataclass(frozen=True)
class Recovery:
    """How one fault ended.

    :param seconds: from the fault until all agents were healthy and had answered; None: it did not heal
    :param helped: the documented commands that were needed; empty: it healed on its own
    :param problem: why it counts as not healed
    """

    number: int
    kind: str
    fault: str
    seconds: float | None
    helped: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Balance:
    """Where the acknowledged messages are in the end.

    :param kept: in a session of their agent
    :param set_aside: only in data that a restore or a way back has replaced and kept, as documented
    :param lost_while_full: nowhere, and answered while the agent's disk was full, as documented
    :param lost: those that should be somewhere
    """

    sent: int
    acknowledged: int
    kept: int
    set_aside: int
    lost_while_full: int
    lost: tuple[Message, ...]


def balance(messages: Iterable[Message], kept: set[int], aside: set[int], full: Sequence[Full]) -> Balance:
    """Compare the acknowledged *messages* with those that were found.

    :param kept: the numbers that are in sessions
    :param aside: the numbers that are in data that was set aside
    :param full: when disks were full
    """
    messages = list(messages)
    acknowledged = [message for message in messages if message.answered is not None]
    elsewhere = [message for message in acknowledged if message.number not in kept]
    missing = [message for message in elsewhere if message.number not in aside]
    lost = [message for message in missing if not any(each.covers(message) for each in full)]
    return Balance(
        sent=len(messages),
        acknowledged=len(acknowledged),
        kept=len(acknowledged) - len(elsewhere),
        set_aside=len(elsewhere) - len(missing),
        lost_while_full=len(missing) - len(lost),
        lost=tuple(lost),
    )


def table(recoveries: Sequence[Recovery], result: Balance) -> str:
    """The result as Markdown, as it stands in bench/RESULTS.md."""
    lines = [
        "| kind of fault | number | recovery, median | worst | with a documented command |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        if rows := [each for each in recoveries if each.kind == kind]:
            lines.append(_row(kind, rows))
    lines += [
        _row("all", recoveries),
        "",
        "| messages sent | acknowledged | in sessions | only set aside | lost while the disk was full | lost |",
        "|---|---|---|---|---|---|",
        f"| {result.sent} | {result.acknowledged} | {result.kept} | {result.set_aside} | {result.lost_while_full} "
        f"| {len(result.lost)} |",
    ]
    return "\n".join(lines)


def _row(name: str, rows: Sequence[Recovery]) -> str:
    times = [each.seconds for each in rows if each.seconds is not None]
    median, worst = (f"{statistics.median(times):.1f} s", f"{max(times):.1f} s") if times else ("", "")
    if failed := len(rows) - len(times):
        worst = f"{failed} did not heal"
    return f"| {name} | {len(rows)} | {median} | {worst} | {sum(bool(each.helped) for each in rows)} |"


def as_dict(seed: int, recoveries: Sequence[Recovery], result: Balance) -> dict[str, Any]:
    """The result for programs."""
    return {
        "seed": seed,
        "passed": passed(recoveries, result),
        "messages": dataclasses.asdict(result),
        "faults": [dataclasses.asdict(each) for each in recoveries],
    }


def passed(recoveries: Sequence[Recovery], result: Balance) -> bool:
    """Whether every fault healed and nothing was lost that should not be. A soak without any of both proves nothing."""
    return (
        bool(recoveries)
        and result.acknowledged > 0
        and not result.lost
        and all(each.seconds is not None for each in recoveries)
    )
