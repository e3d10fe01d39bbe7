# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module aws_host against moto: made, unchanged, healed, replaced, refused."""

from __future__ import annotations

import json
import urllib.parse

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

MINE = {"hermes:host": "atlas"}


# --- provision -------------------------------------------------------------------------------------------------


def test_a_host_is_made_as_declared(world):
    made = world.converge(create_volume=True)
    (instance,) = world.instances()
    assert made["changed"]
    assert made["instance_id"] == instance["InstanceId"]
    assert instance["State"]["Name"] == "running"
    assert instance["InstanceType"] == "t4g.xlarge"
    options = instance["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
    (volume,) = world.volumes()
    assert made["volume_id"] == volume["VolumeId"]
    assert (volume["Encrypted"], volume["VolumeType"], volume["Size"]) == (True, "gp3", 50)
    assert [each["InstanceId"] for each in volume["Attachments"]] == [made["instance_id"]]
    assert world.mapping(made["instance_id"])["DeleteOnTermination"] is False
    assert world.shape()["ingress"] == [[]]
    assert world.attached("hermes-atlas") == ["AmazonSSMManagedInstanceCore", "hermes-atlas"]
    assert world.attached("hermes-atlas-snapshots") == ["AWSDataLifecycleManagerServiceRole"]
    assert made["outdated"] == []


def test_the_root_disk_is_encrypted_and_goes_with_the_instance(world):
    made = world.provision()
    (instance,) = world.instances()
    (root,) = (each for each in instance["BlockDeviceMappings"] if each["DeviceName"] == "/dev/xvda")
    (disk,) = world.ec2.describe_volumes(VolumeIds=[root["Ebs"]["VolumeId"]])["Volumes"]
    assert disk["Encrypted"]
    assert root["Ebs"]["DeleteOnTermination"]
    assert root["Ebs"]["VolumeId"] != made["volume_id"]


def test_the_second_run_changes_nothing_in_a_dozen_calls(world):
    first = world.provision()
    again = world.converge()
    assert not again["changed"]
    assert (again["instance_id"], again["volume_id"]) == (first["instance_id"], first["volume_id"])
    assert world.server.changes == []
    assert len(world.server.calls) <= 12


def test_check_mode_changes_nothing_and_says_what_it_would(world):
    planned = world.converge(create_volume=True, check=True)
    assert planned["changed"]
    assert "security group hermes-atlas: without ingress" in planned["diff"]["after"]
    assert "data volume: 50 GiB, blank" in planned["diff"]["after"]
    assert world.server.changes == []
    world.provision()
    assert not world.converge(check=True)["changed"]


def test_the_host_reads_its_own_secrets_and_nobody_elses(world):
    world.provision()
    found = world.iam.get_role_policy(RoleName="hermes-atlas", PolicyName="hermes-atlas")["PolicyDocument"]
    policy = found if isinstance(found, dict) else json.loads(urllib.parse.unquote(found))
    allow, deny, *_keep = policy["Statement"]
    own = f"arn:aws:ssm:{world.declared['region']}:*:parameter/hermes/atlas"
    assert allow["Resource"] == [own, f"{own}/*"]
    assert deny["Effect"] == "Deny"
    assert deny["NotResource"][:2] == [own, f"{own}/*"]
    # The denial is needed: the policy for Session Manager allows every parameter of the account.
    arn = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
    core = world.iam.get_policy_version(
        PolicyArn=arn, VersionId=world.iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    )
    document = core["PolicyVersion"]["Document"]
    allowed = [each for each in document["Statement"] if "ssm:GetParameters" in each["Action"]]
    assert [each["Resource"] for each in allowed] == ["*"]


def test_a_secret_is_seeded_and_never_overwritten_or_shown(world):
    planned = world.converge(create_volume=True, check=True)
    made = world.provision()
    assert "sk-hidden" not in json.dumps([planned, made])
    name = "/hermes/atlas/OPENROUTER_API_KEY"
    found = world.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
    assert (found["Type"], found["Value"]) == ("SecureString", "sk-hidden")
    world.ssm.put_parameter(Name=name, Value="rotated", Type="SecureString", Overwrite=True)
    many = {f"KEY_{number}": "x" for number in range(21)}
    assert world.converge(secrets={**world.declared["secrets"], **many})["changed"]
    assert not world.converge(secrets={**world.declared["secrets"], **many})["changed"]
    assert world.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"] == "rotated"


# --- drift -----------------------------------------------------------------------------------------------------


def rogue_rule(world, made):
    (group,) = world.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["hermes-atlas"]}])[
        "SecurityGroups"
    ]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    other = {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "UserIdGroupPairs": [{"GroupId": group["GroupId"]}]}
    world.ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[rule, other])


