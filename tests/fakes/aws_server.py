# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that behaves like AWS: moto, which keeps its state in memory, and what it lacks: Data Lifecycle Manager and
the Recycle Bin.

It keeps the names of all calls, so that a test can say which were made.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

# moto reads them when it is imported.
os.environ.setdefault("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")

import botocore.session
from botocore.validate import ParamValidator
from moto.cloudwatch.models import cloudwatch_backends
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import AmiBackend
from moto.ec2.models.elastic_block_store import Volume
from moto.ec2.models.instances import InstanceBackend
from moto.iam.models import iam_backends
from moto.moto_server import threaded_moto_server
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.ssm.models import ssm_backends

# Calls that only read.
READING = ("Describe", "Get", "List")


class DataLifecycleManager:
    """Answers as AWS does, with the shapes that botocore knows; fills in what AWS fills in."""

    def __init__(self) -> None:
        self._model = botocore.session.get_session().get_service_model("dlm")
        self.policies: dict[str, dict[str, Any]] = {}

    def __call__(self, method: str, path: str, body: bytes) -> tuple[str, int, dict[str, Any]]:
        """The operation, the status and the answer."""
        identity = urllib.parse.unquote(path.removeprefix("/policies").strip("/"))
        names = {"POST": "CreateLifecyclePolicy", "PATCH": "UpdateLifecyclePolicy", "DELETE": "DeleteLifecyclePolicy"}
        name = names.get(method) or ("GetLifecyclePolicy" if identity else "GetLifecyclePolicies")
        if identity and identity not in self.policies:
            return name, 404, {"Code": "ResourceNotFoundException", "Message": f"no policy {identity}"}
        given = json.loads(body) if body else {}
        shape = self._model.operation_model(name).input_shape
        wrong = ParamValidator().validate({**given, **({"PolicyId": identity} if identity else {})}, shape)
        wrong_text = wrong.generate_report() if wrong.has_errors() else self._wrong(given)
        if wrong_text:
            return name, 400, {"Code": "InvalidRequestException", "Message": wrong_text}
        return name, 200, getattr(self, f"_{method.lower()}")(identity, given)

    def _wrong(self, given: dict[str, Any]) -> str:
        """What botocore leaves to the service."""
        patterns = self._model.shape_for("Time").metadata["pattern"]
        if not re.fullmatch(
            self._model.shape_for("PolicyDescription").metadata["pattern"], given.get("Description", "x")
        ):
            return "Description does not match"
        for schedule in given.get("PolicyDetails", {}).get("Schedules", []):
            if not all(re.fullmatch(patterns, time) for time in schedule["CreateRule"].get("Times", [])):
                return "Times do not match"
        return ""

    def _post(self, _identity: str, given: dict[str, Any]) -> dict[str, Any]:
        identity = f"policy-{len(self.policies):017x}"
        self.policies[identity] = {"PolicyId": identity, **self._filled(given)}
        return {"PolicyId": identity}

    def _patch(self, identity: str, given: dict[str, Any]) -> dict[str, Any]:
        self.policies[identity].update(self._filled(given))
        return {}

    def _delete(self, identity: str, _given: dict[str, Any]) -> dict[str, Any]:
        del self.policies[identity]
        return {}

    def _get(self, identity: str, _given: dict[str, Any]) -> dict[str, Any]:
        if identity:
            return {"Policy": self.policies[identity]}
        keys = ("PolicyId", "Description", "State", "Tags")
        summaries = [{key: each[key] for key in keys if key in each} for each in self.policies.values()]
        return {"Policies": [{**each, "PolicyType": "EBS_SNAPSHOT_MANAGEMENT"} for each in summaries]}

    def _filled(self, given: dict[str, Any]) -> dict[str, Any]:
        given = json.loads(json.dumps(given))
        details = given.get("PolicyDetails", {})
        details.setdefault("ResourceLocations", ["CLOUD"])
        for schedule in details.get("Schedules", []):
            schedule["CreateRule"].setdefault("Location", "CLOUD")
            schedule.setdefault("TagsToAdd", [])
        return {**given, "DateModified": "2026-01-01T00:00:00Z"}


class RecycleBin:
    """Answers as AWS does, with the shapes that botocore knows."""

    def __init__(self) -> None:
        self._model = botocore.session.get_session().get_service_model("rbin")
        self.rules: dict[str, dict[str, Any]] = {}

    def __call__(self, method: str, path: str, body: bytes) -> tuple[str, int, dict[str, Any]]:
        """The operation, the status and the answer."""
        identity = path.removeprefix("/rules").strip("/") if path.startswith("/rules") else ""
        name = {"/list-rules": "ListRules", "/rules": "CreateRule"}.get(path, "UpdateRule")
        given = {**json.loads(body), **({"Identifier": identity} if identity else {})}
        operation = self._model.operation_model(name)
        wrong = ParamValidator().validate(given, operation.input_shape)
        days = given.get("RetentionPeriod", {}).get("RetentionPeriodValue", 1)
        kind = given.get("ResourceType") or self.rules.get(identity, {}).get("ResourceType")
        if wrong.has_errors() or operation.http["method"] != method:
            return name, 400, {"Code": "ValidationException", "Message": wrong.generate_report()}
        if not 1 <= days <= (7 if kind == "EBS_VOLUME" else 365):
            return name, 400, {"Code": "ValidationException", "Message": f"{days} days for {kind}"}
        if identity and identity not in self.rules:
            return name, 404, {"Code": "ResourceNotFoundException", "Message": f"no rule {identity}"}
        return name, operation.http["responseCode"], getattr(self, f"_{name}")(given)

    def _CreateRule(self, given: dict[str, Any]) -> dict[str, Any]:
        identity = f"{len(self.rules):011d}"
        self.rules[identity] = {"Identifier": identity, "Status": "available", "LockState": "unlocked", **given}
        return self.rules[identity]

    def _UpdateRule(self, given: dict[str, Any]) -> dict[str, Any]:
        self.rules[given["Identifier"]].update(given)
        return self.rules[given["Identifier"]]

    def _ListRules(self, given: dict[str, Any]) -> dict[str, Any]:
        """A page has one rule, so that whoever reads only the first page is found out."""
        found = [
            each
            for each in self.rules.values()
            if each["ResourceType"] == given["ResourceType"]
            and all(tag in each.get("ResourceTags", []) for tag in given.get("ResourceTags", []))
        ]
        start = int(given.get("NextToken", "0"))
        keys = ("Identifier", "Description", "RetentionPeriod", "LockState")
        page = [{key: each[key] for key in keys if key in each} for each in found[start : start + 1]]
        return {"Rules": page, **({"NextToken": str(start + 1)} if start + 1 < len(found) else {})}


