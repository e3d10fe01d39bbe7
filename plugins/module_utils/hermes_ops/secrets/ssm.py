# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""AWS' parameter store, asked with the rights of the instance, by the standard library alone.

The metadata service (IMDSv2) hands out credentials, requests are signed with them (Signature Version 4), and
``GetParametersByPath`` returns ten parameters a page.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..description.agent import Source
from ..system.errors import OpsError
from ..system.text import brief, printable
from . import values

# Seconds for one answer. The metadata service is next door.
TIMEOUT, METADATA_TIMEOUT = 10.0, 2.0
# Seconds after which no further page of a path is asked for: the sources of all agents are waited for.
PATIENCE = 60.0
METADATA = "http://169.254.169.254"
# Bytes of an answer: ten parameters of 8 KiB, each character as an escape of JSON.
_LARGEST = 2**20
# Pages that are read. AWS may return pages with fewer parameters than it was asked for, and empty ones.
_PAGES = 100
_SERVICE = "ssm"
_TARGET = "AmazonSSM.GetParametersByPath"
_ROLE = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
_REGION = re.compile(r"[a-z0-9-]{4,32}")
# The domains of AWS for regions whose names begin so (botocore 1.44.5, endpoints.json). All others: amazonaws.com.
_DOMAINS = {
    "cn": "amazonaws.com.cn",
    "eusc-de": "amazonaws.eu",
    "eu-isoe": "cloud.adc-e.uk",
    "us-iso": "c2s.ic.gov",
    "us-isob": "sc2s.sgov.gov",
    "us-isof": "csp.hci.ic.gov",
}
_NO_ROLE = "give the instance a profile that may read the path, and require IMDSv2"


@dataclass(frozen=True)
class Credentials:
    """Temporary credentials of AWS."""

    key_id: str
    secret: str = field(repr=False)
    token: str = field(repr=False)


def signed(url: str, body: bytes, region: str, credentials: Credentials, now: float) -> dict[str, str]:
    """The headers of a POST of *body* to *url*, signed (Signature Version 4).

    :param now: seconds since 1970
    """
    parts = urllib.parse.urlsplit(url)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": parts.netloc,
        "x-amz-date": stamp,
        "x-amz-security-token": credentials.token,
        "x-amz-target": _TARGET,
    }
    names = ";".join(headers)
    canonical = ["POST", "/", "", *(f"{name}:{value}" for name, value in headers.items()), "", names, _sha256(body)]
    scope = f"{stamp[:8]}/{region}/{_SERVICE}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, _sha256("\n".join(canonical).encode())])
    key = f"AWS4{credentials.secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    by = f"Credential={credentials.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "authorization": f"AWS4-HMAC-SHA256 {by}"}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_ONE_AT_A_TIME = threading.Lock()


@cache
def _trusted() -> ssl.SSLContext:
    """The host's certificate authorities: reading them takes longer than a request."""
    return ssl.create_default_context()


class Server:
    """A server that answers HTTP. Requests share a connection; if the server closes it, the next one opens another.

    Nothing is redirected, and no proxy is used.

    :param timeout: seconds for one answer
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urllib.parse.urlsplit(url)
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._timeout = timeout
        host = parts.hostname or ""
        if parts.scheme == "https":
            with _ONE_AT_A_TIME:
                context = _trusted()
            self._connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, parts.port, timeout=timeout)

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of the answer.

        :raises OpsError: there is no answer, or too long a one
        """
        fix = "see what answers at that address"
        late = OpsError(f"gives no whole answer in {self._timeout:g} s", where=self.url, fix=fix)
        over = threading.Event()
        content = bytearray()
        whole = False
        try:
            if self._connection.sock is None:
                self._connection.connect()
            # The time-out of a socket is for each part: whoever sends a byte now and then must not hold us.
            watch = threading.Timer(self._timeout, _cut, [self._connection.sock, over])
            watch.start()
            try:
                self._connection.request(method, path, body=body, headers=dict(headers))
                with self._connection.getresponse() as answer:
                    while part := answer.read1(65536):
                        content += part
                        if len(content) > _LARGEST:
                            raise OpsError("answers without an end", where=self.url, fix=fix)
                    status = answer.status
            finally:
                watch.cancel()
            # What was cut may look whole.
            if over.is_set():
                raise late
            whole = True
            return status, bytes(content)
        except (OSError, http.client.HTTPException) as error:
            if over.is_set():
                raise late from None
            reason = brief(str(getattr(error, "strerror", None) or error or type(error).__name__), 200)
            raise OpsError(f"cannot be reached ({reason})", where=self.url, fix="see the network") from None
        finally:
            if not whole:
                self.close()

    def close(self) -> None:
        self._connection.close()


