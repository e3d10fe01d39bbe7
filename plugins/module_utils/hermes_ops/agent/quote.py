# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent's words, as they may be repeated: in a heartbeat, a mail, a terminal, the journal, a file of ours.

Every text that comes from an agent's files, servers or log passes :func:`quoted` before it is shown or sent.
"""

from __future__ import annotations

import re
from typing import Any

from ..description.declaration import SECRET_NAME, SECRET_VALUE
from ..system.errors import OpsError
from ..system.plan import HIDDEN
from ..system.text import printable

# Characters of a text that are repeated, and that are looked at for it.
MAX = 500
_LOOKED_AT = 8 * MAX

_PEM = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END|\Z)", re.S)
_AUTHORIZATION = re.compile(r"\b(Bearer|Basic)(\s{1,8})[^\s\"']{8,}", re.I)
_URL_USER = re.compile(r"(://)[^/\s@]{1,200}(@)")
_ASSIGNED = re.compile(r"(?<![\w-])([\w-]{1,64})([\"']?\s{0,4}[:=]\s{0,4}[\"']?)([^\s\"',;&}\]]+)")
_WORD = re.compile(r"[^\s\"'=:,;&|<>()\[\]{}`/]+")
# Tokens without a name: of Telegram, of Discord, keys in hexadecimal, long words of mixed case with digits.
_TOKEN = re.compile(
    r"\d{6,12}:[\w-]{30,}|[\w-]{20,40}\.[\w-]{5,10}\.[\w-]{20,}|\b[0-9a-fA-F]{32,}\b"
    r"|\b(?=[\w-]{0,80}[a-z])(?=[\w-]{0,80}[A-Z])(?=[\w-]{0,80}\d)[\w-]{24,}",
    re.ASCII,
)


def quoted(text: Any, limit: int = MAX) -> str:
    """*text* without what looks like a secret, printable, on one line, of *limit* characters at most; ``""`` when it
    is no text."""
    if not isinstance(text, str):
        return ""
    words = " ".join(printable(_hidden(text[:_LOOKED_AT])).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"


def quoted_error(error: OpsError) -> OpsError:
    """*error* of a worker, in words that may be repeated."""
    what, where, fix = (None if text is None else quoted(text) for text in (error.what, error.where, error.fix))
    return OpsError(what or "failed", where=where, fix=fix)


def _hidden(text: str) -> str:
    text = _PEM.sub(HIDDEN, text)
    text = _AUTHORIZATION.sub(rf"\1\2{HIDDEN}", text)
    text = _URL_USER.sub(rf"\1{HIDDEN}\2", text)
    text = _TOKEN.sub(HIDDEN, text)
    text = _ASSIGNED.sub(lambda match: match[1] + match[2] + HIDDEN if SECRET_NAME.search(match[1]) else match[0], text)
    return _WORD.sub(lambda match: HIDDEN if SECRET_VALUE.match(match[0]) else match[0], text)
