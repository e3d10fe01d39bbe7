# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install the commands on the host."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .. import __version__
from ..host import kit
from ..watch import acknowledged
from .call import Call


def work(call: Call) -> dict[str, Any]:
    params = call.params
    host = {name: params[name] for name in ("scope", "data_dir", "data_volume", "ops_dir", "root", "managed_root")}
    host["acknowledged"] = [asdict(one) for one in acknowledged.parse(params["acknowledged"])]
    plan = kit.plan_kit(host, call.place)
    return {**call.done(plan, "commands"), "version": __version__}
