# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What AWS has of a host: read once, in a dozen calls."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass, field, replace
from typing import Any

from ..hermes_ops.system.errors import OpsError
from .account import Account
from .declared import DEVICE, LAUNCH, REPLACES, Declared
from .watch import found_alarms, found_rules

# At most as many parameters may be asked for in one call.
_PARAMETERS = 10


@dataclass(frozen=True)
class Instance:
    """An instance of the host, also one that is gone: AWS shows it for an hour."""

    id: str
    state: str
    type: str
    image: str
    subnet: str
    tags: dict[str, str]
    groups: tuple[str, ...]
    profile: str
    metadata: dict[str, Any]
    # Device -> volume and whether that is deleted with the instance.
    devices: dict[str, tuple[str, bool]]

    @property
    def is_live(self) -> bool:
        return self.state not in ("shutting-down", "terminated")

    @property
    def is_successor(self) -> bool:
        return REPLACES in self.tags

    @property
    def data(self) -> tuple[str, bool] | None:
        return self.devices.get(DEVICE)

    def outdated(self, declared: Declared, image: str) -> list[str]:
        """What only a replacement can change."""
        pairs = {
            "instance type": (self.type, declared.instance_type),
            "image": (self.image, image),
            "subnet": (self.subnet, declared.subnet),
            "first boot": (self.tags.get(LAUNCH, "unknown"), declared.digest),
        }
        return [f"{what}: {now}, declared {then}" for what, (now, then) in pairs.items() if now != then]


@dataclass(frozen=True)
class Volume:
    id: str
    state: str
    zone: str
    size: int
    # Instance, device and state of each attachment.
    attachments: tuple[tuple[str, str, str], ...]

    def is_on(self, instance: str) -> bool:
        """Whether the volume is attached to *instance*, and stays so."""
        # AWS calls a volume busy that is to be detached and is still mounted.
        return any(each[0] == instance and each[2] not in ("detaching", "busy") for each in self.attachments)


@dataclass(frozen=True)
class Role:
    arn: str
    trust: dict[str, Any]
    attached: tuple[str, ...]
    # The role's own policy of its own name.
    policy: dict[str, Any] | None = None


@dataclass(frozen=True)
class Group:
    id: str
    vpc: str
    ingress: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class State:
    vpc: str = ""
    zone: str = ""
    # The declared image, found.
    image: str = ""
    instances: tuple[Instance, ...] = ()
    volumes: tuple[Volume, ...] = ()
    # Of the data volume; asked for only where there is no volume.
    snapshots: tuple[str, ...] = ()
    group: Group | None = None
    role: Role | None = None
    # The roles in the instance profile; None if there is no profile.
    profile: tuple[str, ...] | None = None
    snapshot_role: Role | None = None
    parameters: frozenset[str] = field(default_factory=frozenset)
    alarms: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Days by rule of the Recycle Bin, by type of resource.
    rules: dict[str, dict[str, int]] = field(default_factory=dict)
    # Instances that somebody protected, with the options of AWS' command line that take the protection off; asked for
    # only where instances have to go.
    protected: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def live(self) -> list[Instance]:
        return [instance for instance in self.instances if instance.is_live]


def read(account: Account, declared: Declared, *, ends: bool = False) -> State:
    """The host's state, from AWS.

    :param ends: whether instances may have to go
    :raises OpsError: when AWS cannot be asked, or when the declared subnet or image does not exist
    """
    volumes = tuple(_volumes(account, declared))
    on = read_ground(account, declared)
    return replace(
        on,
        volumes=volumes,
        snapshots=() if volumes else tuple(_snapshots(account, declared)),
        snapshot_role=_role(account, declared.snapshot_role, own=False),
        alarms=found_alarms(account, declared),
        rules=found_rules(account, declared),
        protected={each.id: _protection(account, each.id) for each in on.live if ends},
    )


def read_ground(account: Account, declared: Declared) -> State:
    """The instances, and what they stand on, without data volume."""
    profile, role = _profile(account, declared)
    vpc, zone = _network(account, declared) if declared.subnet else ("", "")
    parameters = _parameters(account, declared)
    image = declared.image
    if image.startswith("/"):
        if image not in parameters:
            raise OpsError(
                "is not in the Parameter Store of this region",
                where=f"{declared.host}: aws_image: {image}",
                fix="name an image (ami-…), or the path of a parameter that names one",
            )
        image = parameters[image]
    return State(
        vpc=vpc,
        zone=zone,
        image=image,
        instances=tuple(instances(account, declared)),
        group=_group(account, declared),
        role=role,
        profile=profile,
        parameters=frozenset(parameters),
    )


def _protection(account: Account, instance: str) -> tuple[str, ...]:
    """The protections against being stopped and terminated, as the options that take them off."""
    options = {"disableApiStop": "--no-disable-api-stop", "disableApiTermination": "--no-disable-api-termination"}
    found = []
    for attribute, option in options.items():
        answer = account("ec2", "describe_instance_attribute", InstanceId=instance, Attribute=attribute)
        if answer.get(attribute[0].upper() + attribute[1:], {}).get("Value"):
            found.append(option)
    return tuple(found)


