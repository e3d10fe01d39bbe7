# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report the state of the host."""

from __future__ import annotations

from typing import Any

from ..host.groundwork import look
from ..release.fitness import consider
from ..release.request import Request
from ..watch import info
from .call import Call, agents_of


def work(call: Call) -> dict[str, Any]:
    params = call.params
    agents, scope, ops_dir = agents_of(call), params["scope"], params["ops_dir"]
    found = info.gather(agents=agents, scope=scope, ops_dir=ops_dir, root=params["root"])
    ground = look(agents, scope, params["data_dir"], ops_dir, params["packages"])
    return {"changed": False, **ground, **found, **release(call)}


def release(call: Call) -> dict[str, Any]:
    """``to_build`` and ``unfit``; empty when no release is declared."""
    given = call.params["release"]
    if given is None:
        return {"to_build": None, "unfit": []}
    request = Request(**{**given, "extras": tuple(given["extras"]), "patches": tuple(given["patches"])})
    to_build, unfit = consider(request, call.params["root"], call.params["packages"])
    return {"to_build": to_build, "unfit": unfit}
