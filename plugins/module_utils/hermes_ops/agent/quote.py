# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes an agent's text safe to repeat: in a heartbeat, a mail, a terminal, the journal, or a file of root's.

Every text from an agent's files, servers or log passes through :func:`quoted` before it is shown or sent.
"""

from __future__ import annotations

import re
from typing import Any

from ..description.hiding import redact_text
from ..system.errors import OpsError
from ..system.plan import HIDDEN

# Characters of a text that are repeated, and that are examined.
MAX = 500
_LOOKED_AT = 8 * MAX

# A quoted text need not be exact, so more is hidden than by redact_text, which spares what may be a checksum or prose:
# keys that are cut off, and long words that are hexadecimal or mix cases and digits, with the number of a bot in front.
_PEM = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END|\Z)", re.S)
_TOKEN = re.compile(
    r"\b[0-9a-fA-F]{32,}\b"
    r"|(?:\b\d{6,12}:)?\b(?=[\w-]{0,80}[a-z])(?=[\w-]{0,80}[A-Z])(?=[\w-]{0,80}\d)[\w-]{24,}",
    re.ASCII,
)


def quoted(text: Any, limit: int = MAX) -> str:
    """*text* on one line of at most *limit* characters, printable, without what looks like a secret.

    :returns: ``""`` when *text* is not a string
    """
    if not isinstance(text, str):
        return ""
    words = " ".join(redact_text(_TOKEN.sub(HIDDEN, _PEM.sub(HIDDEN, text[:_LOOKED_AT]))).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"


def quoted_error(error: OpsError) -> OpsError:
    """The *error* of a worker, with its texts made safe to repeat."""
    what, where, fix = (None if text is None else quoted(text) for text in (error.what, error.where, error.fix))
    return OpsError(what or "failed", where=where, fix=fix)
