#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module dlm_policy; module_utils/aws/snapshots.py does the work, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dlm_policy
short_description: Daily snapshots of EBS volumes, by Data Lifecycle Manager of AWS
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Keeps one policy that makes a snapshot a day of each volume with certain tags, and keeps so many of them.
  - The snapshots have the tags of their volume.
  - Runs on the controller, so delegate it to C(localhost).
attributes:
  check_mode:
    support: full
    description: Says what would change.
  diff_mode:
    support: full
    description: Shows the policy, as far as it is declared.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  name:
    description: The policy's name, kept in its tag C(Name). A policy without this tag is never touched.
    type: str
    required: true
  state:
    description: V(absent) deletes the policy. Its snapshots stay.
    type: str
    choices: [present, absent]
    default: present
  region:
    description: The region, such as V(eu-central-1).
    type: str
    required: true
  description:
    description: What people read in the console. DLM takes letters, digits, blanks, underscores and hyphens.
    type: str
    default: Daily snapshots of the data volume
  execution_role_arn:
    description: The role that DLM assumes. Required with O(state=present).
    type: str
  target_tags:
    description: The tags of the volumes, one of which is enough. Required with O(state=present).
    type: dict
  time:
    description: When a snapshot is begun, in UTC.
    type: str
    default: "04:00"
  keep:
    description: How many are kept of each volume.
    type: int
    default: 7
requirements:
  - boto3
"""

EXAMPLES = r"""
- name: A snapshot a day
  alwayson.hermes.dlm_policy:
    name: hermes-atlas
    region: eu-central-1
    execution_role_arn: "{{ aws_found.snapshot_role_arn }}"
    target_tags:
      hermes:host: atlas
  delegate_to: localhost
"""

RETURN = r"""
policy_id:
  description: The policy's id; empty if there is none, and in check mode for a new one.
  returned: success
  type: str
  sample: policy-0123456789abcdef0
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.aws.account import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.module import run
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.snapshots import plan_policy

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "region": {"type": "str", "required": True},
    "description": {"type": "str", "default": "Daily snapshots of the data volume"},
    "execution_role_arn": {"type": "str"},
    "target_tags": {"type": "dict"},
    "time": {"type": "str", "default": "04:00"},
    "keep": {"type": "int", "default": 7},
}
SPECIFICATION: dict[str, Any] = {
    "argument_spec": ARGUMENTS,
    "required_if": [("state", "present", ("execution_role_arn", "target_tags"))],
}


def converge(arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Bring a policy to the declared state.

    :returns: the module's result
    """
    account = Account(arguments["region"])
    plan, identity = plan_policy(account, arguments)
    if plan.changed and not check:
        answers = [action() for action in plan.actions]
        identity = identity or answers[-1].get("PolicyId", "")
    return {"changed": plan.changed, "diff": plan.diff(arguments["name"]), "policy_id": identity}


def main() -> None:
    run(SPECIFICATION, converge)


if __name__ == "__main__":
    main()
