# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A policy of Data Lifecycle Manager (DLM): snapshots of the volumes with a tag, once a day."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.plan import Difference, Plan
from .account import Account

# The tag of a policy that has its name: DLM itself gives it only an id.
NAME = "Name"


def wanted(arguments: dict[str, Any]) -> dict[str, Any]:
    """The policy as DLM describes it, as far as it is declared."""
    schedule = {
        "Name": "daily",
        "CreateRule": {"Interval": 24, "IntervalUnit": "HOURS", "Times": [arguments["time"]]},
        "RetainRule": {"Count": arguments["keep"]},
        # By its tag a snapshot is found when the volume is gone.
        "CopyTags": True,
    }
    return {
        "Description": arguments["description"],
        "State": "ENABLED",
        "ExecutionRoleArn": arguments["execution_role_arn"],
        "PolicyDetails": {
            "PolicyType": "EBS_SNAPSHOT_MANAGEMENT",
            "ResourceTypes": ["VOLUME"],
            "TargetTags": [{"Key": key, "Value": value} for key, value in sorted(arguments["target_tags"].items())],
            "Schedules": [schedule],
        },
    }


def plan_policy(account: Account, arguments: dict[str, Any]) -> tuple[Plan, str]:
    """The steps that lead to the policy, and its id, empty if there is none yet.

    :raises OpsError: when two policies have its name, and for what AWS would not take
    """
    name, plan = arguments["name"], Plan()
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", arguments["time"]):
        # YAML reads a bare 04:00 as the number 240.
        fix = 'write it like "04:00", in quotes'
        raise OpsError("is no time of day", where=f"snapshot policy {name}: time: {arguments['time']}", fix=fix)
    if not re.fullmatch(r"[0-9A-Za-z _-]+", arguments["description"]):
        fix = "write it with letters, digits, blanks, underscores and hyphens only"
        raise OpsError("AWS does not take it", where=f"snapshot policy {name}: description", fix=fix)
    if not 1 <= arguments["keep"] <= 1000:
        raise OpsError("AWS does not take it", where=f"snapshot policy {name}: keep", fix="keep 1 to 1000 snapshots")
    policies = account("dlm", "get_lifecycle_policies", ResourceTypes=["VOLUME"])["Policies"]
    found = [each["PolicyId"] for each in policies if each.get("Tags", {}).get(NAME) == name]
    if len(found) > 1:
        raise OpsError(
            f"two policies have this name: {', '.join(found)}",
            where=f"snapshot policy {name}",
            fix="delete one of them, which deletes no snapshot",
        )
    identity = found[0] if found else ""
    if arguments["state"] == "absent":
        if identity:
            action = partial(account, "dlm", "delete_lifecycle_policy", PolicyId=identity)
            plan.add(Difference(f"snapshot policy {name}", identity, None), action)
        return plan, ""
    policy = wanted(arguments)
    if not identity:
        # The role may be as new as the host, and not known to DLM yet.
        action = partial(
            account.insist, ("InvalidRequestException",), "dlm", "create_lifecycle_policy", Tags={NAME: name}, **policy
        )
        plan.add(Difference(f"snapshot policy {name}", None, _shown(policy)), action)
        return plan, ""
    present = _declared_part(account("dlm", "get_lifecycle_policy", PolicyId=identity)["Policy"], policy)
    if present != policy:
        action = partial(account, "dlm", "update_lifecycle_policy", PolicyId=identity, **policy)
        plan.add(Difference(f"snapshot policy {name}", _shown(present), _shown(policy)), action)
    return plan, identity


def _declared_part(found: Any, declared: Any) -> Any:
    """*found* without the keys that are not declared: DLM fills in many."""
    if isinstance(found, dict) and isinstance(declared, dict):
        return {key: _declared_part(found[key], declared[key]) for key in declared if key in found}
    if isinstance(found, list) and isinstance(declared, list) and len(found) == len(declared):
        return [_declared_part(*pair) for pair in zip(found, declared)]
    return found


def _shown(policy: dict[str, Any]) -> str:
    return json.dumps(policy, sort_keys=True, default=str)
