# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared for a host on AWS, and the names and documents that follow from it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..hermes_ops.system.errors import OpsError

# The tag by which everything of a host is found: its value is the host's name.
TAG = "hermes:host"
# On an instance that takes over from another one, until it is well. Its value names the others.
REPLACES = "hermes:replaces"
# On an instance: the digest of what it was launched with and AWS does not tell.
LAUNCH = "hermes:launch"
# The data volume's name on the instance. The host sees an NVMe device, and knows it by the volume's id.
DEVICE = "/dev/sdf"

# IMDSv2 only, and no further than the host itself: a container would be one hop more.
METADATA = {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"}


@dataclass(frozen=True)
class Declared:
    """A host as its variables declare it; sizes are in GiB."""

    tag: ClassVar[str] = TAG

    host: str
    region: str
    partition: str
    subnet: str = ""
    instance_type: str = ""
    image: str = ""
    user_data: str = ""
    root_size: int = 0
    public_address: bool = True
    volume_size: int = 0
    create_volume: bool = False
    secrets_path: str = ""
    alarm_topic: str = ""
    recycle_days: int = 0
    # Not in the representation, which may be printed.
    secrets: dict[str, str] = field(default_factory=dict, repr=False)

    def check(self, *, needs_subnet: bool) -> None:
        """Refuse what AWS would refuse only after the first changes."""
        # A role's name has at most 64 characters, and the longest of ours is the host's with 17 more.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,46}", self.host):
            fix = "use at most 47 letters, digits and hyphens"
            raise OpsError("is not a name that AWS takes", where=f"host {self.host}", fix=fix)
        if needs_subnet and not self.subnet:
            raise OpsError("is not declared", where=f"{self.host}: aws_subnet", fix="name a subnet (subnet-…)")
        if self.alarm_topic and not self.alarm_topic.startswith(f"arn:{self.partition}:"):
            fix = f"name a topic of SNS by its ARN: arn:{self.partition}:sns:{self.region}:…"
            raise OpsError("is not an ARN", where=f"{self.host}: aws_alarm_topic: {self.alarm_topic}", fix=fix)
        if not 0 <= self.recycle_days <= 365:
            fix = "say 1 to 365 days, or 0 for no rule"
            raise OpsError("AWS does not take it", where=f"{self.host}: aws_recycle_days: {self.recycle_days}", fix=fix)
        if (self.secrets or self.secrets_path) and not re.fullmatch(r"(/[A-Za-z0-9_.-]+)+", self.secrets_path):
            fix = f"write one like /hermes/{self.host}, without a slash at its end"
            raise OpsError("is not a path of the Parameter Store", where=f"{self.host}: aws_secrets_path", fix=fix)
        for name, value in self.secrets.items():
            _check_secret(name, value, f"{self.host}: aws_secrets: {name}")

    @property
    def name(self) -> str:
        """Of the security group, the role and the instance profile."""
        return f"hermes-{self.host}"

    @property
    def snapshot_role(self) -> str:
        return f"{self.name}-snapshots"

    @property
    def tags(self) -> list[dict[str, str]]:
        return [{"Key": "Name", "Value": self.name}, {"Key": self.tag, "Value": self.host}]

    @property
    def filter(self) -> list[dict[str, Any]]:
        return [{"Name": f"tag:{self.tag}", "Values": [self.host]}]

    def parameter(self, name: str) -> str:
        """The path of a secret in the Parameter Store."""
        return f"{self.secrets_path}/{name}"

    def managed(self, policy: str) -> str:
        """The ARN of a policy of AWS' own."""
        return f"arn:{self.partition}:iam::aws:policy/{policy}"

    @property
    def digest(self) -> str:
        """Of all that an instance is launched with and that cannot be read back."""
        parts = [self.user_data, self.root_size, self.public_address]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def core_policy(self) -> str:
        """For Session Manager."""
        return self.managed("AmazonSSMManagedInstanceCore")

    @property
    def snapshot_policy(self) -> str:
        return self.managed("service-role/AWSDataLifecycleManagerServiceRole")

    @property
    def own_policy(self) -> dict[str, Any]:
        """What the host may do beside Session Manager: read its own secrets, and nobody else's.

        Whatever else the operator allows to it, it may not delete data volumes and their snapshots.

        AmazonSSMManagedInstanceCore allows ssm:GetParameter and ssm:GetParameters for every parameter of the account,
        which only a denial takes back. A key of AWS' own (alias/aws/ssm) needs no statement here.
        """
        base = f"arn:{self.partition}:ssm:{self.region}:*:parameter"
        own = [f"{base}{self.secrets_path}", f"{base}{self.secrets_path}/*"] if self.secrets_path else []
        # The agent of Session Manager may read what AWS itself publishes.
        deny = {
            "Sid": "NobodyElsesSecrets",
            "Effect": "Deny",
            "Action": ["ssm:GetParameter", "ssm:GetParameters", "ssm:GetParametersByPath", "ssm:GetParameterHistory"],
            "NotResource": [*own, f"{base}/aws/service/*"],
        }
        allow = {
            "Sid": "OwnSecrets",
            "Effect": "Allow",
            "Action": ["ssm:GetParameter", "ssm:GetParameters", "ssm:GetParametersByPath"],
            "Resource": own,
        }
        statements = [*([allow] if own else []), deny, *keep_data(self.partition)]
        return {"Version": "2012-10-17", "Statement": statements}


def _check_secret(name: Any, value: Any, where: str) -> None:
    """:raises OpsError: AWS would not take it as a parameter. boto3's own error quotes the value"""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", str(name)):
        raise OpsError("is not a name that AWS takes", where=where, fix="use letters, digits and _.-")
    if not isinstance(value, str):
        raise OpsError("is not a text", where=where, fix="put it in quotes")
    if not value:
        raise OpsError("is empty", where=where, fix="declare its value, or take it out")


def trust(service: str) -> dict[str, Any]:
    """The trust policy of a role that a service of AWS assumes."""
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return {"Version": "2012-10-17", "Statement": [statement]}


def keep_data(partition: str) -> list[dict[str, Any]]:
    """Statements that deny deleting data volumes and their snapshots, and taking off the tag that marks them."""
    disks = [f"arn:{partition}:ec2:*:*:{kind}/*" for kind in ("volume", "snapshot")]
    return [
        {
            "Sid": "KeepData",
            "Effect": "Deny",
            "Action": ["ec2:DeleteVolume", "ec2:DeleteSnapshot"],
            "Resource": "*",
            "Condition": {"Null": {f"aws:ResourceTag/{TAG}": "false"}},
        },
        {
            "Sid": "KeepTag",
            "Effect": "Deny",
            "Action": "ec2:DeleteTags",
            "Resource": disks,
            # Also where it is one of several tags.
            "Condition": {"ForAnyValue:StringEquals": {"aws:TagKeys": TAG}},
        },
        {
            "Sid": "KeepAllTags",
            "Effect": "Deny",
            "Action": "ec2:DeleteTags",
            "Resource": disks,
            # A call that names no tag deletes all of them.
            "Condition": {"Null": {"aws:TagKeys": "true"}},
        },
    ]


# China has the same names of services there.
EC2, DLM = "ec2.amazonaws.com", "dlm.amazonaws.com"
