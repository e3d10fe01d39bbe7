# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared settings of updates."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..release.observe import Installed
from ..release.request import Request
from ..release.uv import Index
from ..system.errors import OpsError


@dataclass(frozen=True)
class Settings:
    """``/etc/hermes-ops/update.json``: the release as the role install declares it, and how it is updated.

    :param release: the range of releases that an update may go to
    :param index: where packages come from
    :param hold: why updates are paused (a named version is still installed); empty means not paused
    :param min_free_mb: MiB that must be free on the disks of releases and data, in addition to what the copies need
    :param canary: try the release on a copy of every home first
    :param reply: the agent must answer a chat, on the copy and afterwards
    :param stable_seconds: how long the gateways must stay up until the release counts as good
    :param keep: how many other releases stay on the host
    :param keep_backups: how many archives of each agent, made before updates, stay
    :param build_timeout: seconds for each step of a build
    :param hook: a program and its arguments, called at the end of each run with the facts in its environment
    """

    release: Request
    index: Index = field(default_factory=Index)
    hold: str = ""
    min_free_mb: int = 512
    canary: bool = True
    reply: bool = False
    stable_seconds: int = 60
    keep: int = 2
    keep_backups: int = 7
    build_timeout: int = 900
    hook: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.release.is_range:
            raise OpsError(
                "the release is declared exactly, which leaves nothing to update to",
                fix="declare a range (hermes_version: '>=0.18,<0.20'), or with install_method git an install_channel",
            )
        for name, least in (("min_free_mb", 0), ("stable_seconds", 3), ("keep", 1), ("keep_backups", 1)):
            if getattr(self, name) < least:
                raise OpsError(f"{name} is less than {least}", fix=f"declare {least} or more")

    @classmethod
    def like(cls, current: Installed) -> Settings:
        """Settings for a rollback on a host where no updates are declared."""
        return cls(Request(version=f">={current.version}", extras=tuple(current.stamp["extras"])))
