# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module aws_image against moto: a builder, its image, and nothing left of the builder."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.aws import account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.modules import aws_image

KEYS = ("host", "region", "subnet", "instance_type", "image", "user_data", "root_size", "public_address")


def own_images(world):
    return world.ec2.describe_images(Owners=["self"], Filters=[{"Name": "tag-key", "Values": ["hermes:image"]}])[
        "Images"
    ]


def step(world: Any, state: str, *, check: bool = False, **changes: Any) -> dict[str, Any]:
    given = {key: world.declared[key] for key in KEYS}
    return aws_image.converge({**given, "content": "0.19.0", "state": state, **changes}, check=check)


def bake(world: Any, **changes: Any) -> dict[str, Any]:
    """What the playbook does: a builder, which shuts down when it is converged, and its image."""
    builder = step(world, "builder", **changes)
    if builder["instance_id"]:
        world.ec2.stop_instances(InstanceIds=[builder["instance_id"]])
    return step(world, "image", **changes)


def remains(world: Any) -> dict[str, Any]:
    """All that is there of builders."""
    groups = world.ec2.describe_security_groups(Filters=[{"Name": "tag-key", "Values": ["hermes:image"]}])
    return {
        "instances": world.instances(),
        "groups": groups["SecurityGroups"],
        "roles": [each["RoleName"] for each in world.iam.list_roles()["Roles"]],
        "profiles": world.iam.list_instance_profiles()["InstanceProfiles"],
    }


NOTHING = {"instances": [], "groups": [], "roles": [], "profiles": []}


def test_an_image_is_made_once_and_nothing_is_left_of_its_builder(world):
    made = bake(world)
    (image,) = own_images(world)
    assert made["image_id"] == image["ImageId"]
    tags = {each["Key"]: each["Value"] for each in image["Tags"]}
    # Nothing that an inventory or a guard takes for the host atlas, or for a snapshot of its volume.
    assert tags["hermes:image"] == "atlas"
    assert "hermes:host" not in tags
    assert remains(world) == NOTHING
    assert "CreateVolume" not in world.server.calls
    world.server.calls.clear()
    for state in ("builder", "image"):
        again = step(world, state)
        assert (again["changed"], again["image_id"], again["instance_id"]) == (False, made["image_id"], "")
    assert world.server.changes == []


def test_another_content_is_another_image_and_the_old_one_stays(world):
    first = bake(world)["image_id"]
    second = bake(world, content="0.20.0")["image_id"]
    assert first != second
    assert {each["ImageId"] for each in own_images(world)} == {first, second}
    # Back again, it is there already.
    assert bake(world)["image_id"] == first


def test_check_mode_makes_nothing_and_says_what_it_would(world):
    planned = step(world, "builder", check=True)
    assert planned["changed"]
    assert "builder: t4g.xlarge" in planned["diff"]["after"]
    assert world.server.changes == []
    builder = step(world, "builder")["instance_id"]
    world.server.calls.clear()
    replaced = step(world, "builder", user_data="#cloud-config\n# another\n", check=True)
    assert f"builder {builder}: running" in replaced["diff"]["before"]
    assert replaced["instance_id"] == ""
    planned = step(world, "image", check=True)
    assert planned["changed"]
    assert f"builder {builder}: running" in planned["diff"]["before"]
    assert world.server.changes == []


def test_the_builder_can_read_no_secret_and_has_no_data_volume(world):
    builder = step(world, "builder")["instance_id"]
    (instance,) = world.instances()
    assert instance["InstanceId"] == builder
    assert [each["DeviceName"] for each in instance["BlockDeviceMappings"]] == ["/dev/xvda"]
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    names = {"RoleName": "hermes-atlas_image", "PolicyName": "hermes-atlas_image"}
    found = world.iam.get_role_policy(**names)["PolicyDocument"]
    policy = found if isinstance(found, dict) else json.loads(urllib.parse.unquote(found))
    assert {each["Effect"] for each in policy["Statement"]} == {"Deny"}
    assert policy["Statement"][0]["NotResource"] == [
        f"arn:aws:ssm:{world.declared['region']}:*:parameter/aws/service/*"
    ]


def test_the_host_is_not_touched_and_does_not_see_it(world):
    host = world.provision()
    sound = world.shape()
    step(world, "builder")
    assert not world.converge()["changed"]
    bake(world)
    assert world.shape() == sound
    # The host launches from it.
    image = own_images(world)[0]["ImageId"]
    assert world.converge(image=image)["outdated"] == [f"image: {world.instances()[0]['ImageId']}, declared {image}"]
    after = world.converge(state="replacing", image=image)
    assert world.instances()[0]["ImageId"] == image
    assert after["volume_id"] == host["volume_id"]


def test_it_goes_on_wherever_it_was_killed(world):
    for number in world.interrupted_everywhere(world.server.reset, lambda: bake(world)):
        assert len(own_images(world)) == 1
        assert world.server.calls.count("CreateImage") == 1, number
        assert remains(world) == NOTHING
    assert number >= 12


@pytest.mark.parametrize("how", ["stopped", "another base"])
def test_a_builder_that_cannot_be_trusted_is_replaced(world, how):
    """Nobody knows how far an interrupted run came: an image of half a release would fail on every host."""
    first = step(world, "builder")["instance_id"]
    changes = {}
    if how == "stopped":
        world.ec2.stop_instances(InstanceIds=[first])
    else:
        changes = {"user_data": "#cloud-config\n# another\n"}
    second = step(world, "builder", **changes)["instance_id"]
    assert second not in ("", first)
    assert [each["InstanceId"] for each in world.instances()] == [second]


def test_a_builder_that_does_not_shut_down_makes_no_image(world, monkeypatch):
    monkeypatch.setattr(account.until, "__kwdefaults__", {"seconds": 0})
    builder = step(world, "builder")["instance_id"]
    with pytest.raises(OpsError, match=rf"builder {builder}: is running, and has not shut down\. Fix: see what its"):
        step(world, "image")
    assert own_images(world) == []


def test_without_a_builder_there_is_no_image(world):
    with pytest.raises(OpsError, match=r"atlas: image: 0 builders, .*\. Fix: run aws_image, which"):
        step(world, "image")
    assert world.server.changes == []


def test_a_pending_image_is_waited_for_and_a_failed_one_is_told(world, monkeypatch):
    made, real, states = bake(world), world.ec2.describe_images, ["pending", "pending", "available"]

    def describe(**parameters):
        answer = real(**parameters)
        if parameters.get("ImageIds") == [made["image_id"]] or "Owners" in parameters:
            for image in answer["Images"]:
                image["State"] = states.pop(0) if len(states) > 1 else states[0]
        return answer

    monkeypatch.setattr(world.ec2, "describe_images", describe)
    waited = step(world, "image")
    assert f"image {made['image_id']}: pending" in waited["diff"]["before"]
    assert waited["image_id"] == made["image_id"]
    states[:] = ["pending", "failed"]
    with pytest.raises(OpsError, match=rf"image {made['image_id']}: is failed\. Fix: see what AWS says"):
        step(world, "image")
