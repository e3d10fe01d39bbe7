# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a host one with a container for each user, or no longer."""

from __future__ import annotations

from typing import Any

from ..description.runtimes import Runtimes
from ..supervise import runtime_plan
from ..supervise.runtime_host import Host
from ..system.systemd import Manager
from ..system.typed import parse
from .call import Call


def work(call: Call) -> dict[str, Any]:
    params = dict(call.params)
    state, data_dir, ops_dir = (params.pop(name) for name in ("state", "data_dir", "ops_dir"))
    manager = Manager.of_host()
    if state == "absent":
        return call.done(runtime_plan.plan_absent(manager, ops_dir), "runtimes")
    # Named for Ansible only, which hides them.
    params.pop("webhook_secrets")
    secrets = params.pop("secrets")
    if secrets:
        params["agent"] = {**params["agent"], "secrets": secrets}
    declared = parse(Runtimes, {name: value for name, value in params.items() if value is not None}, "runtimes")
    plan = runtime_plan.plan_present(Host(declared, data_dir, ops_dir), manager)
    return {**call.done(plan, "runtimes"), "url": declared.url}
