# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An account at AWS as moto plays it, and a host in it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("moto", reason="SKIPPED, NOT PROVED: hosts on AWS, because moto is not installed")

import aws_server
import boto3
import botocore.loaders
from ansible_collections.alwayson.hermes.plugins.module_utils.aws import account
from ansible_collections.alwayson.hermes.plugins.modules import aws_host

REGION = "eu-central-1"
# One of Amazon's own, because moto knows these only.
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
# What no run may ever call.
NEVER = ("DeleteVolume", "DeleteSnapshot", "DeleteParameter", "DeleteParameters")


@pytest.fixture(scope="session")
def server() -> Iterator[aws_server.AwsServer]:
    started = aws_server.AwsServer()
    yield started
    started.stop()


@pytest.fixture(scope="session", autouse=True)
def descriptions_are_read_once() -> Iterator[None]:
    """Each session of boto3 reads what services understand, megabytes of JSON, which took most of these tests' time."""
    read = functools.cache(botocore.loaders.JSONFileLoader().load_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.loaders.JSONFileLoader, "load_file", lambda _self, path: read(path))
        yield


class Killed(BaseException):
    """Nothing of ours may take it for an error."""


@contextmanager
def killed_after(number: int) -> Iterator[None]:
    """Die when the *number*-th change has been made."""
    real, left = account.Account.__call__, [number]

    def call(self: account.Account, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        answer = real(self, service, operation, **parameters)
        if not re.match("describe|get|list", operation):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(account.Account, "__call__", call)
        yield


@dataclass
class World:
    """An account, and what is declared for the host atlas in it."""

    server: aws_server.AwsServer
    ec2: Any
    iam: Any
    ssm: Any
    subnets: dict[str, str]
    cloudwatch: Any
    rbin: Any
    # What a test declares for all of its runs.
    also: dict[str, Any] = field(default_factory=dict)

    @property
    def declared(self) -> dict[str, Any]:
        return {
            "host": "atlas",
            "state": "present",
            "region": REGION,
            "subnet": self.subnets[f"{REGION}a"],
            "instance_type": "t4g.xlarge",
            "image": IMAGE,
            "user_data": "#cloud-config\n",
            "root_size": 20,
            "public_address": True,
            "volume_size": 50,
            "create_volume": False,
            "secrets_path": "/hermes/atlas",
            "secrets": {"OPENROUTER_API_KEY": "sk-hidden"},
            "alarm_topic": "",
            "recycle_days": 0,
            "stop_timeout": 1,
            **self.also,
        }

    Killed = Killed

    def converge(self, *, check: bool = False, **changes: Any) -> dict[str, Any]:
        return aws_host.converge({**self.declared, **changes}, check=check)

    def provision(self) -> dict[str, Any]:
        """A host as the first run makes it; its calls are forgotten."""
        result = self.converge(create_volume=True)
        self.server.calls.clear()
        return result

    def replace(self) -> dict[str, Any]:
        result = self.converge(state="replacing")
        self.converge(state="replaced")
        return result

    def instances(self, *states: str) -> list[dict[str, Any]]:
        found = self.ec2.describe_instances()["Reservations"]
        return [
            each
            for reservation in found
            for each in reservation["Instances"]
            if each["State"]["Name"] in (states or ("pending", "running", "stopping", "stopped"))
        ]

    def volumes(self) -> list[dict[str, Any]]:
        """All data volumes of the account."""
        return [each for each in self.ec2.describe_volumes()["Volumes"] if each.get("Tags")]

    def alarms(self) -> list[dict[str, Any]]:
        return self.cloudwatch.describe_alarms()["MetricAlarms"]

    def mapping(self, instance: str) -> dict[str, Any]:
        """The data volume on *instance*, as the instance has it."""
        (found,) = (each for each in self.instances() if each["InstanceId"] == instance)
        return next(each["Ebs"] for each in found["BlockDeviceMappings"] if each["DeviceName"] == "/dev/sdf")

    def launch(self, **tags: str) -> str:
        """An instance that somebody else launched."""
        spec = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
        image = self.ssm.get_parameter(Name=IMAGE)["Parameter"]["Value"]
        started = self.ec2.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            SubnetId=self.declared["subnet"],
            TagSpecifications=spec if tags else [],
        )
        return started["Instances"][0]["InstanceId"]

    def volume(self, zone: str = f"{REGION}a", size: int = 50, **tags: str) -> str:
        """A volume that somebody else made."""
        spec = [{"ResourceType": "volume", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
        more = {"TagSpecifications": spec} if tags else {}
        made = self.ec2.create_volume(AvailabilityZone=zone, Size=size, Encrypted=True, **more)
        return made["VolumeId"]

    def interrupted_everywhere(self, begin: Callable[[], Any], run: Callable[[], Any]) -> Iterator[int]:
        """For each change of *run*, bring about the beginning, kill the run after that change, and run it again."""
        for number in range(1, 40):
            begin()
            self.server.calls.clear()
            try:
                with killed_after(number):
                    run()
            except Killed:
                run()
                yield number
            else:
                return

    def shape(self) -> dict[str, Any]:
        """All that the host consists of, without what differs from one instance to the next."""
        instances = self.instances()
        data = [
            each["Ebs"] for one in instances for each in one["BlockDeviceMappings"] if each["DeviceName"] == "/dev/sdf"
        ]
        groups = self.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["hermes-atlas"]}])
        roles = [each["RoleName"] for each in self.iam.list_roles()["Roles"]]
        parameters = self.ssm.get_parameters_by_path(Path="/hermes", Recursive=True)["Parameters"]
        return {
            "instances": [(each["State"]["Name"], each["MetadataOptions"]["HttpTokens"]) for each in instances],
            "tags": sorted(tag["Key"] for each in instances for tag in each["Tags"]),
            "profiles": [each["IamInstanceProfile"]["Arn"].rpartition("/")[2] for each in instances],
            "data": [(each["VolumeId"], each["DeleteOnTermination"]) for each in data],
            "volumes": sorted((each["VolumeId"], each["State"], each["Size"]) for each in self.volumes()),
            "ingress": [each["IpPermissions"] for each in groups["SecurityGroups"]],
            "roles": sorted(roles),
            "attached": {name: self.attached(name) for name in roles},
            "parameters": sorted(each["Name"] for each in parameters),
        }

    def attached(self, role: str) -> list[str]:
        found = self.iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        return sorted(each["PolicyName"] for each in found) + self.iam.list_role_policies(RoleName=role)["PolicyNames"]


@pytest.fixture(scope="session")
def clients(server: aws_server.AwsServer) -> dict[str, Any]:
    """boto3's clients, for the tests and the module alike: to make one takes most of a second."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        return {name: boto3.client(name, REGION) for name in ("ec2", "iam", "ssm", "dlm", "cloudwatch", "rbin")}


@pytest.fixture
def world(server, clients, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(account, "PAUSE", 0.01)
    monkeypatch.setattr(account.boto3.session.Session, "client", lambda _self, name, **_options: clients[name])
    server.reset()
    subnets = {each["AvailabilityZone"]: each["SubnetId"] for each in clients["ec2"].describe_subnets()["Subnets"]}
    server.calls.clear()
    yield World(server, clients["ec2"], clients["iam"], clients["ssm"], subnets, clients["cloudwatch"], clients["rbin"])
    assert set(server.calls) & set(NEVER) == set()