def deleted_with_the_instance(world, made):
    mapping = {"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True}}
    world.ec2.modify_instance_attribute(InstanceId=made["instance_id"], BlockDeviceMappings=[mapping])


def first_metadata_version(world, made):
    world.ec2.modify_instance_metadata_options(
        InstanceId=made["instance_id"], HttpTokens="optional", HttpPutResponseHopLimit=2
    )


def another_group(world, made):
    other = world.ec2.create_security_group(GroupName="open", Description="x", VpcId=world.instances()[0]["VpcId"])
    world.ec2.modify_instance_attribute(InstanceId=made["instance_id"], Groups=[other["GroupId"]])


def stopped(world, made):
    world.ec2.stop_instances(InstanceIds=[made["instance_id"]])


def without_policy(world, made):
    world.iam.detach_role_policy(
        RoleName="hermes-atlas", PolicyArn="arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
    )


def another_policy(world, made):
    allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    world.iam.put_role_policy(RoleName="hermes-atlas", PolicyName="hermes-atlas", PolicyDocument=document)


def another_trust(world, made):
    statement = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    world.iam.update_assume_role_policy(RoleName="hermes-atlas", PolicyDocument=document)


def empty_profile(world, made):
    world.iam.remove_role_from_instance_profile(InstanceProfileName="hermes-atlas", RoleName="hermes-atlas")


def detached(world, made):
    world.ec2.detach_volume(VolumeId=made["volume_id"], InstanceId=made["instance_id"])


DRIFT = {
    rogue_rule: ["RevokeSecurityGroupIngress"],
    deleted_with_the_instance: ["ModifyInstanceAttribute"],
    first_metadata_version: ["ModifyInstanceMetadataOptions"],
    another_group: ["ModifyInstanceAttribute"],
    stopped: ["StartInstances"],
    without_policy: ["AttachRolePolicy"],
    another_policy: ["PutRolePolicy"],
    another_trust: ["UpdateAssumeRolePolicy"],
    empty_profile: ["AddRoleToInstanceProfile"],
    detached: ["AttachVolume", "ModifyInstanceAttribute"],
}


@pytest.mark.parametrize("drift", DRIFT, ids=lambda drift: drift.__name__)
def test_drift_is_said_and_healed(world, drift):
    made = world.provision()
    sound = world.shape()
    drift(world, made)
    world.server.calls.clear()
    assert world.converge(check=True)["changed"]
    assert world.server.changes == []
    assert world.converge()["changed"]
    assert world.server.changes == DRIFT[drift]
    assert world.shape() == sound
    assert not world.converge()["changed"]


def test_the_volume_grows_and_never_shrinks(world):
    world.provision()
    assert world.converge(volume_size=80)["changed"]
    assert world.volumes()[0]["Size"] == 80
    with pytest.raises(OpsError, match=r"has 80 GiB, and 50 are declared; .*declare aws_volume_size: 80"):
        world.converge()


def test_what_only_a_replacement_changes_is_named(world):
    world.provision()
    found = world.converge(instance_type="m7g.large", user_data="#cloud-config\n# another\n")
    assert not found["changed"]
    assert found["outdated"][0] == "instance type: t4g.xlarge, declared m7g.large"
    assert [each.split(":")[0] for each in found["outdated"]] == ["instance type", "first boot"]


# --- replace and destroy ---------------------------------------------------------------------------------------


def test_replaced_twice_the_volume_is_the_same(world):
    first = world.provision()
    for _again in range(2):
        before = world.instances()[0]["InstanceId"]
        world.server.calls.clear()
        after = world.replace()
        assert after["volume_id"] == first["volume_id"]
        assert [each["InstanceId"] for each in world.instances()] == [after["instance_id"]]
        assert after["instance_id"] != before
        assert world.mapping(after["instance_id"])["DeleteOnTermination"] is False
        # A shutdown in order, before the volume goes; the old one serves until the new one runs.
        assert world.server.changes == [
            "RunInstances",
            "StopInstances",
            "DetachVolume",
            "AttachVolume",
            "ModifyInstanceAttribute",
            "TerminateInstances",
            "DeleteTags",
        ]
    assert not world.converge()["changed"]


def test_a_replacement_brings_another_type_and_image(world):
    world.provision()
    image = next(each for each in world.ec2.describe_images(Owners=["amazon"])["Images"] if "minimal" in each["Name"])
    wanted = {"instance_type": "m7g.large", "image": image["ImageId"]}
    world.converge(state="replacing", **wanted)
    (instance,) = world.instances()
    assert (instance["InstanceType"], instance["ImageId"]) == ("m7g.large", image["ImageId"])
    assert world.converge(state="replaced", **wanted)["outdated"] == []


def test_a_host_that_is_lost_is_replaced_from_its_volume(world):
    first = world.provision()
    world.ec2.detach_volume(VolumeId=first["volume_id"], InstanceId=first["instance_id"])
    world.ec2.terminate_instances(InstanceIds=[first["instance_id"]])
    after = world.replace()
    assert after["volume_id"] == first["volume_id"]
    assert "StopInstances" not in world.server.changes


def test_a_volume_that_would_go_with_the_instance_is_kept_before_anything_else(world):
    made = world.provision()
    deleted_with_the_instance(world, made)
    world.server.calls.clear()
    assert world.converge(state="absent")["changed"]
    assert world.server.changes[:2] == ["ModifyInstanceAttribute", "StopInstances"]
    assert [each["VolumeId"] for each in world.volumes()] == [made["volume_id"]]


def test_destroyed_the_volume_and_the_secrets_stay_and_come_back(world):
    made = world.provision()
    # Nothing that only a launch needs can keep it from being destroyed.
    assert not world.converge(state="absent", subnet="subnet-0", image="/no/such", volume_size=1)["instance_id"]
    left = world.shape()
    assert (left["instances"], left["ingress"]) == ([], [])
    assert left["volumes"] == [(made["volume_id"], "available", 50)]
    assert left["roles"] == ["hermes-atlas-snapshots"]
    assert left["parameters"] == ["/hermes/atlas/OPENROUTER_API_KEY"]
    assert not world.converge(state="absent")["changed"]
    assert world.converge()["volume_id"] == made["volume_id"]


def test_a_host_that_does_not_stop_is_switched_off_and_loses_the_volume(world, monkeypatch):
    """The last means, where AWS cannot stop an instance: its volume is taken away by force."""
    from ansible_collections.alwayson.hermes.plugins.module_utils.aws import account

    made = world.provision()
    asked, real = [], account.Account.__call__

    def hung(self, service, operation, **parameters):
        asked.append((operation, parameters.get("Force", False)))
        if operation == "stop_instances" or (operation == "detach_volume" and not parameters.get("Force")):
            return {}
        return real(self, service, operation, **parameters)

    monkeypatch.setattr(account.Account, "__call__", hung)
    after = world.converge(state="replacing", stop_timeout=0)
    forced = [each for each in asked if each[0] in ("stop_instances", "detach_volume", "attach_volume")]
    assert forced == [
        ("stop_instances", False),
        ("stop_instances", True),
        ("detach_volume", False),
        ("detach_volume", True),
        ("attach_volume", False),
    ]
    assert (after["volume_id"], after["instance_id"] == made["instance_id"]) == (made["volume_id"], False)


# --- refused ---------------------------------------------------------------------------------------------------


def no_volume(world):
    return r"no volume in eu-central-1 has the tag hermes:host=atlas\. Fix: for a new host"


def volume_gone_with_snapshots(world):
    volume = world.volume(**MINE)
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "hermes:host", "Value": "atlas"}]}]
    made = world.ec2.create_snapshot(VolumeId=volume, TagSpecifications=tags)
    world.ec2.delete_volume(VolumeId=volume)
    world.server.calls.clear()
    return rf"is gone, and has snapshots, the newest {made['SnapshotId']}"


