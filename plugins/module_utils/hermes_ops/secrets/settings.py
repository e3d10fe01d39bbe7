# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of the job that fetches secrets again."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..host import settings
from ..system.errors import OpsError

JOB = "secrets"


@dataclass(frozen=True)
class Settings:
    """``/etc/hermes-ops/secrets.json``.

    :param interval: seconds between two looks at the sources
    """

    interval: int = 60

    def __post_init__(self) -> None:
        if self.interval < 10:
            raise OpsError("interval is less than 10 s", fix="declare 10 or more")


def interval() -> int:
    """Seconds between two looks at the sources of this host."""
    return (settings.load(JOB, Settings) if os.path.exists(settings.path_of(JOB)) else Settings()).interval
