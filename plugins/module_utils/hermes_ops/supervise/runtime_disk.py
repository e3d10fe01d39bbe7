# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much each user's agent may store on the host: the quota of the UNIX user of its container.

That user is nobody else's, and the container can write to its volume only; all else is read-only or in its memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..host.runtimes import VOLUMES, User
from ..system import quota
from ..system.errors import OpsError
from ..system.plan import Difference, Plan
from ..system.quota import Limits, Usage
from .runtime_host import Host

# Per cent of a limit from which on somebody is told.
NEARLY_FULL = 90


def _place(host: Host) -> str:
    """A directory on the file system of the volumes."""
    volumes = os.path.join(host.data_dir, VOLUMES)
    return volumes if os.path.isdir(volumes) else host.data_dir


def in_force(host: Host) -> bool:
    """Whether users can be held to a limit."""
    return quota.in_force(_place(host))


def check(host: Host) -> None:
    """:raises OpsError: a limit is declared, and nobody would be held to it"""
    # Before the first run there are no records, and the data volume may not be mounted, which check mode leaves so.
    if host.settings.disk and os.path.isdir(host.ops_dir) and not in_force(host):
        raise OpsError(
            "its file system has no user quotas in force, so runtimes_disk would limit nobody",
            where=_place(host),
            fix="declare data_volume_quota: true if it is a data volume. Else mount it with the option usrquota; ext4 "
            "also needs, while it is not mounted: tune2fs -O quota DEVICE",
        )


def usage(host: Host, uid: int) -> Usage:
    """What the agent whose UNIX user is *uid* stores, and may store; quotas are in force."""
    return quota.read(_place(host), uid)


def limit(host: Host, user: User) -> None:
    """Hold the user's agent to what is declared.

    :raises OpsError: nobody would be held to it
    """
    check(host)
    if in_force(host):
        _write(host, user, host.settings.disk_limits)


def release(host: Host, user: User) -> None:
    """Take the limit back, before the number of the user's UNIX user may be another one's."""
    if in_force(host):
        _write(host, user, Limits())


def _write(host: Host, user: User, limits: Limits) -> None:
    quota.write(_place(host), host.account_of(user).uid, limits)


def plan_limits(host: Host, users: Iterable[User]) -> Plan:
    """Compare the limits of *users* with what is declared."""
    plan = Plan()
    if not in_force(host):
        return plan
    wanted, due = host.settings.disk_limits, []
    for user in users:
        found = usage(host, host.account_of(user).uid).limits
        if found != wanted:
            plan.differences.append(Difference(f"disk of {user.name}", _shown(found), _shown(wanted)))
            due.append(user)
    if due:
        plan.actions.append(lambda: _limit_all(host, due))
    return plan


def _limit_all(host: Host, due: list[User]) -> None:
    with host.users.lock():
        for user in due:
            now = host.users.by_id(user.id)
            # The number of one who was purged meanwhile may be another one's.
            if now and now.number == user.number:
                limit(host, user)


def _shown(limits: Limits) -> str | None:
    return f"{limits.space // 2**20} MiB, {limits.files} files" if limits != Limits() else None
