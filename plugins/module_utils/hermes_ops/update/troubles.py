# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collects errors that must not stop the way back."""

from __future__ import annotations

from collections.abc import Callable


class Troubles:
    """A context manager that swallows and collects errors, so that going back continues; they are reported at the end.

    :param reason: makes the text for an error
    """

    def __init__(self, reason: Callable[[BaseException], str]) -> None:
        self.reason = reason
        self.found: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self.found.append(self.reason(error))
        return True

    def __str__(self) -> str:
        return "; ".join(self.found)
