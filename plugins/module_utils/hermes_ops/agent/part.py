# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One part of an agent's home (its directories and persona, config.yaml, .env, its webhooks): found, and put right.

Each part has a function ``decide(home, declared, record)``, which a worker calls as the agent's user. It returns a
:class:`Part`: what differs, and the steps that change that. Root gets to know all but the steps, as JSON.
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
# Characters of one value that is shown.
_SHOWN = 20_000
# Differences, restarts and the like of one part.
_ENTRIES = 10_000


class Changed(Exception):
    """Somebody wrote a file between our look and our write; decide again."""


@dataclass
class Part:
    """What became of one part of a home, or in check mode would become of it.

    :param path: the file or directory it is about
    :param record: what to remember of it, for :meth:`Records.write_applied`
    :param restart: why the gateway has to be restarted
    :param drift: what somebody changed since we wrote it
    :param migrated: the same, where Hermes changed it with the version of its format
    :param left: what left the declaration and stays, because somebody changed it
    :param generated: what got a new random value, by name
    :param before: the content of the file, which is about to change
    :param unpredicted: why check mode cannot know
    :param steps: put it right, in this order; known only where it was decided
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
        """Take in what *other* says of a second file of the same part; not its record and content."""
        self.differences += other.differences
        self.restart = list(dict.fromkeys([*self.restart, *other.restart]))
        self.drift += other.drift
        self.migrated += other.migrated
        self.left += other.left
        self.unpredicted = self.unpredicted or other.unpredicted

    def said(self) -> dict[str, Any]:
        """For :meth:`heard`, as JSON."""
        said = {name: getattr(self, name) for name in _SAID}
        said["differences"] = [[each.what, _cut(each.before), _cut(each.after)] for each in self.differences]
        return plain(said)

    @classmethod
    def heard(cls, path: str, said: Any, record: Mapping[str, Any]) -> Part:
        """What a worker said; believed only as far as it has the right form, and made fit for terminals.

        :param record: the form of the record, see :func:`fits`
        :raises OpsError: it has another form
        """
        empty = isinstance(said, dict) and said.get("record") == {}
        form = {**_SAID, "record": dict if empty else record}
        if not fits(said, form) or any(len(said[name]) > _ENTRIES for name in _LISTS):
            raise OpsError(
                "what a look at it answered has no meaning",
                where=path,
                fix="see what the agent left there; it is its own, and may be damaged or hostile",
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
# What is said of a part, and its form.
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
    """*value*, of a file of the agent's, as JSON can say it: dates and numbers that are none become texts."""
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
    """*value*, of an answer, with its texts fit for terminals and reports."""
    if isinstance(value, dict):
        return {fit(name): fit(each) for name, each in value.items()}
    if isinstance(value, list):
        return [fit(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


# For parts that are a file.


def mode_of(path: str) -> int | None:
    """The permission bits of the file *path*, None when there is none."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return None


def wrong_mode(mode: int | None, wanted: int, prefix: str = "") -> Iterator[Difference]:
    """What differs, where there is a file whose mode is not *wanted*."""
    if mode is not None and mode != wanted:
        yield Difference(f"{prefix}mode", f"{mode:04o}", f"{wanted:04o}")


def replace(path: str, before: str | None, text: str, *, mode: int = FILE_MODE) -> None:
    """Write *text*, unless the file was changed meanwhile.

    :param before: what the file held when *text* was made from it; None: there was none
    :raises Changed: it holds something else by now
    """
    try:
        unchanged = read_text(path) == before
    except OpsError:
        unchanged = False
    if not unchanged:
        raise Changed
    write_atomic(path, text, mode=mode)
