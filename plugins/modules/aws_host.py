#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module aws_host; module_utils/aws does the work, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aws_host
short_description: A host on AWS, with a data volume that outlives it
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Keeps an EC2 instance and what it stands on as declared; a security group without ingress, an instance profile for
    Session Manager that can read its own secrets only, an encrypted data volume, secrets in the Parameter Store, and
    the role for snapshots. On request also alarms, and rules of the Recycle Bin.
  - Finds everything by the tag C(hermes:host), in a dozen calls, and changes only what differs.
  - Never deletes a volume, never makes a blank one unless asked for, and never has the volume on two instances.
  - A run that was interrupted is continued by running it again.
  - Runs on the controller, so delegate it to C(localhost).
attributes:
  check_mode:
    support: full
    description: Says what would change.
  diff_mode:
    support: full
    description: Shows what differs. Values of secrets are not shown.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  host:
    description: The host's name, the value of the tag.
    type: str
    required: true
  state:
    description:
      - V(present) has an instance with the data volume. It puts right what can be put right without another instance,
        and names the rest in C(outdated).
      - V(replacing) launches an instance, shuts the old one down, moves the data volume, and terminates the old one.
        An instance that an interrupted run launched is taken, if it is as declared.
      - V(replaced) ends a replacement, so that the next V(replacing) launches an instance again.
      - V(absent) removes instance, security group, instance profile and its role. Volume, snapshots and secrets stay.
    type: str
    choices: [present, replacing, replaced, absent]
    default: present
  region:
    description: The region, such as V(eu-central-1).
    type: str
    required: true
  subnet:
    description: Where the instance is launched. It has to be in the data volume's zone. Unused with O(state=absent).
    type: str
    default: ""
  instance_type:
    description: The type.
    type: str
    default: t4g.xlarge
  image:
    description: An image (V(ami-…)), or the path of a public or own parameter that names one.
    type: str
    default: /aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id
  user_data:
    description: For cloud-init, at the first boot.
    type: str
    default: ""
  root_size:
    description: GiB of the encrypted root disk, which goes with the instance.
    type: int
    default: 20
  public_address:
    description: >-
      Whether the instance gets a public IPv4 address, which it needs for going out of a subnet without a NAT gateway.
      Nothing comes in through it.
    type: bool
    default: true
  volume_size:
    description: GiB of the data volume. A smaller one grows; its file system is grown on the host.
    type: int
    default: 50
  create_volume:
    description: Whether a blank data volume may be made if there is none, and no snapshot of one.
    type: bool
    default: false
  secrets_path:
    description: The path below which the host reads parameters, such as V(/hermes/atlas), without a slash at its end.
    type: str
    default: ""
  secrets:
    description: >-
      Parameters below the path, by name. One that is missing is written, as a SecureString; one that exists is never
      overwritten.
    type: dict
    default: {}
  alarm_topic:
    description: >-
      The ARN of a topic of SNS, or of another action of CloudWatch, that is told when the instance fails a status check
      for two minutes, and when that is over. AWS then also recovers an instance whose machine it has lost. Without it,
      there are no alarms.
    type: str
    default: ""
  recycle_days:
    description: >-
      Days for which the Recycle Bin keeps a deleted snapshot, 1 to 365; a deleted data volume stays there as long, at
      most 7 days. V(0) makes no rule, and leaves alone one that exists.
    type: int
    default: 0
  stop_timeout:
    description: Seconds for a clean shutdown of the old instance, before it is switched off.
    type: int
    default: 180
requirements:
  - boto3
"""

EXAMPLES = r"""
- name: The host on AWS
  alwayson.hermes.aws_host:
    host: atlas
    region: eu-central-1
    subnet: subnet-0123456789abcdef0
    secrets_path: /hermes/atlas
  delegate_to: localhost
"""

RETURN = r"""
instance_id:
  description: The instance that has the data volume; empty if there is none. In check mode, as it is before.
  returned: success
  type: str
  sample: i-0123456789abcdef0
volume_id:
  description: The data volume.
  returned: success
  type: str
  sample: vol-0123456789abcdef0
snapshot_role_arn:
  description: The role with which snapshots are made, for M(alwayson.hermes.dlm_policy).
  returned: success
  type: str
  sample: arn:aws:iam::123456789012:role/hermes-atlas-snapshots
outdated:
  description: What differs and only a replacement changes.
  returned: success
  type: list
  elements: str
  sample: ["instance type: t4g.large, declared t4g.xlarge"]
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.aws.account import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.acts import Acts
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.declared import Declared
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.module import run
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.plan import plan_host
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.state import State, read

ARGUMENTS: dict[str, dict[str, Any]] = {
    "host": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "replacing", "replaced", "absent"], "default": "present"},
    "region": {"type": "str", "required": True},
    "subnet": {"type": "str", "default": ""},
    "instance_type": {"type": "str", "default": "t4g.xlarge"},
    "image": {
        "type": "str",
        "default": "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
    },
    "user_data": {"type": "str", "default": ""},
    "root_size": {"type": "int", "default": 20},
    "public_address": {"type": "bool", "default": True},
    "volume_size": {"type": "int", "default": 50},
    "create_volume": {"type": "bool", "default": False},
    "secrets_path": {"type": "str", "default": "", "no_log": False},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "alarm_topic": {"type": "str", "default": ""},
    "recycle_days": {"type": "int", "default": 0},
    "stop_timeout": {"type": "int", "default": 180},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def converge(arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Bring a host to the declared state.

    :returns: the module's result
    """
    given = dict(arguments)
    goal, stop_timeout = given.pop("state"), given.pop("stop_timeout")
    launches = goal in ("present", "replacing")
    if not launches:
        # Nothing else is needed, and no mistake in it may keep a host from being destroyed.
        given = {name: given[name] for name in ("host", "region")}
    account = Account(given["region"])
    declared = Declared(partition=account.partition, **given)
    declared.check(needs_subnet=launches)
    state = read(account, declared, ends=goal in ("replacing", "absent"))
    plan = plan_host(declared, state, goal, Acts(account, declared, state, stop_timeout=stop_timeout))
    result = {"changed": plan.changed, "diff": plan.diff(declared.host)}
    if plan.changed and not check:
        plan.apply()
        state = read(account, declared)
    return {**result, **_found(declared, state)}


def _found(declared: Declared, state: State) -> dict[str, Any]:
    volume = state.volumes[0] if len(state.volumes) == 1 else None
    holders = {each[0] for each in volume.attachments} if volume else set()
    instance = next((each for each in state.live if each.id in holders), None)
    return {
        "instance_id": instance.id if instance else "",
        "volume_id": volume.id if volume else "",
        "snapshot_role_arn": state.snapshot_role.arn if state.snapshot_role else "",
        "outdated": instance.outdated(declared, state.image) if instance and declared.subnet else [],
    }


def main() -> None:
    run(SPECIFICATION, converge)


if __name__ == "__main__":
    main()
