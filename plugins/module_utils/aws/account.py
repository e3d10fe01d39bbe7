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
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError:
    boto3 = None

# Seconds between two looks while waiting.
PAUSE = 3.0
# Answers that mean: there is none.
ABSENT = ("NoSuchEntity", "ParameterNotFound", "InvalidGroup.NotFound", "ResourceNotFoundException")


class Account:
    """boto3's clients for one region, made when they are needed."""

    def __init__(self, region: str) -> None:
        if boto3 is None:
            raise OpsError("boto3 is not installed", where="controller", fix="pip install boto3, for Ansible's Python")
        self.region = region
        self._session = boto3.session.Session(region_name=region)
        self._clients: dict[str, Any] = {}

    @property
    def partition(self) -> str:
        """The first part of each ARN: aws, aws-cn or aws-us-gov."""
        return self._session.get_partition_for_region(self.region)

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
        response = getattr(error, "response", {}).get("Error", {})
        self.code = response.get("Code", "")
        reason = f"{self.code}: {response.get('Message', '')}" if response else str(error)
        fix = "name credentials that AWS accepts, with AWS_PROFILE or as boto3 finds them, and see that they allow this"
        # Not a fault of the credentials: AWS' own words say what is.
        if response and not self.code.startswith(("Auth", "Unauthorized", "AccessDenied", "InvalidClientToken")):
            fix = "correct what AWS names, and run the same command again; it goes on where this one ended"
        super().__init__(reason.rstrip("."), where=f"AWS: {service} {operation}", fix=fix)


def until(check: Callable[[], Any], *, seconds: float) -> bool:
    """Whether *check* came true within *seconds*."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(PAUSE)
    return True
