# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about what all users' agents on a host need. One that cannot be started has a unit that failed."""

from __future__ import annotations

from ..host import runtimes
from ..host.runtime_walls import TABLE
from ..supervise import editions, proxy
from ..supervise.rollout import FAILED, failed
from ..system.errors import OpsError
from ..system.files import Account
from ..system.systemd import Manager
from .findings import Finding


def look(ops_dir: str) -> list[Finding]:
    """Look at a host with runtimes; on others, nothing is run.

    :param ops_dir: directory of the records
    """
    if not runtimes.present():
        return []
    found = _rollout(ops_dir)
    if TABLE.lost():
        what = "users' agents may reach each other, and addresses of this host and its networks"
        found.append(Finding("walls_open", what, f"load their rules: systemctl restart {TABLE.unit}"))
    unit = Manager("system", Account.current()).units([proxy.NAME])[proxy.NAME]
    if unit.dead:
        what = f"{proxy.NAME} is {unit.active}, so nobody reaches the agents of users"
        found.append(
            Finding("proxy_down", what, f"see why: journalctl -u {proxy.NAME}; then converge the host: site.yml")
        )
    return found


def _rollout(ops_dir: str) -> list[Finding]:
    try:
        kept = editions.journal(ops_dir)
    except OpsError as error:
        return [Finding("rollout_failed", error.what, error.fix or "converge the host: site.yml")]
    if kept is None or kept.phase != FAILED:
        return []
    return [Finding("rollout_failed", f"users' agents keep the former declaration: {kept.problem}", failed(kept).fix)]
