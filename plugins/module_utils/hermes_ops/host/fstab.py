# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operator mounts at boot."""

from __future__ import annotations

from ..system.files import read_text

FSTAB = "/etc/fstab"


def places() -> set[str]:
    """The mount points in /etc/fstab."""
    lines = (line.split() for line in (read_text(FSTAB) or "").splitlines())
    return {words[1].rstrip("/") for words in lines if len(words) > 1 and not words[0].startswith("#")}
