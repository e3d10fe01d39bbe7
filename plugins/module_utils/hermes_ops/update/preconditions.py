# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps an update or a rollback from beginning."""

from __future__ import annotations

import shutil

from ..backup import separable
from ..host.installation import Installation
from ..system.errors import OpsError, Refused
from .settings import Settings


def refuse_company(host: Installation, *jobs: str) -> None:
    """:raises Refused: one of *jobs* is running
    :raises OpsError: a separation is unfinished
    """
    for job in jobs:
        if host.busy(job):
            raise Refused(f"a {job} is running", fix="wait for it, and begin again")
    # A restore can be undone on another release as well, and an agent can prevent that for ever.
    if host.unfinished("separate"):
        raise OpsError("a separation was interrupted", fix="undo it first: hermes-ops separate --recover")


def refuse_shared_homes(host: Installation, version: str | None) -> None:
    """:raises OpsError: *version* would serve several agents from one process"""
    for problem in separable.shared_homes(host.agents, version):
        raise OpsError(problem, fix=separable.SEPARATE)


def refuse_full_disks(host: Installation, settings: Settings, copies: int) -> None:
    """:param copies: bytes that the copies of all databases take

    :raises OpsError: a disk has too little space
    """
    for path, more in ((host.root, 0), (host.ops_dir, copies), (host.data_dir, 0)):
        free, wanted = shutil.disk_usage(path).free, settings.min_free_mb * 2**20 + more
        if free < wanted:
            raise OpsError(
                f"has {free // 2**20} MB free, an update wants {wanted // 2**20} MB; nothing was changed",
                where=path,
                fix="free space there",
            )
