# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error of the kit."""

from __future__ import annotations


class OpsError(Exception):
    """Something the operator has to know: what is wrong, where, and how to put it right.

    :param what: one sentence, without a trailing full stop
    :param where: file (with ``:line`` or ``: key``), unit, URL or profile it is about
    :param fix: what to do, as an imperative
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. Fix: {self.fix}" if self.fix else text
