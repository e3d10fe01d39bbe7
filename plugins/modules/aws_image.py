#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module aws_image; module_utils/aws does the work, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aws_image
short_description: An image for hosts on AWS, baked by the roles of this collection
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Launches a builder, an instance without data volume and secrets, and makes an image of it when the roles have
    converged it. The playbook C(aws_image) runs it before and after them.
  - Finds builder and image by the tag C(hermes:image). An image that has what is wanted is not made again.
  - A run that was interrupted is continued by running it again. Never deletes an image, a snapshot or a volume, except
    for the builder's own root disk.
  - Runs on the controller, so delegate it to C(localhost).
attributes:
  check_mode:
    support: full
    description: Says what would change.
  diff_mode:
    support: full
    description: Shows what differs.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  host:
    description: The name of the host that the image is for, the value of the tag.
    type: str
    required: true
  state:
    description:
      - V(builder) has a running builder, unless the image is there.
      - V(image) waits until the builder has shut itself down, makes the image, and removes the builder with its
        security group, instance profile and role.
    type: str
    choices: [builder, image]
    required: true
  region:
    description: The region, such as V(eu-central-1).
    type: str
    required: true
  subnet:
    description: Where the builder is launched.
    type: str
    required: true
  instance_type:
    description: The builder's type, of the architecture of the host.
    type: str
    default: t4g.xlarge
  image:
    description: The image (V(ami-…)) that the builder is launched from, or the path of a parameter that names one.
    type: str
    default: /aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id
  user_data:
    description: For cloud-init, at the builder's first boot.
    type: str
    default: ""
  root_size:
    description: GiB of the builder's root disk. Hosts launched from the image cannot have a smaller one.
    type: int
    default: 20
  public_address:
    description: Whether the builder gets a public IPv4 address.
    type: bool
    default: true
  content:
    description: What the roles put into the image. Another content is another image.
    type: str
    default: ""
requirements:
  - boto3
"""

EXAMPLES = r"""
- name: A builder
  alwayson.hermes.aws_image:
    host: atlas
    state: builder
    region: eu-central-1
    subnet: subnet-0123456789abcdef0
  delegate_to: localhost
"""

RETURN = r"""
instance_id:
  description: The running builder; empty if the image is there, and in check mode.
  returned: success
  type: str
  sample: i-0123456789abcdef0
image_id:
  description: The image; empty if it is not made yet.
  returned: success
  type: str
  sample: ami-0123456789abcdef0
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.aws.account import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.acts import Acts
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.image import (
    Builder,
    plan_builder,
    plan_image,
    read_images,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.module import run
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.state import read_ground

ARGUMENTS: dict[str, dict[str, Any]] = {
    "host": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["builder", "image"], "required": True},
    "region": {"type": "str", "required": True},
    "subnet": {"type": "str", "required": True},
    "instance_type": {"type": "str", "default": "t4g.xlarge"},
    "image": {
        "type": "str",
        "default": "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
    },
    "user_data": {"type": "str", "default": ""},
    "root_size": {"type": "int", "default": 20},
    "public_address": {"type": "bool", "default": True},
    "content": {"type": "str", "default": ""},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def converge(arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Bring builder and image to the declared state.

    :returns: the module's result
    """
    given = dict(arguments)
    goal = given.pop("state")
    account = Account(given["region"])
    builder = Builder(partition=account.partition, **given)
    builder.check(needs_subnet=True)
    state = read_ground(account, builder)
    images = read_images(account, builder, builder.mark(state.image))
    # The builder shuts itself down.
    acts = Acts(account, builder, state, stop_timeout=0)
    if goal == "builder":
        plan = plan_builder(builder, state, images, acts)
    else:
        plan = plan_image(account, builder, state, images, acts)
    if plan.changed and not check:
        plan.apply()
        state = read_ground(account, builder)
        images = read_images(account, builder, builder.mark(state.image))
    # In check mode the live one may be one that would be terminated.
    running = [each.id for each in state.live] if goal == "builder" and not images and not check else []
    return {
        "changed": plan.changed,
        "diff": plan.diff(builder.host),
        "instance_id": next(iter(running), ""),
        "image_id": next((each.id for each in images), ""),
    }


def main() -> None:
    run(SPECIFICATION, converge)


if __name__ == "__main__":
    main()
