# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a release present and current."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ..release.build import Outcome, ensure
from ..release.request import Request
from ..release.uv import Index
from ..system.errors import OpsError
from .call import Call


def result_of(outcome: Outcome, root: str, diff: bool) -> dict[str, Any]:
    """The result that the module returns."""
    decision, stamp = outcome.decision, outcome.stamp or {}
    result: dict[str, Any] = {
        "changed": outcome.plan.changed,
        "release": decision.release_id,
        "version": stamp.get("version", decision.version),
        "directory": os.path.join(root, "releases", decision.release_id) if decision.release_id else None,
        "built": decision.build,
        "switched": decision.switch,
        "previous": outcome.previous,
        "locked": stamp.get("locked"),
        "commit": stamp.get("commit"),
        "patches": [patch["name"] for patch in stamp["patches"]] if stamp else None,
        "python": stamp.get("python", {}).get("path"),
        "removed": list(decision.remove),
    }
    if diff:
        result["diff"] = outcome.plan.diff(root)
    return result


def work(call: Call) -> dict[str, Any]:
    params = call.params
    if params["keep"] < 1:
        raise OpsError("is less than 1", where="keep", fix="keep at least one release to go back to")
    given = {field.name: params[field.name] for field in dataclasses.fields(Request)}
    request = Request(**{**given, "extras": tuple(params["extras"]), "patches": tuple(params["patches"])})
    index = Index(
        url=params["index_url"],
        username=params["index_username"],
        password=params["index_password"],
        ca_bundle=params["ca_bundle"],
        wheels=params["wheels"],
    )
    outcome = ensure(
        request,
        index,
        root=params["root"],
        current=params["current"],
        keep=params["keep"],
        timeout=params["timeout"],
        check=call.check_mode,
    )
    result = result_of(outcome, params["root"], call.diff_mode)
    result["method"] = params["method"]
    return result
