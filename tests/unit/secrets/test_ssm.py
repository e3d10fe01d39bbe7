# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of AWS' parameter store, compared with botocore's signatures and run against moto's server."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import botocore.auth
import botocore.loaders
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Source
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets import ssm, values
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

TOP = "/hermes/test/work"
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(
    body=st.binary(max_size=200),
    host=st.sampled_from(["ssm.eu-west-1.amazonaws.com", "127.0.0.1:5000", "vpce-1.ssm.eu-west-1.vpce.amazonaws.com"]),
    region=st.sampled_from(["eu-west-1", "us-gov-west-1", "cn-north-1"]),
    words=st.tuples(WORDS, WORDS, WORDS),
    now=st.integers(0, 4_000_000_000),
)
def test_a_request_is_signed_as_botocore_signs_it(body, host, region, words, now):
    url = f"https://{host}/"
    ours = ssm.signed(url, body, region, ssm.Credentials(*words), now)
    headers = {name: ours[name] for name in ("content-type", "x-amz-target")}
    theirs = AWSRequest("POST", url, data=body, headers=headers)
    signer = botocore.auth.SigV4Auth(Credentials(*words), "ssm", region)
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: moment.replace(tzinfo=None))
        signer.add_auth(theirs)
    signed = {name.lower(): str(value) for name, value in theirs.headers.items()}
    assert {name: value for name, value in ours.items() if name != "host"} == signed


class FakeInstance(ssm.Instance):
    credentials = ssm.Credentials("ASIAEXAMPLE", "secret", "token")
    region = "eu-west-1"


@pytest.fixture(scope="module")
def moto() -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _host, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    yield endpoint, boto3.client("ssm", region_name="eu-west-1", endpoint_url=endpoint, **keys)
    server.stop()


def test_motos_store_is_read_page_by_page_and_after_a_change(moto):
    endpoint, client = moto
    wanted = {f"NAME_{number}": f'value "{number}" é\n' for number in range(23)}
    for name, value in wanted.items():
        client.put_parameter(Name=f"{TOP}/{name}", Value=value, Type="SecureString")
    # Those of others are not read.
    client.put_parameter(Name=f"{TOP}/below/OTHER", Value="x", Type="SecureString")
    client.put_parameter(Name=f"{TOP}er/OTHER", Value="x", Type="SecureString")
    source = Source(ssm=TOP, endpoint=endpoint)
    assert ssm.read(source, FakeInstance()) == wanted
    client.put_parameter(Name=f"{TOP}/NAME_7", Value="changed", Type="SecureString", Overwrite=True)
    assert ssm.read(source, FakeInstance()) == {**wanted, "NAME_7": "changed"}


def test_an_empty_path_is_an_error(moto):
    with pytest.raises(OpsError, match="gives no secrets"):
        ssm.read(Source(ssm="/nothing/here", endpoint=moto[0]), FakeInstance())


class Scripted(ThreadingHTTPServer):
    """Answers by a table: (method, path) -> status and body, or a function that returns them."""

    daemon_threads = True

    def __init__(self, table: dict[tuple[str, str], Any]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.server.seen.append((self.command, self.path, dict(self.headers), body))
                answer = self.server.table.get((self.command, self.path), (404, b""))
                status, data = answer(body) if callable(answer) else answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_PUT = do_POST = do_GET

        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Any] = []
        self.table = dict(table)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def scripted() -> Iterator[Any]:
    servers = []

    def make(table: dict[tuple[str, str], Any]) -> Scripted:
        servers.append(Scripted(table))
        return servers[-1]

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


ROLE = "/latest/meta-data/iam/security-credentials/"
HANDED_OUT = {"AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t", "Expiration": "2026-11-22T00:00:00Z"}
METADATA = {
    ("PUT", "/latest/api/token"): (200, b"the-token"),
    ("GET", ROLE): (200, b"hermes"),
    ("GET", f"{ROLE}hermes"): (200, json.dumps(HANDED_OUT).encode()),
    ("GET", "/latest/meta-data/placement/region"): (200, b"eu-west-1"),
}


