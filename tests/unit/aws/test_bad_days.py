# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""AWS on a bad day: permissions that lack, things that show late, protected instances, and two operators at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.aws import account, acts, guards, plan, state
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.declared import Declared
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from botocore import exceptions
from botocore.client import BaseClient
from botocore.exceptions import ClientError

MINE = {"hermes:host": "atlas"}


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that makes AWS refuse calls, by what a function says about each."""
    real = BaseClient._make_api_call

    def install(why: Callable[[str, dict[str, Any]], str]) -> None:
        def call(self: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
            code = why(f"{self.meta.service_model.service_name}:{operation}", parameters)
            if code:
                raise ClientError({"Error": {"Code": code.split(":")[0], "Message": code}}, operation)
            return real(self, operation, parameters)

        monkeypatch.setattr(BaseClient, "_make_api_call", call)

    return install


def decided(world: Any, goal: str) -> plan.Plan:
    """The plan of an operator who has looked at AWS and changed nothing yet."""
    given = {key: value for key, value in world.declared.items() if key not in ("state", "stop_timeout")}
    asked = account.Account(given["region"])
    declared = Declared(partition=asked.partition, **given)
    found = state.read(asked, declared, ends=goal != "present")
    return plan.plan_host(declared, found, goal, acts.Acts(asked, declared, found, stop_timeout=1))


def refusal_of(run: Callable[[], object]) -> str:
    """What *run* was refused with; empty if it was not."""
    try:
        run()
    except OpsError as error:
        return str(error)
    return ""


# --- permissions and places ------------------------------------------------------------------------------------


def test_each_permission_that_lacks_is_named_and_the_run_goes_on_when_it_is_there(world, refuse):
    """Every call is refused once: the error names what to allow, and the same command continues."""
    asked: list[str] = []

    def why(action: str, _parameters: dict[str, Any]) -> str:
        if action in asked:
            return ""
        asked.append(action)
        return "UnauthorizedOperation" if action.startswith("ec2:") else "AccessDeniedException"

    refuse(why)
    for run in (
        lambda: world.converge(create_volume=True),
        world.replace,
        lambda: world.converge(state="absent"),
    ):
        while True:
            known = len(asked)
            said = refusal_of(run)
            if len(asked) == known:
                break
            assert len(asked) == known + 1
            assert f". Fix: allow {asked[-1]}" in said
            if asked[-1] == "ec2:RunInstances":
                assert "allow ec2:RunInstances, ec2:CreateTags, iam:PassRole to these" in said
        assert said == ""
    assert len(asked) > 30
    assert [each["State"] for each in world.volumes()] == ["available"]


def test_a_region_that_is_none_is_refused():
    with pytest.raises(OpsError, match=r"frankfurt: is no region of AWS\. Fix: name a region, such as eu-central-1"):
        account.Account("frankfurt")


UNANSWERED = {"endpoint_url": "https://ec2.eu-nowhere-1.amazonaws.com", "error": "no route", "proxy_url": "proxy"}


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (exceptions.EndpointConnectionError(**UNANSWERED), "see that aws_region names a region"),
        (exceptions.ConnectTimeoutError(**UNANSWERED), "see that aws_region names a region"),
        (exceptions.ReadTimeoutError(**UNANSWERED), "see that aws_region names a region"),
        (exceptions.SSLError(**UNANSWERED), "see that aws_region names a region"),
        (exceptions.ProxyConnectionError(**UNANSWERED), "see that aws_region names a region"),
        (exceptions.ConnectionClosedError(**UNANSWERED), "see that aws_region names a region"),
        (exceptions.ParamValidationError(report="Invalid length"), "correct what AWS names"),
        (exceptions.NoCredentialsError(), "name credentials that AWS accepts"),
        (exceptions.PartialCredentialsError(provider="env", cred_var="key"), "name credentials that AWS accepts"),
        (exceptions.UnauthorizedSSOTokenError(), "name credentials that AWS accepts"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_without_an_answer_names_its_own_fix(error, fix):
    """Wrong credentials are told from a network that is down."""
    assert f". Fix: {fix}" in str(account.Refusal("ec2", "describe_volumes", error))


def test_a_profile_that_does_not_exist_is_one_error(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(OpsError, match=r"profile \(nobody\) could not be found\. Fix: correct AWS_PROFILE"):
        account.Account("eu-central-1")


def test_a_call_that_is_throttled_is_made_again(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.calls.clear()
    server.throttled = 2
    assert "Volumes" in account.Account("eu-central-1")("ec2", "describe_volumes")
    assert server.calls == ["DescribeVolumes"] * 3


# --- what shows late -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("iam:AttachRolePolicy", "NoSuchEntity"),
        ("iam:PutRolePolicy", "NoSuchEntity"),
        ("iam:AddRoleToInstanceProfile", "NoSuchEntity"),
        ("ec2:RunInstances", "InvalidGroup.NotFound"),
        ("ec2:RunInstances", "InvalidParameterValue: Invalid IAM Instance Profile name"),
        ("ec2:DescribeVolumes", "InvalidVolume.NotFound"),
        ("ec2:ModifyInstanceAttribute", "InvalidInstanceAttributeValue"),
    ],
)
def test_what_was_just_made_may_show_late(world, refuse, action, code):
    left = [2]

    def why(called: str, parameters: dict[str, Any]) -> str:
        # Volumes are found by their tag; only what was just made is asked for by its id.
        if called != action or (called.endswith("DescribeVolumes") and "VolumeIds" not in parameters) or not left[0]:
            return ""
        left[0] -= 1
        return code

    refuse(why)
    made = world.converge(create_volume=True)
    assert left == [0]
    assert made["instance_id"]
    assert world.server.calls.count("RunInstances") == world.server.calls.count("CreateVolume") == 1


def test_what_never_shows_ends_with_the_words_of_aws(world, refuse, monkeypatch):
    monkeypatch.setattr(account, "PATIENCE", 0)
    refuse(lambda action, _parameters: "InvalidGroup.NotFound" if action == "ec2:RunInstances" else "")
    with pytest.raises(OpsError, match=r"run_instances: InvalidGroup.NotFound: .*it goes on where this one ended"):
        world.converge(create_volume=True)


@pytest.mark.parametrize("killed", [False, True])
def test_a_volume_that_grows_shows_its_new_size_late(world, monkeypatch, killed):
    """Until then AWS takes no other change of it, also not from the run that follows a killed one."""
    world.provision()
    real, left = BaseClient._make_api_call, []

    def call(self: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "ModifyVolume" and left:
            code = "IncorrectModificationState"
            raise ClientError({"Error": {"Code": code, "Message": code}}, operation)
        answer = real(self, operation, parameters)
        if operation == "ModifyVolume":
            left.extend([50] * 3)
            if killed:
                raise world.Killed
        if operation == "DescribeVolumes" and left:
            answer["Volumes"][0]["Size"] = left.pop()
        return answer

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    if killed:
        with pytest.raises(world.Killed):
            world.converge(volume_size=80)
    assert world.converge(volume_size=80)["changed"]
    assert (left, world.server.changes) == ([], ["ModifyVolume"])
    assert not world.converge(volume_size=80)["changed"]


@pytest.mark.parametrize("leaving", ["detaching", "busy"])
def test_a_volume_that_is_leaving_counts_as_gone(world, leaving):
    """Somebody detached it a moment ago: it is attached again when it is free, not taken for attached."""
    made = world.provision()
    given = {key: value for key, value in world.declared.items() if key not in ("state", "stop_timeout")}
    asked = account.Account(given["region"])
    declared = Declared(partition=asked.partition, **given)
    found = state.read(asked, declared)
    (volume,) = found.volumes
    moved = dataclasses.replace(volume, attachments=((made["instance_id"], "/dev/sdf", leaving),))
    found = dataclasses.replace(found, volumes=(moved,))
    steps = plan.plan_host(declared, found, "present", acts.Acts(asked, declared, found, stop_timeout=1))
    assert [each.what for each in steps.differences] == ["data volume: attached to"]


def test_a_volume_in_error_is_refused(world):
    declared = Declared(host="atlas", region="eu-central-1", partition="aws", volume_size=50)
    broken = state.State(volumes=(state.Volume("vol-1", "error", "eu-central-1a", 50, ()),))
    with pytest.raises(OpsError, match="data volume vol-1: is in the state error"):
        guards.the_volume(declared, broken)


# --- instances that must not, or may not, go -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "word", "option"),
    [
        ("DisableApiTermination", "terminated", "--no-disable-api-termination"),
        ("DisableApiStop", "stopped", "--no-disable-api-stop"),
    ],
)
@pytest.mark.parametrize("goal", ["replacing", "absent"])
def test_a_protected_instance_is_refused_before_any_change(world, goal, attribute, word, option):
    """AWS would refuse the last step only, when the volume has moved."""
    made = world.provision()["instance_id"]
    world.ec2.modify_instance_attribute(InstanceId=made, **{attribute: {"Value": True}})
    world.server.calls.clear()
    with pytest.raises(OpsError, match=rf"{made}: is protected against being {word}\. Fix: .*{option}"):
        world.converge(state=goal)
    assert world.server.changes == []
    # A run that ends no instance does not mind.
    assert not world.converge()["changed"]
    world.ec2.modify_instance_attribute(InstanceId=made, **{attribute: {"Value": False}})
    assert world.converge(state=goal)["changed"]


def test_further_disks_of_an_image_are_left_out(world, monkeypatch):
    """An image that somebody made of a whole host has a copy of its data volume, where the real one belongs."""
    parameters, real = {}, world.ec2.run_instances

    def launch(**given):
        parameters.update(given)
        return real(**given)

    mappings = [{"DeviceName": name, "Ebs": {"SnapshotId": "snap-1"}} for name in ("/dev/sda1", "/dev/sdf")]
    mappings.append({"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"})
    images = {"Images": [{"RootDeviceName": "/dev/sda1", "BlockDeviceMappings": mappings}]}
    monkeypatch.setattr(world.ec2, "describe_images", lambda **_parameters: images)
    monkeypatch.setattr(world.ec2, "run_instances", launch)
    world.converge(create_volume=True)
    root, copy = parameters["BlockDeviceMappings"]
    assert root["Ebs"]["Encrypted"]
    assert copy == {"DeviceName": "/dev/sdf", "NoDevice": ""}


# --- two operators at once -------------------------------------------------------------------------------------


def test_two_replacements_at_once_leave_one_volume_on_one_instance(world):
    """Both looked at the same moment. The second one fails, and the same command brings everything into order."""
    made = world.provision()
    second = decided(world, "replacing")
    first = world.converge(state="replacing")
    with pytest.raises(OpsError):
        second.apply()
    (volume,) = world.volumes()
    assert [each["InstanceId"] for each in volume["Attachments"]] == [first["instance_id"]]
    after = world.replace()
    # The one that has the volume stays.
    assert (after["volume_id"], after["instance_id"]) == (made["volume_id"], first["instance_id"])
    assert [each["InstanceId"] for each in world.instances()] == [after["instance_id"]]
    assert not world.converge()["changed"]


def test_provision_does_not_start_what_a_replacement_has_just_stopped(world):
    old = world.provision()["instance_id"]
    world.ec2.stop_instances(InstanceIds=[old])
    provision = decided(world, "present")
    fresh = world.launch(**MINE, **{"hermes:replaces": old})
    world.server.calls.clear()
    with pytest.raises(OpsError, match=rf"{old}: is not started: {fresh} was launched in the meantime"):
        provision.apply()
    assert world.server.changes == []