def instances(account: Account, declared: Declared) -> list[Instance]:
    reservations = account.all("ec2", "describe_instances", "Reservations", Filters=declared.filter)
    return [_instance(each) for reservation in reservations for each in reservation["Instances"]]


def _instance(found: dict[str, Any]) -> Instance:
    mappings = {
        mapping["DeviceName"]: (mapping["Ebs"]["VolumeId"], bool(mapping["Ebs"].get("DeleteOnTermination")))
        for mapping in found.get("BlockDeviceMappings", [])
        if "Ebs" in mapping
    }
    return Instance(
        id=found["InstanceId"],
        state=found["State"]["Name"],
        type=found["InstanceType"],
        image=found["ImageId"],
        subnet=found.get("SubnetId", ""),
        tags={tag["Key"]: tag["Value"] for tag in found.get("Tags", [])},
        groups=tuple(group["GroupId"] for group in found.get("SecurityGroups", [])),
        profile=found.get("IamInstanceProfile", {}).get("Arn", "").rpartition("/")[2],
        metadata=dict(found.get("MetadataOptions", {})),
        devices=mappings,
    )


def _volumes(account: Account, declared: Declared) -> list[Volume]:
    return [
        volume_of(found)
        for found in account.all("ec2", "describe_volumes", "Volumes", Filters=declared.filter)
        if found["State"] not in ("deleting", "deleted")
    ]


def volume_of(found: dict[str, Any]) -> Volume:
    attachments = [(each["InstanceId"], each["Device"], each["State"]) for each in found.get("Attachments", [])]
    return Volume(
        id=found["VolumeId"],
        state=found["State"],
        zone=found["AvailabilityZone"],
        size=found["Size"],
        attachments=tuple(each for each in attachments if each[2] != "detached"),
    )


def _snapshots(account: Account, declared: Declared) -> list[str]:
    found = account.all("ec2", "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=declared.filter)
    return [each["SnapshotId"] for each in sorted(found, key=lambda each: str(each["StartTime"]), reverse=True)]


def _network(account: Account, declared: Declared) -> tuple[str, str]:
    (subnet,) = account("ec2", "describe_subnets", SubnetIds=[declared.subnet])["Subnets"]
    return subnet["VpcId"], subnet["AvailabilityZone"]


def _group(account: Account, declared: Declared) -> Group | None:
    filters = [*declared.filter, {"Name": "group-name", "Values": [declared.name]}]
    found = list(account.all("ec2", "describe_security_groups", "SecurityGroups", Filters=filters))
    if len(found) > 1:
        raise OpsError(
            f"there are two: {', '.join(each['GroupId'] for each in found)}",
            where=f"{declared.host}: security group {declared.name}",
            fix="delete the one that no instance uses",
        )
    return next((Group(each["GroupId"], each["VpcId"], tuple(each["IpPermissions"])) for each in found), None)


def _profile(account: Account, declared: Declared) -> tuple[tuple[str, ...] | None, Role | None]:
    found = account.maybe("iam", "get_instance_profile", InstanceProfileName=declared.name)
    roles = found["InstanceProfile"]["Roles"] if found else []
    known = next((role for role in roles if role["RoleName"] == declared.name), None)
    profile = tuple(role["RoleName"] for role in roles) if found else None
    return profile, _role(account, declared.name, own=True, known=known)


def _role(account: Account, name: str, *, own: bool, known: dict[str, Any] | None = None) -> Role | None:
    """The role *name*.

    :param own: whether it has a policy of its own, which has the same name
    :param known: the role as it was found elsewhere
    """
    if known is None:
        answer = account.maybe("iam", "get_role", RoleName=name)
        if answer is None:
            return None
        known = answer["Role"]
    attached = account("iam", "list_attached_role_policies", RoleName=name)["AttachedPolicies"]
    policy = account.maybe("iam", "get_role_policy", RoleName=name, PolicyName=name) if own else None
    return Role(
        arn=known["Arn"],
        trust=_document(known["AssumeRolePolicyDocument"]),
        attached=tuple(each["PolicyArn"] for each in attached),
        policy=_document(policy["PolicyDocument"]) if policy else None,
    )


def _document(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else json.loads(urllib.parse.unquote(found))


def _parameters(account: Account, declared: Declared) -> dict[str, str]:
    """Those of the declared parameters that exist. The values of secrets are not decrypted."""
    names = [declared.parameter(name) for name in declared.secrets]
    names += [declared.image] if declared.image.startswith("/") else []
    found: dict[str, str] = {}
    for start in range(0, len(names), _PARAMETERS):
        answer = account("ssm", "get_parameters", Names=names[start : start + _PARAMETERS], WithDecryption=False)
        found.update({each["Name"]: each["Value"] for each in answer["Parameters"]})
    return found
