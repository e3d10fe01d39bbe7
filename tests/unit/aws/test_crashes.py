# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed after each change at AWS, before its answer is read, and run again: the end is the same."""

from __future__ import annotations

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

# All that is optional.
OPTIONS = {"alarm_topic": "arn:aws:sns:eu-central-1:123456789012:pager", "recycle_days": 30}


def test_provision_goes_on_wherever_it_was_killed(world):
    world.also = OPTIONS

    def run():
        return world.converge(create_volume=True)

    run()
    sound = world.shape()
    sound["volumes"] = sound["data"] = None
    for number in world.interrupted_everywhere(world.server.reset, run):
        found = world.shape()
        # Never a second volume, and the one there is on the one instance.
        ((volume, state, _size),), ((on_it, deleted),) = found["volumes"], found["data"]
        assert (on_it, state, deleted) == (volume, "in-use", False)
        found["volumes"] = found["data"] = None
        assert found == sound, number
        assert world.server.calls.count("CreateVolume") == 1
        assert world.server.calls.count("RunInstances") == 1
        assert world.server.calls.count("CreateRule") == 2
        assert {each["Dimensions"][0]["Value"] for each in world.alarms()} == {world.instances()[0]["InstanceId"]}
        assert len(world.alarms()) == 2
    assert number >= 16


def test_replace_goes_on_wherever_it_was_killed(world):
    world.also = OPTIONS
    made = world.provision()
    sound = world.shape()["tags"]
    # Each begins with the host that the one before has left.
    for number in world.interrupted_everywhere(lambda: None, world.replace):
        # An interrupted one is continued; only one that was ended by its last change is followed by another.
        assert world.server.calls.count("RunInstances") == (2 if number == 9 else 1)
        assert world.server.calls.count("CreateVolume") == 0
        assert world.converge()["changed"] is False, number
        found = world.shape()
        assert found["data"] == [(made["volume_id"], False)]
        assert found["volumes"] == [(made["volume_id"], "in-use", 50)]
        assert found["tags"] == sound
        assert {each["Dimensions"][0]["Value"] for each in world.alarms()} == {world.instances()[0]["InstanceId"]}
    assert number == 9


def test_an_instance_that_aws_does_not_show_yet_is_not_launched_twice(world, monkeypatch):
    """AWS shows a new instance with a delay. A run in that time sends the same token, for which AWS launches none."""
    tokens, real = [], world.ec2.run_instances

    def launch(**parameters):
        tokens.append(parameters["ClientToken"])
        real(**parameters)
        raise world.Killed

    world.provision()
    hidden = world.ec2.describe_instances()
    with monkeypatch.context() as patch:
        patch.setattr(world.ec2, "run_instances", launch)
        patch.setattr(world.ec2, "describe_instances", lambda **_parameters: hidden)
        for _again in range(2):
            with pytest.raises(world.Killed):
                world.converge(state="replacing")
    # From another state, it is another launch.
    with monkeypatch.context() as patch:
        patch.setattr(world.ec2, "run_instances", launch)
        with pytest.raises(world.Killed):
            world.converge(state="replacing", instance_type="m7g.large")
    assert tokens[0] == tokens[1] != tokens[2]


def test_a_host_that_did_not_get_well_is_not_launched_again(world):
    """site.yml failed on the fresh host: run again, the same instance is converged."""
    world.provision()
    first = world.converge(state="replacing")
    world.server.calls.clear()
    assert world.converge(state="replacing")["instance_id"] == first["instance_id"]
    assert world.server.changes == []


def test_a_fresh_host_that_cannot_get_well_is_replaced_by_another_image(world):
    """The image was what was wrong, and another one is declared: nothing of the first attempt is kept."""
    made = world.provision()
    first = world.converge(state="replacing", user_data="#cloud-config\n# broken\n")
    after = world.converge(state="replacing")
    assert after["instance_id"] != first["instance_id"]
    assert [each["InstanceId"] for each in world.instances()] == [after["instance_id"]]
    assert after["volume_id"] == made["volume_id"]


def test_no_room_for_another_instance_leaves_the_old_one_at_work(world, monkeypatch):
    from botocore.exceptions import ClientError

    made = world.provision()
    full = {"Error": {"Code": "InsufficientInstanceCapacity", "Message": "no room"}}

    def refuse(**_parameters):
        raise ClientError(full, "RunInstances")

    with monkeypatch.context() as patch:
        patch.setattr(world.ec2, "run_instances", refuse)
        with pytest.raises(OpsError, match="InsufficientInstanceCapacity: no room"):
            world.converge(state="replacing")
    assert not world.converge()["changed"]
    assert world.instances("running")[0]["InstanceId"] == made["instance_id"]


def test_destroy_goes_on_wherever_it_was_killed(world):
    world.also = OPTIONS
    made = world.provision()
    for number in world.interrupted_everywhere(world.provision, lambda: world.converge(state="absent")):
        found = world.shape()
        assert (found["instances"], found["ingress"], found["roles"]) == ([], [], ["hermes-atlas-snapshots"]), number
        assert found["volumes"] == [(made["volume_id"], "available", 50)]
        assert world.alarms() == []
    assert number >= 9
