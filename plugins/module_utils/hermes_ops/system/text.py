# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text and numbers that others wrote, as they may be used."""

from __future__ import annotations

import time
import unicodedata
from typing import Any

# Characters that move the cursor, colour, reorder or hide text: controls, formats (also bidirectional overrides),
# halves of surrogates, separators of lines and paragraphs.
_HOSTILE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# The joiners are format characters, too, but part of how some scripts and emoji are written.
_HARMLESS = "\n\t\u200c\u200d"


def printable(text: str) -> str:
    """*text* with every character that does something to a terminal replaced by its escape, e.g. ``\\x1b``."""
    return "".join(
        ascii(character)[1:-1]
        if unicodedata.category(character) in _HOSTILE and character not in _HARMLESS
        else character
        for character in text
    )


def moment(when: float) -> str:
    """*when* (seconds since 1970) for people, in UTC; a number that is no time stays a number."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))
    except (OverflowError, ValueError, OSError):
        return str(when)


def number(value: Any) -> float | None:
    """*value*, when it is a number that one can reckon with."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15:
        return float(value)
    return None
