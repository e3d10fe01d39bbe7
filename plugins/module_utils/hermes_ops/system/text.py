# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text for people: what comes from others is made safe to use."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterable
from typing import Any

# Characters that move the cursor, or colour, reorder or hide text: control and format characters (including
# bidirectional overrides), lone surrogates, line and paragraph separators.
_HOSTILE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# The two joiners are format characters, but some scripts and emoji need them.
_HARMLESS = "\n\t\u200c\u200d"


def printable(text: str) -> str:
    """*text* with every character that can affect a terminal replaced by its escape, e.g. ``\\x1b``."""
    return "".join(
        ascii(character)[1:-1]
        if unicodedata.category(character) in _HOSTILE and character not in _HARMLESS
        else character
        for character in text
    )


def one_line(text: str) -> str:
    """*text*, :func:`printable` and without line breaks: what an agent chose must not look like a line of ours."""
    return printable(text).replace("\n", "\\n")


def brief(text: str, longest: int) -> str:
    """*text* on one line, :func:`printable`, and of at most *longest* characters."""
    text = " ".join(printable(text).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def moment(when: float) -> str:
    """*when* (seconds since 1970) for people, in UTC; a number out of range stays a number."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))
    except (OverflowError, ValueError, OSError):
        return str(when)


def number(value: Any) -> float | None:
    """*value* as a float, if it is a finite number below 1e15; else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15:
        return float(value)
    return None


def table(rows: Iterable[Iterable[str]]) -> list[str]:
    """*rows* as lines with aligned columns; the first row has the headings."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
