# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan: the changes that a module is about to make, as the one source of ``changed`` and of the diff."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .files import ensure_directory, read_bytes, write_atomic


@dataclass(frozen=True)
class Difference:
    """One deviation from the declaration.

    :param what: the key, file or unit
    :param before: the present state, ready to be shown (a secret is shown as ``HIDDEN``); None when it does not exist
    :param after: the state afterwards; None when it will be gone
    """

    what: str
    before: str | None
    after: str | None


HIDDEN = "(secret)"


@dataclass
class Plan:
    """An ordered list of differences and the actions that remove them."""

    differences: list[Difference] = field(default_factory=list)
    actions: list[Callable[[], object]] = field(default_factory=list)

    def add(self, difference: Difference, action: Callable[[], object] | None = None) -> None:
        self.differences.append(difference)
        if action is not None:
            self.actions.append(action)

    def join(self, other: Plan) -> Plan:
        """Add what *other* plans at the end; returns this plan."""
        self.differences += other.differences
        self.actions += other.actions
        return self

    def add_file(self, path: str, data: bytes | str, *, mode: int, shown: bool = True) -> bool:
        """Plan that *path* holds *data*. A missing directory is created, readable by all.

        :param shown: whether a diff may show the content
        :returns: whether the file differs now
        """
        if isinstance(data, str):
            data = data.encode()
        present = read_bytes(path)
        if present == data and stat.S_IMODE(os.stat(path).st_mode) == mode:
            return False
        before, after = (
            (present.decode("utf-8", "replace") if present is not None else None, data.decode())
            if shown
            else (None if present is None else "another version", "this version")
        )
        self.add(Difference(path, before, after), lambda: _write(path, data, mode))
        return True

    @property
    def changed(self) -> bool:
        return bool(self.differences)

    def apply(self) -> None:
        for action in self.actions:
            action()

    def diff(self, header: str) -> dict[str, str]:
        """The differences in the form of Ansible's ``--diff``."""
        return diff(self.differences, header)


def diff(differences: Iterable[Difference], header: str) -> dict[str, str]:
    """*differences* in the form of Ansible's ``--diff``, below *header*."""
    differences = list(differences)
    return {
        "before_header": header,
        "after_header": header,
        "before": "".join(f"{each.what}: {each.before}\n" for each in differences if each.before is not None),
        "after": "".join(f"{each.what}: {each.after}\n" for each in differences if each.after is not None),
    }


def _write(path: str, data: bytes, mode: int) -> None:
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        ensure_directory(directory, mode=0o755)
    write_atomic(path, data, mode=mode)