def run_instances(backend: InstanceBackend, *arguments: Any, **options: Any) -> Any:
    """moto forgets the security groups of an instance that names them with its network interface."""
    reservation = _run_instances(backend, *arguments, **options)
    for instance in reservation.instances:
        instance.security_groups = instance.security_groups or list(instance.nics[0].group_set)
    return reservation


def make_volume(volume: Volume, *arguments: Any, **options: Any) -> None:
    """moto leaves out of DescribeVolumes what is not set; AWS does not, and amazon.aws relies on that."""
    _make_volume(volume, *arguments, **options)
    volume.snapshot_id = volume.snapshot_id or ""
    volume.multi_attach_enabled = bool(volume.multi_attach_enabled)


def create_image(
    backend: AmiBackend, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
) -> Any:
    """moto tags no snapshot with an image, and takes a name twice; AWS does not."""
    if name in [image.name for image in backend.amis.values()]:
        raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use")
    tags = [each for each in tag_specifications if each["ResourceType"] == "image"]
    return _create_image(backend, instance_id, name, description, tags)


_create_image = AmiBackend.create_image
_run_instances = InstanceBackend.run_instances
_make_volume = Volume.__init__


class AwsServer:
    """moto and what it lacks behind one address; all calls, in :attr:`calls`."""

    def __init__(self) -> None:
        Volume.__init__ = make_volume
        InstanceBackend.run_instances = run_instances
        AmiBackend.create_image = create_image
        # moto's server reports each request on the terminal.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.calls: list[str] = []
        # So many calls are refused, because there were too many of them.
        self.throttled = 0
        self.snapshots = DataLifecycleManager()
        self.bin = RecycleBin()
        make = threaded_moto_server.DomainDispatcherApplication
        threaded_moto_server.DomainDispatcherApplication = lambda *arguments: self._watched(make(*arguments))
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        try:
            self._server.start()
        finally:
            threaded_moto_server.DomainDispatcherApplication = make
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which boto3 asks this server, and no other."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }

    @property
    def changes(self) -> list[str]:
        return [call for call in self.calls if not call.startswith(READING)]

    def reset(self) -> None:
        """Forget what was made. moto's own reset also makes its network and images again, which takes a second."""
        self.calls.clear()
        self.snapshots.policies.clear()
        self.bin.rules.clear()
        for cloudwatch in cloudwatch_backends[ACCOUNT].values():
            cloudwatch.alarms.clear()
        for ec2 in ec2_backends[ACCOUNT].values():
            for made in (ec2.reservations, ec2.volumes, ec2.snapshots, ec2.tags, ec2.iam_instance_profile_associations):
                made.clear()
            for identity in [each.id for each in ec2.amis.values() if each.name.startswith("hermes-")]:
                del ec2.amis[identity]
            for groups in ec2.groups.values():
                for identity in [each.id for each in groups.values() if each.name != "default"]:
                    del groups[identity]
        iam = iam_backends[ACCOUNT]["aws"]
        iam.roles.clear()
        iam.instance_profiles.clear()
        for ssm in ssm_backends[ACCOUNT].values():
            for name in [name for name in ssm._parameters if name.startswith("/hermes")]:
                del ssm._parameters[name]

    def stop(self) -> None:
        self._server.stop()

    def _watched(self, application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        stubs = {"/policies": self.snapshots, "/rules": self.bin, "/list-rules": self.bin}

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
            path = environ["PATH_INFO"]
            stub = next((stub for start, stub in stubs.items() if path.startswith(start)), None)
            if stub:
                name, status, content = stub(environ["REQUEST_METHOD"], path, body)
                self.calls.append(name)
                headers = [("Content-Type", "application/json"), ("x-amzn-ErrorType", content.get("Code", ""))]
                start_response(f"{status} {'OK' if status < 300 else 'Wrong'}", headers)
                return [json.dumps(content).encode()]
            if not path.startswith("/moto-api"):
                target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
                action = dict(urllib.parse.parse_qsl(body.decode("latin-1"))).get("Action", "")
                # CloudWatch is asked by paths that end in the operation.
                self.calls.append(target or action or path.rpartition("/")[2])
            if self.throttled:
                self.throttled -= 1
                start_response("503 Slow down", [("Content-Type", "text/xml")])
                error = "<Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded.</Message></Error>"
                return [f"<Response><Errors>{error}</Errors><RequestID>0</RequestID></Response>".encode()]
            return application(environ, start_response)

        return answer
