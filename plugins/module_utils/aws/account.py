# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls to AWS in one region, and the waiting for what they bring about."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from ..hermes_ops.system.errors import OpsError

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, UnknownRegionError
except ImportError:
    boto3 = None

# Seconds between two looks while waiting.
PAUSE = 3.0
# Seconds that AWS may take for what takes it some seconds.
PATIENCE = 300
# Answers that mean: there is none.
ABSENT = ("NoSuchEntity", "ParameterNotFound", "InvalidGroup.NotFound", "ResourceNotFoundException")
# The beginnings of answers that mean: the credentials are known, and do not allow this.
_DENIED = ("UnauthorizedOperation", "AccessDenied", "AuthorizationError")
# The beginnings of answers that mean: the credentials are unknown, wrong, or no longer valid.
_UNKNOWN = (
    "Auth",
    "InvalidClientToken",
    "UnrecognizedClient",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "RequestExpired",
)
# Errors of botocore, and those derived from them, that mean: no credentials, or none that can be had. Not every version
# has all of them.
_WITHOUT_CREDENTIALS = {
    "CredentialRetrievalError",
    "InvalidConfigError",
    "LoginError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "RefreshWithMFAUnsupportedError",
    "SSOError",
    "TokenRetrievalError",
}
# Likewise: AWS cannot be reached, or does not answer.
_WITHOUT_ANSWER = {"ConnectionError", "HTTPClientError"}
# What AWS asks for beside the action of the operation's own name: to tag what is made, and to hand a role on.
_FURTHER = {
    "run_instances": ("ec2:CreateTags", "iam:PassRole"),
    "create_volume": ("ec2:CreateTags",),
    "create_image": ("ec2:CreateTags",),
    "create_security_group": ("ec2:CreateTags",),
    "create_role": ("iam:TagRole",),
    "create_instance_profile": ("iam:TagInstanceProfile",),
    "add_role_to_instance_profile": ("iam:PassRole",),
    "associate_iam_instance_profile": ("iam:PassRole",),
    "replace_iam_instance_profile_association": ("iam:PassRole",),
    "put_metric_alarm": ("iam:CreateServiceLinkedRole",),
    "create_lifecycle_policy": ("dlm:TagResource", "iam:PassRole"),
    "update_lifecycle_policy": ("iam:PassRole",),
}


class Account:
    """boto3's clients for one region, made when they are needed."""

    def __init__(self, region: str) -> None:
        if boto3 is None:
            raise OpsError("boto3 is not installed", where="controller", fix="pip install boto3, for Ansible's Python")
        self.region = region
        self._clients: dict[str, Any] = {}
        try:
            self._session = boto3.session.Session(region_name=region)
            # The first part of each ARN: aws, aws-cn or aws-us-gov.
            self.partition = self._session.get_partition_for_region(region)
        except UnknownRegionError:
            fix = "name a region, such as eu-central-1"
            raise OpsError("is no region of AWS", where=f"aws_region: {region}", fix=fix) from None
        except BotoCoreError as error:
            # AWS_PROFILE names a profile that does not exist.
            raise OpsError(str(error), where="controller: credentials for AWS", fix="correct AWS_PROFILE") from None

    def __call__(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """The answer of one call.

        :param operation: in boto3's spelling, such as ``describe_instances``
        """
        try:
            if service not in self._clients:
                config = Config(retries={"mode": "standard", "total_max_attempts": 6})
                self._clients[service] = self._session.client(service, config=config)
            return getattr(self._clients[service], operation)(**parameters)
        except (BotoCoreError, ClientError) as error:
            raise Refusal(service, operation, error) from None

    def maybe(self, service: str, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """The answer of one call; None if what it asks about does not exist."""
        try:
            return self(service, operation, **parameters)
        except Refusal as refusal:
            if refusal.code in ABSENT:
                return None
            raise

    def insist(self, refused: tuple[str, ...], service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """The answer of one call, made again for as long as AWS refuses it for a reason that passes.

        What was just made is known to all of AWS only after some seconds. A call that names it is refused until then.

        :param refused: the codes of these refusals, or parts of their messages
        """
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self(service, operation, **parameters)
            except Refusal as refusal:
                if time.monotonic() > end or not any(part in str(refusal) for part in refused):
                    raise
            time.sleep(PAUSE)

    def all(self, service: str, operation: str, key: str, **parameters: Any) -> Iterator[Any]:
        """The entries below *key* of all pages."""
        token: dict[str, str] = {}
        while True:
            answer = self(service, operation, **parameters, **token)
            yield from answer[key]
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}


class Refusal(OpsError):
    """AWS refused a call, or could not be asked."""

    def __init__(self, service: str, operation: str, error: Exception) -> None:
        response = error.response.get("Error", {}) if isinstance(error, ClientError) else {}
        self.code = response.get("Code", "")
        reason = f"{self.code}: {response.get('Message', '')}" if response else str(error)
        kinds = {each.__name__ for each in type(error).__mro__}
        # AWS' own words say what is wrong.
        fix = "correct what AWS names, and run the same command again; it goes on where this one ended"
        if self.code.startswith(_DENIED):
            actions = (_action(service, operation), *_FURTHER.get(operation, ()))
            fix = f"allow {', '.join(actions)} to these credentials, and run the same command again"
        elif kinds & _WITHOUT_CREDENTIALS or self.code.startswith(_UNKNOWN):
            fix = "name credentials that AWS accepts, with AWS_PROFILE or as boto3 finds them"
        elif kinds & _WITHOUT_ANSWER:
            fix = "see that aws_region names a region, and that this machine reaches it; run the same command again"
        super().__init__(reason.rstrip("."), where=f"AWS: {service} {operation}", fix=fix)


def _action(service: str, operation: str) -> str:
    """What a policy of IAM calls an operation."""
    return f"{service}:{''.join(word.capitalize() for word in operation.split('_'))}"


def until(check: Callable[[], Any], *, seconds: float = PATIENCE) -> bool:
    """Whether *check* came true within *seconds*."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(PAUSE)
    return True
