# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mount the data volume."""

from __future__ import annotations

from typing import Any

from ..host import volume_mount
from ..host.volume import Volume
from ..system.systemd import Manager
from .call import Call, agents_of


def work(call: Call) -> dict[str, Any]:
    params = dict(call.params)
    params.pop("agents")
    volume, agents = Volume(**params), agents_of(call)
    plan = volume_mount.plan_present(volume, Manager.of_host(), agents, wait=True)
    return {
        **call.done(plan, "data volume"),
        "unit": volume_mount.unit_of(volume.data_dir),
        "mapped": volume_mount.numbers_of(volume.data_dir).shown(),
    }