def _cut(connection: socket.socket, over: threading.Event) -> None:
    over.set()
    with contextlib.suppress(OSError):
        # Below TLS, which another thread is reading.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class Instance:
    """What the metadata service says of this instance. Each is asked once, for all agents of a run, by any thread."""

    def __init__(self, url: str = METADATA) -> None:
        self._url = url
        self._lock = threading.RLock()
        self._token = ""
        self._credentials: Credentials | None = None
        self._region = ""
        self._away: OpsError | None = None

    @property
    def credentials(self) -> Credentials:
        """:raises OpsError: there is no metadata service, or the instance has no role"""
        with self._lock:
            if self._credentials is None:
                self._credentials = self._ask_for_credentials()
            return self._credentials

    @property
    def region(self) -> str:
        """:raises OpsError: there is no metadata service"""
        with self._lock:
            if not self._region:
                region = self._get("placement/region").strip()
                if not _REGION.fullmatch(region):
                    raise OpsError("names no region", where=self._url, fix="declare secrets_from.region")
                self._region = region
            return self._region

    def _ask_for_credentials(self) -> Credentials:
        role = self._get("iam/security-credentials/").strip()
        if not _ROLE.fullmatch(role):
            raise OpsError("the instance has no role", where=self._url, fix=_NO_ROLE)
        said = _object(self._get(f"iam/security-credentials/{role}"), self._url)
        texts = [said.get(name) for name in ("AccessKeyId", "SecretAccessKey", "Token")]
        if not all(isinstance(text, str) and text.isascii() and text.isprintable() and text for text in texts):
            raise OpsError("hands out no credentials", where=self._url, fix=_NO_ROLE)
        return Credentials(*map(str, texts))

    def _get(self, path: str) -> str:
        if not self._token:
            # Long enough for one run.
            ask = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
            self._token = self._ask("PUT", "/latest/api/token", ask).strip()
        return self._ask("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        if self._away:
            # Agents ask one after the other: the first one's time-out has to do for all.
            raise self._away
        try:
            with contextlib.closing(Server(self._url, METADATA_TIMEOUT)) as server:
                status, body = server.ask(method, path, headers)
        except OpsError as error:
            self._away = error
            raise
        if status != 200:
            raise OpsError(f"answers {method} {path} with status {status}", where=self._url, fix=_NO_ROLE)
        return body.decode("utf-8", "replace")


def read(source: Source, instance: Instance) -> dict[str, str]:
    """The parameters directly below ``source.ssm``, decrypted, by the last part of their names.

    :raises OpsError: they cannot be read, or are no secrets
    """
    top = str(source.ssm)
    where = f"ssm {top}"
    region = source.region or instance.region
    asked: dict[str, Any] = {"Path": top, "Recursive": False, "WithDecryption": True, "MaxResults": 10}
    found: list[tuple[str, str]] = []
    deadline = time.monotonic() + PATIENCE
    with contextlib.closing(Server(source.endpoint or _endpoint(region), TIMEOUT)) as store:
        for _page in range(_PAGES):
            if time.monotonic() > deadline:
                raise OpsError(f"gives no whole answer in {PATIENCE:g} s", where=where, fix="see the endpoint")
            said = _call(store, asked, region, instance.credentials, where)
            for parameter in said.get("Parameters") or []:
                name, value = parameter.get("Name"), parameter.get("Value")
                if not isinstance(name, str) or not isinstance(value, str):
                    raise OpsError("answers with something else than parameters", where=where, fix="see the endpoint")
                found.append((name.rpartition("/")[2], value))
            if len(found) > values.MOST:
                raise OpsError(f"holds more than {values.MOST} parameters", where=where, fix="name a path with fewer")
            if not said.get("NextToken"):
                return values.check(found, where)
            asked["NextToken"] = said["NextToken"]
    raise OpsError(f"answers with more than {_PAGES} pages", where=where, fix="see the endpoint")


def _endpoint(region: str) -> str:
    area = region.rsplit("-", 2)[0]
    return f"https://ssm.{region}.{_DOMAINS.get(area, 'amazonaws.com')}"


def _call(store: Server, asked: Mapping[str, Any], region: str, credentials: Credentials, where: str) -> dict[str, Any]:
    body = json.dumps(asked).encode()
    headers = signed(store.url, body, region, credentials, time.time())
    # http.client writes this one itself.
    del headers["host"]
    status, answer = store.ask("POST", "/", headers, body)
    if status == 200:
        return _object(answer.decode("utf-8", "replace"), where)
    try:
        said = _object(answer.decode("utf-8", "replace"), where)
    except OpsError:
        said = {}
    # "com.amazonaws.ssm#AccessDeniedException"
    kind = str(said.get("__type", "")).rpartition("#")[2] or f"status {status}"
    reason = said.get("message", said.get("Message", ""))
    what = brief(printable(f"answers with {kind}{f' ({reason})' if reason else ''}"), 300)
    raise OpsError(
        what, where=where, fix=_FIXES.get(kind, "see whether AWS works, and what the instance's role may do")
    )


_FIXES = {
    "AccessDeniedException": "allow the role ssm:GetParametersByPath on the path, and kms:Decrypt on its key",
    "ExpiredTokenException": "wait: the next run asks for new credentials; see timedatectl if it lasts",
    "InvalidSignatureException": "set the clock: timedatectl",
    "ThrottlingException": "wait: the next run asks again; raise secrets_interval if it lasts",
    "UnrecognizedClientException": "see the instance's role, and secrets_from.region",
}


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise OpsError("answers with something else than JSON", where=where, fix="see what answers at that address")
    return said
