# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warnings that somebody has acknowledged: with a reason, and until a date.

Only warnings can be. An acknowledgement names one warning by its :attr:`Finding.id`, so a warning about another agent
or another thing is told as before, and so is the same one once it has become a failure or the date is over.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from ..system.errors import OpsError
from .findings import WARNINGS, Report

_WHERE = "acknowledged"
_KEYS = ("finding", "reason", "until")
_EXAMPLE = "such as finding: sqlite_wal, reason: Debian's own Python is our rule, until: 2027-03-31"
# What became of an acknowledgement: its warning is there; the date is over; there is no such warning now.
HOLDS, OVER, UNUSED = "holds", "over", "unused"


@dataclasses.dataclass(frozen=True)
class Acknowledgement:
    """
    :param finding: the :attr:`Finding.id` of a warning
    :param reason: why nothing is done about it
    :param until: its last day (UTC), ``2027-03-31``
    """

    finding: str
    reason: str
    until: str


def parse(entries: Any) -> list[Acknowledgement]:
    """The acknowledgements that a person declared.

    :param entries: mappings with the fields of :class:`Acknowledgement`
    :raises OpsError: one of them is wrong; the error names it
    """
    found: dict[str, Acknowledgement] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not all(str(entry.get(key) or "").strip() for key in _KEYS):
            named = entry.get("finding") if isinstance(entry, dict) else None
            what = f"{named or 'an entry'} lacks one of {', '.join(_KEYS)}"
            raise OpsError(what, where=_WHERE, fix=f"write all three, {_EXAMPLE}")
        one = Acknowledgement(str(entry["finding"]).strip(), str(entry["reason"]).strip(), _day(entry))
        unknown = sorted(set(map(str, entry)) - set(_KEYS))
        if unknown:
            raise _error(one.finding, f"unknown key {unknown[0]}", f"known ones are {', '.join(_KEYS)}")
        cause = one.finding.partition(":")[0].rpartition("/")[2]
        if cause not in WARNINGS:
            import difflib

            near = difflib.get_close_matches(cause, WARNINGS, 1)
            fix = f"did you mean {near[0]}?" if near else f"known ones are {', '.join(WARNINGS)}"
            raise _error(one.finding, f"{cause} is not a warning that can be acknowledged", fix)
        if one.finding in found:
            raise _error(one.finding, "is acknowledged twice", "remove one of the two")
        found[one.finding] = one
    return list(found.values())


def _day(entry: dict[str, Any]) -> str:
    # YAML reads a date without quotes as a date.
    text = str(entry["until"]).strip()
    try:
        return time.strftime("%Y-%m-%d", time.strptime(text, "%Y-%m-%d"))
    except ValueError:
        what = f"until is {text!r}, not a date"
        raise _error(str(entry["finding"]), what, "write one such as 2027-03-31") from None


def _error(finding: str, what: str, fix: str) -> OpsError:
    return OpsError(f"{finding}: {what}", where=_WHERE, fix=fix)


def apply(report: Report, entries: list[Acknowledgement], now: float) -> None:
    """Mark the warnings of *report* that are acknowledged, and record what became of each of *entries*."""
    there = {finding.id for finding in report.findings}
    today = time.strftime("%Y-%m-%d", time.gmtime(now))
    states = {one: UNUSED if one.finding not in there else HOLDS if one.until >= today else OVER for one in entries}
    holding = {one.finding: one for one, state in states.items() if state == HOLDS}
    for number, finding in enumerate(report.findings):
        if finding.id in holding:
            one = holding[finding.id]
            said = {"reason": one.reason, "until": one.until}
            report.findings[number] = dataclasses.replace(finding, acknowledged=said)
    report.acknowledged = [{**dataclasses.asdict(one), "state": state} for one, state in states.items()]
