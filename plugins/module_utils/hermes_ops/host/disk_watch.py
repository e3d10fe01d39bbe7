# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit of the service that watches the agents' disks (supervise/disks.py)."""

from __future__ import annotations

import os
import shutil

from ..system.errors import OpsError
from ..system.plan import Difference, Plan
from ..system.services import plan_active, plan_gone
from ..system.systemd import Manager
from . import held
from .kit import COMMAND

PATH = f"/etc/systemd/system/{held.UNIT}"


def render(min_free_mb: int) -> str:
    return f"""\
# Written by the Ansible collection alwayson.hermes.

[Unit]
Description=Watch over the disks of the Hermes agents
# At a boot before the gateways, which come after it.
After=local-fs.target remote-fs.target
StartLimitIntervalSec=0

[Service]
# Ready once it has looked at all disks.
Type=notify
ExecStart={COMMAND} disks --min-free-mb {min_free_mb}
Restart=always
RestartSec=1
# The gateways wait for it, but not for long.
TimeoutStartSec=20
RuntimeDirectory={os.path.basename(held.DIRECTORY)}
RuntimeDirectoryPreserve=yes
OOMScoreAdjust=-500
# Nothing that gives it mounts of its own: it has to see the disks as they are, also those that are mounted later.
UMask=0077
NoNewPrivileges=yes
# KILL, because a question to a user's manager runs as that user, who can keep it from ending.
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


def plan_present(min_free_mb: int, manager: Manager) -> Plan:
    """Compare the host with one whose agents' disks are watched.

    :param min_free_mb: space that is to stay free on each disk
    :param manager: the system's
    :raises OpsError: this is not a size
    """
    if min_free_mb < 1:
        raise OpsError(f"is {min_free_mb}", where="min_free_mb", fix="declare megabytes, or 0 to watch no disk")
    plan = Plan()
    # A watch that runs for months must not go on with an old version of the kit.
    plan_active(plan, manager, held.UNIT, unit_files={PATH: render(min_free_mb)}, reads=[COMMAND])
    return plan


def plan_absent(ops_dir: str, manager: Manager) -> Plan:
    """Compare the host with one whose agents' disks are not watched: no gateway is held any more."""
    plan = Plan()
    plan_gone(plan, manager, held.UNIT, [PATH, os.path.join(ops_dir, held.RESERVE_FILE)])
    if os.path.isdir(held.DIRECTORY):
        plan.add(Difference(held.DIRECTORY, "present", None), lambda: shutil.rmtree(held.DIRECTORY))
    return plan