def test_the_metadata_service_is_asked_once_with_a_token(scripted):
    server = scripted(METADATA)
    instance = ssm.Instance(server.url)
    for _each in range(2):
        assert (instance.region, instance.credentials) == ("eu-west-1", ssm.Credentials("ASIA", "s", "t"))
    assert [path for _method, path, _headers, _body in server.seen] == [
        *[path for _method, path in METADATA][:1],
        "/latest/meta-data/placement/region",
        ROLE,
        f"{ROLE}hermes",
    ]
    assert all(headers["X-aws-ec2-metadata-token"] == "the-token" for _m, _p, headers, _b in server.seen[1:])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({("PUT", "/latest/api/token"): (403, b"")}, "with status 403"),
        ({("GET", ROLE): (404, b"")}, "with status 404"),
        ({("GET", ROLE): (200, b"<html>\r\nx")}, "has no role"),
        ({("GET", f"{ROLE}hermes"): (200, b"no JSON")}, "something else than JSON"),
        ({("GET", f"{ROLE}hermes"): (200, b'{"Code": "Failed"}')}, "hands out no credentials"),
    ],
)
def test_an_instance_without_a_role_is_named_with_its_fix(scripted, change, what):
    with pytest.raises(OpsError, match=what) as caught:
        _found = ssm.Instance(scripted({**METADATA, **change}).url).credentials
    assert caught.value.fix


def test_no_metadata_service_at_all():
    with pytest.raises(OpsError, match="cannot be reached"):
        _found = ssm.Instance("http://127.0.0.1:9").credentials


def test_a_metadata_service_that_hangs_costs_all_agents_one_time_out(scripted, monkeypatch):
    monkeypatch.setattr(ssm, "METADATA_TIMEOUT", 0.3)
    server = scripted({("PUT", "/latest/api/token"): lambda _body: time.sleep(1) or (200, b"late")})
    instance = ssm.Instance(server.url)
    for _each in range(3):
        with pytest.raises(OpsError, match=r"cannot be reached|no whole answer"):
            _found = instance.region
    assert len(server.seen) == 1


def test_a_region_that_is_none(scripted):
    with pytest.raises(OpsError, match="names no region"):
        _found = ssm.Instance(
            scripted({**METADATA, ("GET", "/latest/meta-data/placement/region"): (200, b"a b")}).url
        ).region


def test_an_expired_token_of_the_metadata_service_ends_with_its_run(scripted):
    # A host that slept in the middle of a run: the next one begins with a token of its own.
    server = scripted({**METADATA, ("GET", ROLE): (401, b"")})
    with pytest.raises(OpsError, match="with status 401"):
        _found = ssm.Instance(server.url).credentials
    server.table[("GET", ROLE)] = METADATA[("GET", ROLE)]
    assert ssm.Instance(server.url).credentials.key_id == "ASIA"
    assert [method for method, _path, _headers, _body in server.seen].count("PUT") == 2


def test_agents_that_are_read_at_once_ask_the_metadata_service_once(scripted):
    server = scripted(METADATA)
    instance, got = ssm.Instance(server.url), []
    ask = lambda: got.append((instance.region, instance.credentials))  # noqa: E731
    threads = [threading.Thread(target=ask) for _each in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 1
    assert len(got) == 8
    assert len(server.seen) == len(METADATA)


def test_pages_share_a_connection_also_with_a_server_that_closes_it(scripted, monkeypatch):
    def page(body: bytes) -> tuple[int, bytes]:
        more = {} if "NextToken" in json.loads(body) else {"NextToken": "1"}
        return 200, json.dumps({"Parameters": [{"Name": f"{TOP}/A{len(more)}", "Value": "x"}], **more}).encode()

    connected = []
    connect = http.client.HTTPConnection.connect
    monkeypatch.setattr(http.client.HTTPConnection, "connect", lambda self: connected.append(self) or connect(self))
    for version, number in (("HTTP/1.1", 1), ("HTTP/1.0", 2)):
        server = scripted({("POST", "/"): page})
        server.RequestHandlerClass.protocol_version = version
        assert ssm.read(Source(ssm=TOP, endpoint=server.url), FakeInstance()) == {"A1": "x", "A0": "x"}
        assert len(connected) == number
        connected.clear()


def test_the_certificate_authorities_are_read_once(monkeypatch):
    ssm._trusted.cache_clear()
    made = []
    create = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda: made.append(1) or create())
    for _each in range(3):
        server = ssm.Server("https://127.0.0.1:9", 1.0)
        with pytest.raises(OpsError, match="cannot be reached"):
            server.ask("GET", "/", {})
    assert made == [1]


def test_pages_with_fewer_parameters_than_asked_for(scripted):
    def page(body: bytes) -> tuple[int, bytes]:
        number = int(json.loads(body).get("NextToken", 0))
        more = {"NextToken": str(number + 1)} if number < 60 else {}
        # Every third page is empty, as AWS may answer.
        found = [{"Name": f"{TOP}/A{number}", "Value": str(number)}] if number % 3 else []
        return 200, json.dumps({"Parameters": found, **more}).encode()

    found = ssm.read(Source(ssm=TOP, endpoint=scripted({("POST", "/"): page}).url), FakeInstance())
    assert found == {f"A{number}": str(number) for number in range(61) if number % 3}