def two_volumes(world):
    first, second = world.volume(**MINE), world.volume(zone="eu-central-1b", **MINE)
    return rf"2 volumes have the tag hermes:host=atlas: .*({first}|{second})"


def wrong_zone(world):
    volume = world.volume(zone="eu-central-1b", **MINE)
    return rf"data volume {volume}: is in eu-central-1b, and the subnet \S+ in eu-central-1a.*Fix: name a subnet of "


def attached_elsewhere(world):
    volume, other = world.volume(**MINE), world.launch()
    world.ec2.attach_volume(VolumeId=volume, InstanceId=other, Device="/dev/sdf")
    return rf"is attached to {other}, which is not an instance of this host"


def another_device(world):
    volume, mine = world.volume(**MINE), world.launch(**MINE)
    world.ec2.attach_volume(VolumeId=volume, InstanceId=mine, Device="/dev/sdz")
    return rf"is attached to {mine} as /dev/sdz, not as /dev/sdf"


def foreign_volume_on_the_device(world):
    world.volume(**MINE)
    foreign, mine = world.volume(), world.launch(**MINE)
    world.ec2.attach_volume(VolumeId=foreign, InstanceId=mine, Device="/dev/sdf")
    return rf"/dev/sdf of {mine} is {foreign}, another volume"


