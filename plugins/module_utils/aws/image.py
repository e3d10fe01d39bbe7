# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image that the roles have baked: launched from an ordinary one, converged without agents, and kept.

A builder has what a host has, without data volume and secrets. It is found by a tag of its own, so that no inventory
and no guard takes it for the host.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.plan import Difference, Plan
from .account import Account, until
from .acts import Acts
from .declared import Declared
from .plan import ground, no_ground
from .state import Instance, State

# Everything of an image and its builder has this tag; its value is the host's name.
TAG = "hermes:image"
# On an image: the digest of what is in it.
CONTENT = "hermes:content"
# Seconds that AWS may take to copy a root disk.
COPYING = 3600


@dataclass(frozen=True)
class Builder(Declared):
    """The instance that an image is made of; ``image`` is the one that it is launched from."""

    tag: ClassVar[str] = TAG
    # What the roles put into the image, in the words of whoever calls.
    content: str = ""

    @property
    def name(self) -> str:
        # A host's name has no underscore, so that no host has these names.
        return f"hermes-{self.host}_image"

    def mark(self, image: str) -> str:
        """The digest of what the image has: what it is launched from, and what the roles put into it."""
        return hashlib.sha256(json.dumps([image, self.root_size, self.content]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Image:
    id: str
    state: str


def read_images(account: Account, builder: Builder, mark: str) -> list[Image]:
    """The images with this content, but for those that AWS failed to make."""
    filters = [*builder.filter, {"Name": f"tag:{CONTENT}", "Values": [mark]}]
    found = account.all("ec2", "describe_images", "Images", Owners=["self"], Filters=filters)
    return [Image(each["ImageId"], each["State"]) for each in found if each["State"] in ("pending", "available")]


def plan_builder(builder: Builder, state: State, images: list[Image], acts: Acts) -> Plan:
    """A running builder, unless the image is there.

    One that is not running is from an interrupted run, and nobody knows how far that came: another one takes its place.
    """
    plan = Plan()
    if images:
        return plan
    running = [each for each in state.live if each.state in ("pending", "running")]
    kept = [each for each in running if not each.outdated(builder, state.image)][:1]
    for instance in [each for each in state.live if each not in kept]:
        plan.add(Difference(f"builder {instance.id}", instance.state, None), partial(acts.terminate, instance))
    ground(plan, builder, state, acts)
    if not kept:
        what = f"{builder.instance_type}, {state.image}"
        plan.add(Difference("builder", None, what), partial(acts.launch, state.image, {}))
    return plan


def plan_image(account: Account, builder: Builder, state: State, images: list[Image], acts: Acts) -> Plan:
    """The image of the builder, which has shut itself down, and no builder.

    :raises OpsError: when there is neither an image nor a builder
    """
    plan = Plan()
    if not images and len(state.live) != 1:
        raise OpsError(
            f"{len(state.live)} builders, of which an image could be made",
            where=f"{builder.host}: image",
            fix="run aws_image, which launches one",
        )
    if not images:
        # A parameter may name a newer image by now than the one that the builder was launched from.
        mark = builder.mark(state.live[0].image)
        plan.add(Difference("image", None, mark), partial(_make, account, builder, state.live[0], mark))
    elif images[0].state == "pending":
        plan.add(Difference(f"image {images[0].id}", "pending", "available"), partial(_wait, account, images[0].id))
    for instance in state.live:
        plan.add(Difference(f"builder {instance.id}", instance.state, None), partial(acts.terminate, instance))
    no_ground(plan, builder, state, acts)
    return plan


def _make(account: Account, builder: Builder, instance: Instance, mark: str) -> None:
    """An image of the builder's disk, at rest: it shuts down by itself, as its last act."""
    answer: dict[str, Any] = {}

    def stopped() -> bool:
        state = account("ec2", "describe_instances", InstanceIds=[instance.id])
        answer.update(state["Reservations"][0]["Instances"][0]["State"])
        return answer["Name"] == "stopped"

    if not until(stopped):
        raise OpsError(
            f"is {answer['Name']}, and has not shut down",
            where=f"{builder.host}: builder {instance.id}",
            fix="see what its console says (aws ec2 get-console-output), and run aws_image again",
        )
    tags = [*builder.tags, {"Key": CONTENT, "Value": mark}]
    made = account(
        "ec2",
        "create_image",
        InstanceId=instance.id,
        # AWS takes a name once, so that nothing is made twice of one builder.
        Name=f"{builder.name}-{instance.id}",
        TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in ("image", "snapshot")],
    )
    _wait(account, made["ImageId"])


def _wait(account: Account, image: str) -> None:
    state = ""

    def ended() -> bool:
        nonlocal state
        answer = account.insist(("InvalidAMIID.NotFound",), "ec2", "describe_images", ImageIds=[image])
        state = answer["Images"][0]["State"]
        return state != "pending"

    if not until(ended, seconds=COPYING) or state != "available":
        raise OpsError(f"is {state}", where=f"image {image}", fix="see what AWS says of it, and run aws_image again")
