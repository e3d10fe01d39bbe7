# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One part of an agent's home (its directories and persona, config.yaml, .env, its webhooks): compared and corrected.

Each part has a function ``decide(home, declared, record)``, which a worker calls as the agent's user. It returns a
:class:`Part` with the differences and the steps that remove them. Root receives all of it as JSON except the steps.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..system.answer import Maybe, fits
from ..system.errors import OpsError
from ..system.files import read_text, write_atomic
from ..system.plan import Difference
from ..system.text import printable

FILE_MODE = 0o600
# Characters that are shown of one value.
_SHOWN = 20_000
# Entries that each list of a part may have: differences, restarts and the like.
_ENTRIES = 10_000


class Changed(Exception):
    """Another process wrote the file after we read it and before we wrote it; decide again."""


@dataclass
class Part:
    """The changes to one part of a home; in check mode, the changes that would be made.

    :param path: its file or directory
    :param record: the record of what was applied, for :meth:`Records.write_applied`
    :param restart: reasons to restart the gateway
    :param drift: declared values that somebody changed since we wrote them
    :param migrated: the same, for values that Hermes changed when it migrated the format of the file
    :param left: values that are no longer declared but stay, because somebody changed them
    :param generated: names of values that got a new random value
    :param before: the content of the file before the change
    :param unpredicted: why the differences are not known
    :param steps: the functions that make the changes, in order; empty outside of the worker
    """

    path: str
    differences: list[Difference] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    restart: list[str] = field(default_factory=list)
    drift: list[Any] = field(default_factory=list)
    migrated: list[Any] = field(default_factory=list)
    left: list[Any] = field(default_factory=list)
    generated: list[str] = field(default_factory=list)
    before: str | None = None
    unpredicted: str | None = None
    steps: list[Callable[[], None]] = field(default_factory=list)

    @classmethod
    def unpredictable(cls, path: str, why: str) -> Part:
        return cls(path, [Difference(path, None, f"cannot be predicted: {why}")], unpredicted=why)

    def add(self, difference: Difference, step: Callable[[], None]) -> None:
        self.differences.append(difference)
        self.steps.append(step)

    def join(self, other: Part) -> None:
        """Merge *other*, for a second file of the same part, except its record and content."""
        self.differences += other.differences
        self.restart = list(dict.fromkeys([*self.restart, *other.restart]))
        self.drift += other.drift
        self.migrated += other.migrated
        self.left += other.left
        self.unpredicted = self.unpredicted or other.unpredicted

    def said(self) -> dict[str, Any]:
        """The part as JSON, without its steps; :meth:`heard` reads it."""
        said = {name: getattr(self, name) for name in _SAID}
        said["differences"] = [[each.what, _cut(each.before), _cut(each.after)] for each in self.differences]
        return plain(said)

    @classmethod
    def heard(cls, path: str, said: Any, record: Mapping[str, Any]) -> Part:
        """The part in a worker's answer, which is checked for its form and made safe for terminals.

        :param record: the form of the record, see :func:`fits`
        :raises OpsError: the answer has another form
        """
        empty = isinstance(said, dict) and said.get("record") == {}
        form = {**_SAID, "record": dict if empty else record}
        if not fits(said, form) or any(len(said[name]) > _ENTRIES for name in _LISTS):
            raise OpsError(
                "the worker that read it gave a malformed answer",
                where=path,
                fix="see what the agent left there; it may be damaged or hostile",
            )
        differences = [Difference(*(fit(text) for text in each)) for each in said["differences"]]
        shown = {name: fit(said[name]) for name in _LISTS[1:]}
        return cls(
            path,
            differences,
            said["record"],
            before=said["before"],
            unpredicted=fit(said["unpredicted"]),
            **shown,
        )


TEXT = Maybe(str)
# The fields of a part in an answer, with their forms.
_SAID: dict[str, Any] = {
    "differences": [(str, TEXT, TEXT)],
    "record": dict,
    "restart": [str],
    "drift": [object],
    "migrated": [object],
    "left": [object],
    "generated": [str],
    "before": TEXT,
    "unpredicted": TEXT,
}


_LISTS = ("differences", "restart", "drift", "migrated", "left", "generated")


def plain(value: Any) -> Any:
    """*value*, from a file of the agent, in the types of JSON: dates, huge integers, NaN and infinity become text."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(each) for each in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    return _cut(str(value) if not isinstance(value, int) else hex(value))


def fit(value: Any) -> Any:
    """*value*, a part of an answer, with its texts made safe for terminals and reports."""
    if isinstance(value, dict):
        return {fit(name): fit(each) for name, each in value.items()}
    if isinstance(value, list):
        return [fit(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


# For parts that are a file


def mode_of(path: str) -> int | None:
    """The permission bits of the file *path*; None when it does not exist."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return None


def wrong_mode(mode: int | None, wanted: int, prefix: str = "") -> Iterator[Difference]:
    """The difference if the file exists (*mode* is not None) and its mode is not *wanted*."""
    if mode is not None and mode != wanted:
        yield Difference(f"{prefix}mode", f"{mode:04o}", f"{wanted:04o}")


def replace(path: str, before: str | None, text: str, *, mode: int = FILE_MODE) -> None:
    """Write *text*, unless the file was changed meanwhile.

    :param before: the content that *text* was made from; None when the file did not exist
    :raises Changed: the file no longer holds *before*
    """
    try:
        unchanged = read_text(path) == before
    except OpsError:
        unchanged = False
    if not unchanged:
        raise Changed
    write_atomic(path, text, mode=mode)