REFUSED = [
    no_volume,
    two_volumes,
    wrong_zone,
    attached_elsewhere,
    another_device,
    foreign_volume_on_the_device,
]


@pytest.mark.parametrize("goal", ["present", "replacing"])
@pytest.mark.parametrize("wrong", REFUSED, ids=lambda wrong: wrong.__name__)
def test_a_doubt_about_the_volume_ends_the_run_before_any_change(world, wrong, goal):
    said = wrong(world)
    world.server.calls.clear()
    with pytest.raises(OpsError, match=said):
        world.converge(state=goal)
    assert world.server.changes == []


def test_a_blank_volume_does_not_stand_in_for_one_that_has_snapshots(world):
    said = volume_gone_with_snapshots(world)
    with pytest.raises(OpsError, match=said):
        world.converge(create_volume=True)
    assert world.server.changes == []


def test_two_instances_are_refused(world):
    world.provision()
    other = world.launch(**MINE)
    with pytest.raises(OpsError, match=rf"2 instances have the tag .*{other}.*Fix: terminate the one"):
        world.converge()


def test_a_replacement_under_way_is_not_provisioned_over(world):
    world.provision()
    world.launch(**MINE, **{"hermes:replaces": "i-x"})
    with pytest.raises(OpsError, match="a replacement was interrupted: run aws_replace again"):
        world.converge()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subnet": ""}, "atlas: aws_subnet: is not declared. Fix: name a subnet"),
        ({"subnet": "subnet-0"}, "InvalidSubnetID.NotFound"),
        ({"image": "/no/such"}, "atlas: aws_image: /no/such: is not in the Parameter Store"),
        ({"secrets_path": ""}, "atlas: aws_secrets_path: is not a path"),
        ({"secrets_path": "/hermes/"}, "atlas: aws_secrets_path: is not a path"),
        ({"secrets": {"PIN": 4711}}, r"^atlas: aws_secrets: PIN: is not a text\. Fix: [^0-9]+$"),
        ({"secrets": {"EMPTY": ""}}, "atlas: aws_secrets: EMPTY: is empty"),
        ({"secrets": {"TWO WORDS": "x"}}, "atlas: aws_secrets: TWO WORDS: is not a name"),
        ({"host": "x" * 48}, "host x+: is not a name that AWS takes"),
    ],
)
def test_a_mistake_is_one_error_before_any_change(world, changes, said):
    with pytest.raises(OpsError, match=said):
        world.converge(create_volume=True, **changes)
    assert world.server.changes == []


def test_without_credentials_it_says_so(world, monkeypatch):
    from botocore.exceptions import NoCredentialsError

    def none(**_parameters):
        raise NoCredentialsError

    monkeypatch.setattr(world.ec2, "describe_volumes", none)
    with pytest.raises(OpsError, match=r"AWS: ec2 describe_volumes: Unable to locate credentials\. Fix: name cred"):
        world.converge()


def test_without_boto3_it_says_so(world, monkeypatch):
    from ansible_collections.alwayson.hermes.plugins.module_utils.aws import account

    monkeypatch.setattr(account, "boto3", None)
    with pytest.raises(OpsError, match=r"boto3 is not installed\. Fix: pip install boto3"):
        world.converge()
