# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The id of a user whose agent runs in a container of its own, in the form that names of files and units take.

``docs/runtimes-keys.md`` has the rule for callers. The proxy follows it in JavaScript (``supervise/proxy_program.py``).
The vectors in ``docs/runtimes-keys.json`` hold for both.
"""

from __future__ import annotations

import hashlib
import re

from ..system.errors import OpsError

# Of an id, in characters (code points).
LONGEST = 256
# The control characters of Unicode (category Cc).
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
# A UUID with the variant of RFC 4122: the 17th hex digit is 8, 9, a or b.
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
# Changes with the rule, and keeps these digests apart from all others.
_PREFIX = b"alwayson.hermes/user/1\0"
# The values of a UUID's 17th digit that its variant excludes.
_NO_UUID = "01234567cdef"


def hex_of(user: str) -> str:
    """The 32 hex digits that stand for *user*.

    A UUID, in upper or lower case, is its own digits. Every other id is a digest whose 17th digit no UUID has, so the
    two never meet.

    :raises OpsError: this is not an id of a user
    """
    if not 1 <= len(user) <= LONGEST:
        raise OpsError(f"has {len(user)} characters", where="the id of a user", fix=f"use 1 to {LONGEST} characters")
    try:
        data = user.encode()
    except UnicodeEncodeError:
        raise OpsError("is not valid Unicode", where="the id of a user", fix="use text that UTF-8 can hold") from None
    if _CONTROL.search(user):
        raise OpsError(f"{user!r} has control characters", where="the id of a user", fix="use an id without them")
    if _UUID.fullmatch(user):
        return user.lower().replace("-", "")
    digits = hashlib.sha256(_PREFIX + data).hexdigest()[:32]
    return digits[:16] + _NO_UUID[int(digits[16], 16) % len(_NO_UUID)] + digits[17:]