def endless(body: bytes) -> tuple[int, bytes]:
    return 200, json.dumps({"Parameters": [], "NextToken": "on"}).encode()


def too_many(body: bytes) -> tuple[int, bytes]:
    start = int(json.loads(body).get("NextToken", 0))
    found = [{"Name": f"{TOP}/A{start + number}", "Value": "x"} for number in range(10)]
    return 200, json.dumps({"Parameters": found, "NextToken": str(start + 10)}).encode()


def refused(kind: str, message: str = "") -> tuple[int, bytes]:
    return 400, json.dumps({"__type": kind, "message": message}).encode()


REFUSED = {"__type": "com.amazonaws.ssm#AccessDeniedException", "Message": "not\x1b[31m you"}


@pytest.mark.parametrize(
    ("answer", "what", "fix"),
    [
        ((400, json.dumps(REFUSED).encode()), "AccessDeniedException", "kms:Decrypt"),
        ((500, b"<html>"), "status 500", "AWS"),
        ((200, b"<html>"), "something else than JSON", "address"),
        ((200, b"[]"), "something else than JSON", "address"),
        ((200, b'{"Parameters": [{"Name": "/x/A"}]}'), "something else than parameters", "endpoint"),
        ((200, b"x" * 2**21), "without an end", "address"),
        (refused("ThrottlingException", "Rate exceeded"), "Rate exceeded", "raise secrets_interval"),
        (refused("ExpiredTokenException"), "ExpiredTokenException", "new credentials"),
        (refused("InvalidSignatureException", "Signature expired: 20261121T1"), "Signature expired", "timedatectl"),
        (refused("UnrecognizedClientException"), "UnrecognizedClientException", "the instance's role"),
        (endless, "more than 100 pages", "endpoint"),
        (too_many, f"more than {values.MOST} parameters", "fewer"),
    ],
)
def test_an_answer_that_is_none(scripted, answer, what, fix):
    server = scripted({("POST", "/"): answer})
    with pytest.raises(OpsError) as caught:
        ssm.read(Source(ssm=TOP, endpoint=server.url), FakeInstance())
    assert what in caught.value.what
    assert fix in str(caught.value.fix)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "begins",
    [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
    ids=["status", "header", "chunk"],
)
def test_an_answer_that_never_ends_byte_by_byte_holds_nobody(begins, monkeypatch):
    """The thread of this source would keep the secrets of all agents from being fetched."""
    monkeypatch.setattr(ssm, "TIMEOUT", 0.5)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            connection, _address = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(begins)
                while not over.wait(0.1):
                    connection.sendall(b"0")

        thread = threading.Thread(target=trickle)
        thread.start()
        # Ends the trickle if nobody else does, so that a failure is one.
        rescue = threading.Timer(5, over.set)
        rescue.start()
        began = time.monotonic()
        try:
            with pytest.raises(OpsError, match="no whole answer"):
                ssm.read(Source(ssm=TOP, endpoint=f"http://127.0.0.1:{server.getsockname()[1]}"), FakeInstance())
        finally:
            over.set()
            rescue.cancel()
            thread.join()
        assert time.monotonic() - began < 4


def test_pages_that_come_slowly_hold_nobody(scripted, monkeypatch):
    """Each comes in time. All of them together would use up the time of the job, which keeps nothing until its end."""
    monkeypatch.setattr(ssm, "PATIENCE", 0.5)

    def page(body: bytes) -> tuple[int, bytes]:
        time.sleep(0.2)
        return endless(body)

    began = time.monotonic()
    with pytest.raises(OpsError, match=r"gives no whole answer in 0.5 s"):
        ssm.read(Source(ssm=TOP, endpoint=scripted({("POST", "/"): page}).url), FakeInstance())
    assert time.monotonic() - began < 5


def test_nobody_listens():
    with pytest.raises(OpsError, match="cannot be reached"):
        ssm.read(Source(ssm=TOP, endpoint="http://127.0.0.1:9"), FakeInstance())


def test_credentials_are_in_no_text():
    assert "s3cret" not in repr(ssm.Credentials("id", "s3cret", "s3cret-token"))


def test_the_endpoint_of_every_region_is_that_of_botocore():
    partitions = botocore.loaders.create_loader().load_data("endpoints")["partitions"]
    domains = {region: partition["dnsSuffix"] for partition in partitions for region in partition["regions"]}
    assert {"eu-west-1", "cn-north-1", "eusc-de-east-1", "us-gov-west-1", "us-iso-east-1"} <= {*domains}
    for region, domain in domains.items():
        assert ssm._endpoint(region) == f"https://ssm.{region}.{domain}"
