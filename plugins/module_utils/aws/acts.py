# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a plan: each makes one change at AWS, and waits until it holds.

No step deletes a volume or a snapshot.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

from ..hermes_ops.system.errors import OpsError
from .account import PATIENCE, Account, Refusal, until
from .declared import DEVICE, LAUNCH, METADATA, REPLACES, Declared, trust
from .state import Instance, Role, State, Volume, instances, volume_of
from .watch import alarms, rule

# Refusals that pass: a new role, profile or group is not known everywhere yet.
_NO_ENTITY = ("NoSuchEntity",)
_NO_GROUND = ("Invalid IAM Instance Profile", "InvalidGroup.NotFound")


class Acts:
    """The steps for one host. What they make, later steps find here.

    :param stop_timeout: seconds for a clean shutdown, before the instance is switched off
    """

    def __init__(self, account: Account, declared: Declared, state: State, *, stop_timeout: int) -> None:
        self._account = account
        self._declared = declared
        self._state = state
        self._stop_timeout = stop_timeout
        self._group = state.group.id if state.group else ""
        self._volume = state.volumes[0].id if state.volumes else ""
        self._launched = ""

    def _tagged(self, kind: str, more: dict[str, str] | None = None) -> list[dict[str, Any]]:
        tags = [*self._declared.tags, *({"Key": key, "Value": value} for key, value in (more or {}).items())]
        return [{"ResourceType": kind, "Tags": tags}]

    # --- what an instance stands on ---

    def create_group(self, vpc: str) -> None:
        answer = self._account(
            "ec2",
            "create_security_group",
            GroupName=self._declared.name,
            Description="Nothing comes in: Tailscale and Session Manager both go out",
            VpcId=vpc,
            TagSpecifications=self._tagged("security-group"),
        )
        self._group = answer["GroupId"]

    def revoke(self, ingress: tuple[dict[str, Any], ...]) -> None:
        # An empty list of sources is no valid value for some of the keys.
        permissions = [{key: value for key, value in rule.items() if value != []} for rule in ingress]
        self._account("ec2", "revoke_security_group_ingress", GroupId=self._group, IpPermissions=permissions)

    def delete_group(self) -> None:
        """Delete the group, as soon as AWS has taken the network interface of the instance away."""
        self._account.insist(("DependencyViolation",), "ec2", "delete_security_group", GroupId=self._group)

    def create_role(self, name: str, service: str) -> None:
        tags = self._declared.tags
        policy = json.dumps(trust(service))
        self._account("iam", "create_role", RoleName=name, AssumeRolePolicyDocument=policy, Tags=tags)

    def trust(self, name: str, service: str) -> None:
        self._account("iam", "update_assume_role_policy", RoleName=name, PolicyDocument=json.dumps(trust(service)))

    def attach_policy(self, name: str, policy: str) -> None:
        self._account.insist(_NO_ENTITY, "iam", "attach_role_policy", RoleName=name, PolicyArn=policy)

    def put_own_policy(self) -> None:
        name, document = self._declared.name, json.dumps(self._declared.own_policy)
        names = {"RoleName": name, "PolicyName": name}
        self._account.insist(_NO_ENTITY, "iam", "put_role_policy", **names, PolicyDocument=document)

    def delete_role(self, role: Role) -> None:
        name = self._declared.name
        for policy in role.attached:
            self._account("iam", "detach_role_policy", RoleName=name, PolicyArn=policy)
        if role.policy is not None:
            self._account("iam", "delete_role_policy", RoleName=name, PolicyName=name)
        self._account("iam", "delete_role", RoleName=name)

    def create_profile(self) -> None:
        name = self._declared.name
        self._account("iam", "create_instance_profile", InstanceProfileName=name, Tags=self._declared.tags)
        self.fill_profile(())

    def fill_profile(self, roles: tuple[str, ...]) -> None:
        """Put the role in place of others: a profile has room for one."""
        self._empty_profile(roles)
        name = self._declared.name
        names = {"InstanceProfileName": name, "RoleName": name}
        self._account.insist(_NO_ENTITY, "iam", "add_role_to_instance_profile", **names)

    def delete_profile(self, roles: tuple[str, ...]) -> None:
        self._empty_profile(roles)
        self._account("iam", "delete_instance_profile", InstanceProfileName=self._declared.name)

    def _empty_profile(self, roles: tuple[str, ...]) -> None:
        name = self._declared.name
        for role in roles:
            self._account("iam", "remove_role_from_instance_profile", InstanceProfileName=name, RoleName=role)

    def seed(self, name: str) -> None:
        """Write a secret that is not there. A value that somebody wrote in the meantime stays."""
        try:
            self._account(
                "ssm",
                "put_parameter",
                Name=self._declared.parameter(name),
                Value=self._declared.secrets[name],
                Type="SecureString",
                Overwrite=False,
            )
        except Refusal as refusal:
            if refusal.code != "ParameterAlreadyExists":
                raise

    # --- what AWS does when something fails ---

    def put_alarm(self, name: str, instance: Instance | None) -> None:
        """Make or mend an alarm about *instance*, or about the one that was launched."""
        alarm = alarms(self._declared, instance.id if instance else self._launched)[name]
        self._account("cloudwatch", "put_metric_alarm", **alarm)

    def delete_alarms(self, names: list[str]) -> None:
        self._account("cloudwatch", "delete_alarms", AlarmNames=names)

    def put_rule(self, kind: str, days: int, known: str) -> None:
        """Make a rule of the Recycle Bin, or mend the one that is known."""
        wanted = rule(self._declared, kind, days)
        if known:
            self._account("rbin", "update_rule", Identifier=known, RetentionPeriod=wanted["RetentionPeriod"])
        else:
            self._account("rbin", "create_rule", **wanted)

    # --- the data volume ---

    def create_volume(self) -> None:
        answer = self._account(
            "ec2",
            "create_volume",
            AvailabilityZone=self._state.zone,
            Size=self._declared.volume_size,
            VolumeType="gp3",
            Encrypted=True,
            # A run that was killed before it read the answer gets the same volume from the next one.
            ClientToken=self._token("volume"),
            TagSpecifications=self._tagged("volume"),
        )
        self._volume = answer["VolumeId"]

    def grow_volume(self) -> None:
        size = self._declared.volume_size
        try:
            self._account("ec2", "modify_volume", VolumeId=self._volume, Size=size)
        except Refusal as refusal:
            # An interrupted run may have begun it; AWS refuses to be told twice.
            if refusal.code != "IncorrectModificationState":
                raise
        self._wait_for_volume(lambda volume: volume.size >= size, "has not grown")

    def attach(self, instance: Instance | None) -> None:
        """Attach the volume to *instance*, or to the one that was launched, and see that it outlives it."""
        target = instance.id if instance else self._launched
        self._wait_for_state(target, "running", PATIENCE)
        self._wait_for_volume(lambda volume: volume.state == "available", "is not free")
        self._account("ec2", "attach_volume", VolumeId=self._volume, InstanceId=target, Device=DEVICE)
        self._wait_for_volume(lambda volume: volume.attachments == ((target, DEVICE, "attached"),), "is not attached")
        self.keep(target)

    def keep(self, instance: str) -> None:
        """See that the volume is not deleted with the instance."""
        mapping = {"DeviceName": DEVICE, "Ebs": {"DeleteOnTermination": False}}
        # The instance may not show the volume yet that the volume says is attached.
        self._account.insist(
            ("InvalidInstanceAttributeValue",),
            "ec2",
            "modify_instance_attribute",
            InstanceId=instance,
            BlockDeviceMappings=[mapping],
        )

    def detach(self, instance: Instance) -> None:
        """Detach the volume from an instance that is stopped, or that AWS cannot stop.

        AWS lets no instance write to a volume that it has detached, so that two never do.
        """
        # An interrupted run may have begun it; AWS refuses to be told twice.
        if self._look().is_on(instance.id):
            self._account("ec2", "detach_volume", VolumeId=self._volume, InstanceId=instance.id)
        if not until(self._is_free, seconds=self._stop_timeout):
            self._account("ec2", "detach_volume", VolumeId=self._volume, InstanceId=instance.id, Force=True)
            self._wait_for_volume(lambda volume: volume.state == "available", "is not free")

    def _is_free(self) -> bool:
        return self._look().state == "available"

    def _look(self) -> Volume:
        answer = self._account.insist(("InvalidVolume.NotFound",), "ec2", "describe_volumes", VolumeIds=[self._volume])
        (found,) = answer["Volumes"]
        return volume_of(found)

    def _wait_for_volume(self, check: Callable[[Volume], bool], wrong: str) -> None:
        def done() -> bool:
            volume = self._look()
            return check(volume) or volume.state == "error"

        if not until(done, seconds=PATIENCE) or not check(self._look()):
            raise OpsError(
                f"{wrong} after up to {PATIENCE} s: {self._look()}",
                where=f"{self._declared.host}: data volume {self._volume}",
                fix="see what AWS says of it, and run the same command again",
            )

    # --- instances ---

    def launch(self, image: str, marker: dict[str, str]) -> None:
        """Launch an instance; the volume is attached later, by its id.

        :param marker: further tags
        """
        declared = self._declared
        network = {
            "DeviceIndex": 0,
            "SubnetId": declared.subnet,
            "Groups": [self._group],
            "AssociatePublicIpAddress": declared.public_address,
        }
        parameters = {
            "MinCount": 1,
            "MaxCount": 1,
            "ImageId": image,
            "InstanceType": declared.instance_type,
            "UserData": declared.user_data,
            "IamInstanceProfile": {"Name": declared.name},
            "MetadataOptions": METADATA,
            "NetworkInterfaces": [network],
            "BlockDeviceMappings": self._disks(image),
            "TagSpecifications": self._tagged("instance", {**marker, LAUNCH: declared.digest}),
            # A run that was killed before it read the answer gets the same instance from the next one.
            "ClientToken": self._token(f"{image} {declared.instance_type} {declared.digest} {marker}"),
        }
        answer = self._account.insist(_NO_GROUND, "ec2", "run_instances", **parameters)
        self._launched = answer["Instances"][0]["InstanceId"]

    def _disks(self, image: str) -> list[dict[str, Any]]:
        """The root disk: encrypted, and gone with the instance. Its name is the image's.

        An image of a host may bring further disks, such as a copy of an old data volume in the place of the real one.
        The instance gets none of them.
        """
        images = self._account("ec2", "describe_images", ImageIds=[image])["Images"]
        found = images[0] if images else {}
        name = found.get("RootDeviceName", "/dev/sda1")
        disk = {"VolumeSize": self._declared.root_size, "VolumeType": "gp3", "Encrypted": True}
        brought = [each["DeviceName"] for each in found.get("BlockDeviceMappings", []) if "Ebs" in each]
        return [
            {"DeviceName": name, "Ebs": {**disk, "DeleteOnTermination": True}},
            *({"DeviceName": device, "NoDevice": ""} for device in brought if device != name),
        ]

    def _token(self, what: str) -> str:
        """The same for the same step from the same state. AWS makes the same thing only once for it.

        AWS may remember a token for longer than it shows a terminated instance, which is about an hour. So a token
        holds for an hour.
        """
        known = sorted(each.id for each in self._state.instances)
        parts = [self._declared.host, what, str(int(time.time()) // 3600), *known]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def start(self, instance: Instance) -> None:
        # One that is being stopped cannot be started.
        self._wait_for_state(instance.id, "stopped", PATIENCE)
        # The shutdown may have been the first step of a replacement that somebody else runs at this moment.
        others = [
            each.id for each in instances(self._account, self._declared) if each.is_live and each.id != instance.id
        ]
        if others:
            raise OpsError(
                f"is not started: {', '.join(others)} was launched in the meantime",
                where=f"{self._declared.host}: instance {instance.id}",
                fix="wait until the replacement that is under way has ended, and run the same command again",
            )
        self._account("ec2", "start_instances", InstanceIds=[instance.id])

    def stop(self, instance: Instance) -> None:
        """Shut the instance down, as its power button would: systemd stops the agents and unmounts the volume.

        An instance that does not get there in time is switched off. If even that has no effect, it loses the volume
        nevertheless, see :meth:`detach`.
        """
        if instance.state == "pending":
            self._wait_for_state(instance.id, "running", PATIENCE)
        self._account("ec2", "stop_instances", InstanceIds=[instance.id])
        if not until(lambda: self._state_of(instance.id) == "stopped", seconds=self._stop_timeout):
            self._account("ec2", "stop_instances", InstanceIds=[instance.id], Force=True)
            until(lambda: self._state_of(instance.id) == "stopped", seconds=self._stop_timeout)

    def terminate(self, instance: Instance) -> None:
        self._account("ec2", "terminate_instances", InstanceIds=[instance.id])
        # A security group cannot be deleted before.
        self._wait_for_state(instance.id, "terminated", PATIENCE)

    def unmark(self, instance: Instance) -> None:
        self._account("ec2", "delete_tags", Resources=[instance.id], Tags=[{"Key": REPLACES}])

    def protect_metadata(self, instance: Instance) -> None:
        self._account("ec2", "modify_instance_metadata_options", InstanceId=instance.id, **METADATA)

    def join_group(self, instance: Instance) -> None:
        self._account("ec2", "modify_instance_attribute", InstanceId=instance.id, Groups=[self._group])

    def join_profile(self, instance: Instance) -> None:
        """Give the instance its profile, in place of another one."""
        name = {"Name": self._declared.name}
        filters = [{"Name": "instance-id", "Values": [instance.id]}, {"Name": "state", "Values": ["associated"]}]
        key = "IamInstanceProfileAssociations"
        found = self._account("ec2", "describe_iam_instance_profile_associations", Filters=filters)[key]
        if found:
            association = found[0]["AssociationId"]
            operation = "replace_iam_instance_profile_association"
            self._account("ec2", operation, AssociationId=association, IamInstanceProfile=name)
        else:
            self._account("ec2", "associate_iam_instance_profile", InstanceId=instance.id, IamInstanceProfile=name)

    def _state_of(self, instance: str) -> str:
        return next((each.state for each in instances(self._account, self._declared) if each.id == instance), "unknown")

    def _wait_for_state(self, instance: str, wanted: str, seconds: float) -> None:
        if not until(lambda: self._state_of(instance) == wanted, seconds=seconds):
            raise OpsError(
                f"is {self._state_of(instance)}, not {wanted}, after {seconds:.0f} s",
                where=f"{self._declared.host}: instance {instance}",
                fix="see what AWS says of it, and run the same command again",
            )
