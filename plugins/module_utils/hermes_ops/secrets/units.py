# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units that fetch secrets: before a gateway starts, and again by a timer."""

from __future__ import annotations

import os

from ..host import jobs
from ..host.kit import COMMAND
from ..system.paths import check_path
from ..system.plan import Plan
from ..system.services import UNIT_MODE, plan_files_gone
from ..system.systemd import Manager
from . import settings, store

PATH = os.path.join(jobs.UNIT_DIRECTORY, store.TEMPLATE_NAME)
# Seconds for one run: a restart of every agent whose secrets changed, until they are healthy.
TIMEOUT = 900


def render(ops_dir: str) -> str:
    """:param ops_dir: the directory whose records say where the secrets come from"""
    check_path(ops_dir, "hermes_ops_dir")
    hardening = "\n".join(f"{name}={value}" for name, value in jobs.HARDENING)
    return f"""\
# Written by the Ansible collection alwayson.hermes.

[Unit]
Description=Secrets of the Hermes agent %i
Wants=network-online.target
After=network-online.target
RequiresMountsFor={ops_dir}

[Service]
# The gateway requires it. If it failed, the gateway would stay down for good, so it tries for ever instead.
Type=oneshot
TimeoutStartSec=infinity
# Only a boot runs it again: a gateway that restarts must not depend on a source that is away.
RemainAfterExit=yes
ExecStart={COMMAND} secrets --wait %i
{hardening}
"""


def plan_present(interval: int, ops_dir: str, data_dir: str, manager: Manager) -> Plan:
    """Compare the host with one that fetches secrets.

    :param interval: seconds between two looks at the sources
    :param data_dir: directory of the agents' data, perhaps a mount point
    :param manager: the system's
    :raises OpsError: this is not an interval
    """
    schedule = jobs.Schedule(every=interval, calendar=None, randomized_delay=0, timeout=TIMEOUT)
    plan = Plan()
    # First, because a gateway may start as soon as its drop-in names this unit.
    if plan.add_file(PATH, render(ops_dir), mode=UNIT_MODE):
        plan.actions.append(lambda: manager.call("daemon-reload"))
    return plan.join(jobs.plan_present(jobs.JOBS[settings.JOB], schedule, {"interval": interval}, data_dir))


def plan_absent() -> Plan:
    """Compare the host with one that fetches no secrets."""
    plan = Plan()
    plan_files_gone(plan, [PATH])
    return plan.join(jobs.plan_absent(jobs.JOBS[settings.JOB]))
