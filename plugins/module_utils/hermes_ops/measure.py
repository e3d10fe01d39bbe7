# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host and its agents are, in figures with thresholds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .errors import OpsError

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def size(text: str, where: str) -> int:
    """Bytes from ``512M`` or ``4G``, as systemd writes them.

    :raises OpsError: when it is no size
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if not match:
        raise OpsError(f"{text!r} is no size", where=where, fix="write it like 512M or 4G")
    return int(match[1]) * _UNITS.get(match[2], 1)


@dataclass(frozen=True)
class Settings:
    """Where a figure becomes a finding.

    :param disk_percent: less of a file system is free
    :param memory: more is used by the unit of a gateway; a size such as ``4G``
    :param provider_error_percent: more of the last hour's calls to the model came to nothing
    :param restarts: more restarts of a gateway within an hour
    :param clock_seconds: the clock is off by more
    :param expiry_days: a certificate or token expires sooner
    :param certificates: files with X.509 certificates (PEM)
    :param backup_hours: the last backup is older
    :param data_volume: the data directory has to be a mount point; when it has been one once, it has to anyway
    """

    disk_percent: float = 10.0
    memory: str = "4G"
    provider_error_percent: float = 10.0
    restarts: int = 3
    clock_seconds: float = 30.0
    expiry_days: float = 14.0
    certificates: list[str] = field(default_factory=list)
    backup_hours: float = 36.0
    data_volume: bool = False

    def __post_init__(self) -> None:
        size(self.memory, "memory")
        for name in ("disk_percent", "provider_error_percent"):
            if not 0 <= getattr(self, name) <= 100:
                raise OpsError(f"{name} is no percentage", fix="declare a number from 0 to 100")
        for name in ("restarts", "clock_seconds", "expiry_days", "backup_hours"):
            if getattr(self, name) < 0:
                raise OpsError(f"{name} is negative", fix="declare 0 or more")
