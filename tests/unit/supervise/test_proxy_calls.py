# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls through the proxy: a real nginx with its real program, before stubs of agents on Unix sockets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_ids import hex_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_keys import (
    api_key_of,
    key_of,
    webhook_path_of,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import proxy, proxy_program

VECTORS = json.loads((Path(__file__).resolve().parents[3] / "docs/runtimes-keys.json").read_text(encoding="utf-8"))
SECRET = "0123456789abcdef0123456789abcdef"
ALICE, BOB = "alice@example.com", "550e8400-e29b-41d4-a716-446655440000"
# Seconds. The machine may be busy with other tests.
PATIENCE = 30
# Answers a request by hand: gets the bytes up to the end of its header, and the connection.
Answer = Callable[[bytes, socket.socket], None]


def says(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def repeats(head: bytes, connection: socket.socket) -> None:
    """The agent's answer is the request that it got."""
    connection.sendall(says(head))


class Way:
    """A running proxy, with the directory that root keeps for it."""

    def __init__(self, directory: Path, tls: bool) -> None:
        self.directory, self.tls = directory, tls
        self.runtimes = directory / "runtimes"
        self.places = proxy.Places(
            program=str(directory / "proxy.js"),
            runtimes=str(self.runtimes),
            own=str(directory),
            log=str(directory / "log"),
            certificate=str(directory / "certificate"),
            certificate_key=str(directory / "certificate_key"),
        )
        for name in ("proxy", "sockets", "failed"):
            (self.runtimes / name).mkdir(parents=True)
        self.secrets({"secret": SECRET, "versions": [1]})
        self.log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.log.bind(self.places.log)
        self.log.settimeout(PATIENCE)
        self.open: list[socket.socket] = [self.log]

    def secrets(self, value: object) -> None:
        path = self.runtimes / "proxy/secrets.json"
        path.with_suffix(".new").write_text(value if isinstance(value, str) else json.dumps(value))
        path.with_suffix(".new").rename(path)

    def agent(self, user: str, answer: Answer = repeats) -> None:
        """Serve the socket of *user*."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.runtimes / "sockets" / f"{hex_of(user)}.sock"))
        listener.listen()
        self.serve(listener, answer)

    def serve(self, listener: socket.socket, answer: Answer) -> None:
        """Answer the calls of *listener*."""
        self.open.append(listener)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _address = listener.accept()
                    connection.settimeout(PATIENCE)
                    with connection:
                        answer(head_of(connection), connection)

        threading.Thread(target=serve, daemon=True).start()

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        if self.tls:
            trusting = ssl._create_unverified_context()
            connection = trusting.wrap_socket(connection)
        self.open.append(connection)
        return connection

    def send(self, target: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
        """The answer to one request, as bytes, without the time of day."""
        lines = [f"{method} {target} HTTP/1.1", "Host: way.example", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        with self.connect() as connection:
            connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
            return re.sub(rb"\r\nDate: [^\r]+", b"", all_of(connection))

    def call(self, user: str, path: str = "/", *headers: str, key: str | None = None, **request: object) -> bytes:
        """Call as the application does that has the secret."""
        return self.send(f"/u/{quote(user, safe='')}{path}", bearer(user, key), *headers, **request)

    @property
    def logged(self) -> str:
        """The next line in the log, without its priority and time."""
        return self.log.recv(65536).decode().partition("hermes_proxy: ")[2]

    def start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        configuration = self.directory / "proxy.conf"
        files = (self.places.certificate, self.places.certificate_key) if self.tls else ()
        if self.tls:
            made(self.places)
        configuration.write_text(proxy.render(proxy.Proxy(f"127.0.0.1:{self.port}", *files), self.places))
        Path(self.places.program).write_text(proxy_program.render(str(self.runtimes)))
        # In its unit, the whole nginx has one user.
        directives = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
        words = [proxy.NGINX, "-e", "stderr", "-c", configuration, "-g", directives]
        self.nginx = subprocess.Popen(words, stderr=subprocess.PIPE)
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return self.connect().close()
            assert self.nginx.poll() is None, self.nginx.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self) -> str:
        """Stop nginx; returns what it said."""
        self.nginx.terminate()
        said = self.nginx.communicate(timeout=PATIENCE)[1].decode()
        for each in self.open:
            each.close()
        return said


def head_of(connection: socket.socket) -> bytes:
    """The bytes up to the end of a header, and those of the body that came with it."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(65536)
        if not part:
            break
        head += part
    return head


def all_of(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def bearer(user: str, key: str | None = None) -> str:
    return f"Authorization: Bearer {key or key_of(SECRET, hex_of(user))}"


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


@contextlib.contextmanager
def running(directory: Path, *, tls: bool = False) -> Iterator[Way]:
    if not os.path.exists(proxy.NGINX) or not os.path.exists(proxy.MODULE):
        pytest.skip(f"SKIPPED, NOT PROVED: calls through the proxy, because {' or '.join(proxy.PACKAGES)} is missing")
    way = Way(directory, tls)
    try:
        way.start()
        yield way
    finally:
        said = way.end()
    # njs says that it starts.
    assert [line for line in said.splitlines() if "[notice]" not in line] == []


@pytest.fixture
def way(public) -> Iterator[Way]:
    with running(public) as way:
        yield way


def test_a_call_reaches_its_agent_with_the_agents_key(way):
    way.agent(ALICE)
    way.agent(BOB)
    for user in (ALICE, BOB, BOB.upper()):
        answer = way.call(user, "/v1/models", "X-Hermes-Session-Id: 7")
        assert status(answer) == 200
        got = body(answer).decode().split("\r\n")
        assert got[0] == "GET /v1/models HTTP/1.1"
        assert [line for line in got if line.startswith("Authorization:")] == [
            f"Authorization: Bearer {api_key_of(SECRET, hex_of(user))}"
        ]
        assert "X-Hermes-Session-Id: 7" in got


@pytest.mark.parametrize("vector", VECTORS["users"], ids=lambda vector: vector["what"])
def test_nginx_reads_every_id_as_the_host_does(way, vector):
    way.secrets({"secret": VECTORS["secret"], "versions": [1]})
    way.agent(vector["user"])
    assert status(way.call(vector["user"], key=vector["keys"]["1"])) == 200


def test_what_a_caller_says_about_itself_is_replaced(way):
    way.agent(ALICE)
    claims = (
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: else",
        "Forwarded: for=1.2.3.4",
    )
    got = body(way.call(ALICE, "/", *claims, "X-Real-IP: 1.2.3.4", "Upgrade: websocket")).decode().split("\r\n")
    assert {"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: way.example"} <= {*got}
    assert [line for line in got if re.match("(?i)forwarded|x-real|upgrade", line) or "1.2.3.4" in line] == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/files/a%2Fb",
        "/a%2Fb/../c//d/./e?next=%2Fx%3F&q=a%20b+c#part",
        "/?",
        "/?a=/u/bob/",
        "/%2e%2e/%2e%2e/nobody",
        "/../..//unavailable",
        "/..%2f..%2F%2fnobody",
        "/" + "x" * 6000,
    ],
)
def test_a_path_is_passed_on_as_it_was_sent(way, path):
    way.agent(ALICE)
    answer = way.call(ALICE, path)
    assert body(answer).split(b"\r\n")[0] == f"GET {path} HTTP/1.1".encode()


def nobodys(way: Way) -> bytes:
    """The one answer to all that is nobody's."""
    return way.send("/")


KEY = key_of(SECRET, hex_of(ALICE))
STRANGERS = {
    "no key": ("/u/alice%40example.com/", ()),
    "an empty key": ("/u/alice%40example.com/", ("Authorization: Bearer ",)),
    "another scheme": ("/u/alice%40example.com/", (f"Authorization: Basic {KEY}",)),
    "the key without a scheme": ("/u/alice%40example.com/", (f"Authorization: {KEY}",)),
    "two keys in one": ("/u/alice%40example.com/", (f"Authorization: Bearer {KEY} {KEY}",)),
    "two keys": ("/u/alice%40example.com/", (bearer(ALICE), bearer(BOB))),
    "a part of a key": ("/u/alice%40example.com/", (f"Authorization: Bearer {KEY[:-1]}",)),
    "more than a key": ("/u/alice%40example.com/", (f"Authorization: Bearer {KEY}x",)),
    "one character else": ("/u/alice%40example.com/", (f"Authorization: Bearer {KEY[:4]}?{KEY[5:]}",)),
    "another case": ("/u/alice%40example.com/", (f"Authorization: Bearer {KEY.swapcase()}",)),
    "a NUL": ("/u/alice%40example.com/", (f"Authorization: Bearer {KEY}\0",)),
    "a key of another user": ("/u/alice%40example.com/", (bearer(BOB),)),
    "the agent's own key": ("/u/alice%40example.com/", (f"Authorization: Bearer {api_key_of(SECRET, hex_of(ALICE))}",)),
    "a version that is not accepted": ("/u/alice%40example.com/", (bearer(ALICE, key_of(SECRET, hex_of(ALICE), 2)),)),
    "a key in the query": (f"/u/alice%40example.com/?key={KEY}&Authorization=Bearer%20{KEY}", ()),
    "a user in headers": ("/u/alice%40example.com/", (bearer(BOB), f"X-Original-URL: /u/{BOB}/", f"X-User: {BOB}")),
    "a user by dots": (f"/u/{BOB}/../alice%40example.com/", (bearer(ALICE),)),
    "a user by encoded dots": (f"/u/{BOB}%2F..%2Falice%40example.com/", (bearer(ALICE),)),
    "an encoded twice": ("/u/alice%2540example.com/", (bearer(ALICE),)),
    "a user by digits": (f"/u/{hex_of(ALICE)}/", (bearer(ALICE),)),
    "a user nobody knows": ("/u/carol/", (bearer("carol"),)),
    "a user nobody knows, and no key": ("/u/carol/", ()),
    "no user": ("/u//", (bearer(ALICE),)),
    "no path": ("/u/alice%40example.com", (bearer(ALICE),)),
    "a query for a path": ("/u/alice%40example.com?/", (bearer(ALICE),)),
    "two slashes": ("//u/alice%40example.com/", (bearer(ALICE),)),
    "another case of the path": ("/U/alice%40example.com/", (bearer(ALICE),)),
    "another path": ("/v1/models", (bearer(ALICE),)),
    "the proxy's own path": ("//nobody", (bearer(ALICE),)),
    "the proxy's own path, encoded": ("/%2Funavailable", (bearer(ALICE),)),
    "an id with NUL": ("/u/a%00b/", (bearer(ALICE),)),
    "an id with a line break": ("/u/a%0Ab/", (bearer(ALICE),)),
    "an id that is too long": (f"/u/{'x' * 257}/", (bearer(ALICE),)),
    "an id that is no UTF-8": ("/u/%ff/", (bearer(ALICE),)),
    "half a character": ("/u/%ED%A0%BE/", (bearer(ALICE),)),
    "half an escape": ("/u/alice%4/", (bearer(ALICE),)),
    "a raw byte": ("/u/alice%40example.com/\xff", (bearer(ALICE),)),
    "outside": ("/u/alice%40example.com/../../../..", (bearer(ALICE),)),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_everybody_else_gets_one_answer(way, stranger):
    way.agent(ALICE)
    way.agent(BOB)
    target, headers = STRANGERS[stranger]
    expected = nobodys(way)
    assert status(expected) == 404
    assert b"\r\nServer: nginx\r\n" in expected
    assert json.loads(body(expected)) == {
        "error": {"message": "There is nothing here for this key", "type": "not_found"}
    }
    assert way.send(target, *headers) == expected
    # Nothing was spoilt for the one who may.
    assert status(way.call(ALICE)) == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "MADE-UP"])
def test_the_answer_is_the_same_for_each_method(way, method):
    way.agent(ALICE)
    assert way.send("/u/alice%40example.com/", method=method, body=b"x" * 100_000) == nobodys(way)


def test_a_user_whose_socket_is_gone_is_a_stranger(way):
    way.agent(ALICE)
    assert status(way.call(ALICE)) == 200
    (way.runtimes / "sockets" / f"{hex_of(ALICE)}.sock").unlink()
    assert way.call(ALICE) == nobodys(way)


def test_another_version_of_the_keys_holds_and_ends_at_once(way):
    way.agent(ALICE)
    first, second = (key_of(SECRET, hex_of(ALICE), version) for version in (1, 2))

    def accepted() -> list[bool]:
        return [status(way.call(ALICE, key=key)) == 200 for key in (first, second)]

    assert accepted() == [True, False]
    way.secrets({"secret": SECRET, "versions": [1, 2]})
    assert accepted() == [True, True]
    way.secrets({"secret": SECRET, "versions": [2]})
    assert accepted() == [False, True]
    way.secrets({"secret": SECRET[::-1], "versions": [1, 2]})
    assert accepted() == [False, False]
    assert way.call(ALICE, key=first) == nobodys(way)


@pytest.mark.parametrize(
    "secrets", ["", "{", "{}", "null", '{"secret": "", "versions": [1]}', f'{{"secret": "{SECRET}"}}', "{\xff"]
)
def test_without_a_secret_nobody_passes_and_everybody_is_told(way, secrets):
    way.agent(ALICE)
    way.secrets(secrets)
    empty = key_of("\0" * 32, hex_of(ALICE))
    for answer in (way.call(ALICE), way.call(ALICE, key=empty), way.send("/")):
        assert status(answer) == 503
        assert json.loads(body(answer))["error"]["message"] == "The proxy has no secret to check keys with"


@pytest.mark.parametrize(
    "header",
    [
        "Transfer-Encoding: chunked",
        # Until the connection ends.
        "Connection: close",
        "Content-Length: 45",
        # An agent must not have nginx collect its answer, in memory or on disk.
        "Content-Length: 45\r\nX-Accel-Buffering: yes",
    ],
)
def test_events_arrive_one_by_one(way, header):
    seen = threading.Event()

    def stream(_head: bytes, connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{header}\r\n\r\n".encode())
        for number in range(5):
            event = f"data: {number}\n\n".encode()
            connection.sendall(b"9\r\n%s\r\n" % event if "chunked" in header else event)
            # The next event is not sent before the caller has this one.
            assert seen.wait(PATIENCE)
            seen.clear()
        if "chunked" in header:
            connection.sendall(b"0\r\n\r\n")

    way.agent(ALICE, stream)
    with way.connect() as connection:
        connection.sendall(f"GET /u/{ALICE}/events HTTP/1.1\r\nHost: x\r\n{bearer(ALICE)}\r\n\r\n".encode())
        got = b""
        for number in range(5):
            while f"data: {number}\n\n".encode() not in got:
                part = connection.recv(65536)
                assert part
                got += part
            assert f"data: {number + 1}".encode() not in got
            seen.set()


def test_a_connection_is_kept_for_the_next_call(way):
    way.agent(ALICE)
    with way.connect() as connection:
        for _time in range(3):
            connection.sendall(f"GET /u/{ALICE}/ HTTP/1.1\r\nHost: x\r\n{bearer(ALICE)}\r\n\r\n".encode())
            assert status(head_of(connection)) == 200


def test_a_large_body_is_passed_on_while_it_comes(way):
    whole = 32 * 2**20
    first = threading.Event()

    def count(head: bytes, connection: socket.socket) -> None:
        got = len(head.partition(b"\r\n\r\n")[2])
        while got < whole:
            got += len(connection.recv(1 << 20))
            first.set()
        connection.sendall(says(str(got).encode()))

    way.agent(ALICE, count)
    with way.connect() as connection:
        head = f"POST /u/{ALICE}/files HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{bearer(ALICE)}\r\n"
        connection.sendall(f"{head}Content-Length: {whole}\r\n\r\n".encode())
        connection.sendall(bytes(2**20))
        assert first.wait(PATIENCE)
        connection.sendall(bytes(whole - 2**20))
        assert body(all_of(connection)) == str(whole).encode()


def test_a_body_of_unknown_length_is_passed_on_while_it_comes(way):
    first = threading.Event()

    def read_on(got: bytes, connection: socket.socket) -> None:
        while b"abc" not in got:
            got += connection.recv(65536)
        first.set()
        while not got.endswith(b"0\r\n\r\n"):
            got += connection.recv(65536)
        connection.sendall(says(got))

    way.agent(ALICE, read_on)
    with way.connect() as connection:
        head = f"POST /u/{ALICE}/files HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{bearer(ALICE)}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"3\r\nabc\r\n")
        assert first.wait(PATIENCE)
        connection.sendall(b"2\r\nde\r\n0\r\n\r\n")
        assert all_of(connection).endswith(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")


def test_a_body_that_is_too_large_is_refused(way):
    way.agent(ALICE)
    with way.connect() as connection:
        head = f"POST /u/{ALICE}/files HTTP/1.1\r\nHost: x\r\n{bearer(ALICE)}\r\n"
        connection.sendall(f"{head}Content-Length: {32 * 2**20 + 1}\r\n\r\n".encode())
        assert status(head_of(connection)) == 413


@pytest.mark.parametrize(
    ("failed", "message"),
    [
        (None, "The agent ended the connection without an answer"),
        ("exit-code 78\n", "The agent could not be started: its description or a secret is wrong"),
        ("exit-code 125", "The agent could not be started: podman could not start it"),
        ("exit-code 1", "The agent could not be started: it ended with exit status 1"),
        ("exit-code", "The agent could not be started: it ended too early"),
        ("timeout TERM", "The agent could not be started: it was not healthy in time"),
        ("oom-kill KILL", "The agent could not be started: it needed more memory than it may use"),
        ("start-limit-hit 1", "The agent could not be started: it failed too often in a short time"),
        ("made-up <b>1</b>", "The agent could not be started: see its log on the host"),
        ("constructor 1", "The agent could not be started: see its log on the host"),
        ("", "The agent could not be started: see its log on the host"),
    ],
)
def test_a_failed_start_is_told_with_its_reason(way, failed, message):
    way.agent(ALICE, lambda _head, _connection: None)
    if failed is not None:
        (way.runtimes / "failed" / hex_of(ALICE)).write_text(failed)
    answer = way.call(ALICE, "/v1/chat/completions", method="POST", body=b"{}")
    assert status(answer) == 503
    assert b"\r\nRetry-After: 10\r\n" in answer
    assert b"\r\nContent-Type: application/json\r\n" in answer
    assert json.loads(body(answer)) == {"error": {"message": message, "type": "agent_unavailable"}}


def test_a_socket_that_nobody_serves_is_told_too(way):
    """systemd has given the socket's unit up."""
    with socket.socket(socket.AF_UNIX) as unserved:
        unserved.bind(str(way.runtimes / "sockets" / f"{hex_of(ALICE)}.sock"))
        assert status(way.call(ALICE)) == 503


@pytest.mark.parametrize("said", ["404 Not Found", "400 Bad Request", "502 Bad Gateway", "503 Service Unavailable"])
def test_an_answer_of_the_agent_stays_its_own(way, said):
    way.agent(ALICE, lambda _head, connection: connection.sendall(says(b"my own", "X-Own: 1", status=said)))
    answer = way.call(ALICE)
    assert f"{status(answer)}" == said[:3]
    assert body(answer) == b"my own"
    assert b"X-Own: 1" in answer


def test_an_agent_does_not_command_the_proxy(way):
    calls = []

    def command(head: bytes, connection: socket.socket) -> None:
        calls.append(head)
        connection.sendall(says(b"my own", f"X-Accel-Redirect: /u/{BOB}/"))

    way.agent(ALICE, command)
    way.agent(BOB)
    assert body(way.call(ALICE)) == b"my own"
    assert len(calls) == 1


@pytest.mark.parametrize(
    "nonsense",
    [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**20, b"\0" * 100],
    ids=["no HTTP", "a header without an end", "zeros"],
)
def test_an_agent_that_talks_nonsense_is_its_callers_trouble_only(way, nonsense):
    way.agent(ALICE, lambda _head, connection: connection.sendall(nonsense))
    way.agent(BOB)
    way.call(ALICE)
    assert status(way.call(BOB)) == 200


def test_the_log_has_neither_keys_nor_queries_nor_ids(way):
    way.agent(ALICE)
    way.call(ALICE, "/v1/files/a%2Fb?token=secret", method="POST", body=b"{}")
    end = r" bytes=\d+ seconds=\d+\.\d{3}"
    accepted = f"caller=127.0.0.1 user={hex_of(ALICE)} method=POST path=/v1/files/a%2Fb status=200"
    assert re.fullmatch(f"{re.escape(accepted)}{end}", way.logged)
    refused = "caller=127.0.0.1 user= method=GET path= status=404"
    for target in (f"/u/{ALICE}/{KEY}?key={KEY}", "/%zz", "/"):
        way.send(target, bearer(BOB))
        assert re.fullmatch(f"{re.escape(refused)}{end}", way.logged)


def made(places: proxy.Places) -> str:
    """A new certificate at its places; returns it."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=way.example")
    files = ("-keyout", places.certificate_key, "-out", places.certificate)
    subprocess.run(["openssl", "req", "-x509", *curve, *files], check=True, capture_output=True)
    return Path(places.certificate).read_text()


def test_a_renewed_certificate_ends_no_call(public):
    if shutil.which("openssl") is None:
        pytest.skip("SKIPPED, NOT PROVED: TLS of the proxy, because there is no openssl")
    go_on = threading.Event()

    def slowly(_head: bytes, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbefo")
        assert go_on.wait(PATIENCE)
        connection.sendall(b"reXX")

    with running(public, tls=True) as way:
        way.agent(ALICE, slowly)
        with way.connect() as connection:
            connection.sendall(f"GET /u/{ALICE}/ HTTP/1.1\r\nHost: x\r\n{bearer(ALICE)}\r\n\r\n".encode())
            got = head_of(connection)
            renewed = made(way.places)
            way.nginx.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + PATIENCE
            while ssl.get_server_certificate(("127.0.0.1", way.port)) != renewed:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            go_on.set()
            while not got.endswith(b"beforeXX"):
                part = connection.recv(65536)
                assert part, got
                got += part
        assert status(way.call(ALICE)) == 200


class Hooks:
    """The server at which an agent takes webhooks, on a port. It keeps what it got."""

    def __init__(self, way: Way, user: str, answer: Answer = repeats) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.place = way.runtimes / "webhooks" / hex_of(user)
        self.place.parent.mkdir(exist_ok=True)
        self.place.write_text(self.address)
        way.serve(self.listener, answer)


def healthy(woken: list[bytes]) -> Answer:
    """An agent that tells in *woken* how it was asked, and answers that it is healthy."""

    def answer(head: bytes, connection: socket.socket) -> None:
        woken.append(head)
        connection.sendall(says(b"{}", "X-Accel-Redirect: //unavailable"))

    return answer


def hook(user: str, name: str = "alert", version: int = 1) -> str:
    return webhook_path_of(SECRET, hex_of(user), name, version)


def test_a_webhook_wakes_the_agent_and_reaches_it_as_it_was_sent(way):
    woken: list[bytes] = []
    way.agent(ALICE, healthy(woken))
    Hooks(way, ALICE)
    signed = ("X-Hub-Signature-256: sha256=00", "Authorization: Basic eA==", "X-Forwarded-For: 1.2.3.4")
    answer = way.send(f"{hook(ALICE)}?a=%2Fb", *signed, method="POST", body=b"payload")
    assert status(answer) == 200
    got = body(answer).decode().split("\r\n")
    assert got[0] == "POST /webhooks/alert?a=%2Fb HTTP/1.1"
    assert {"X-Hub-Signature-256: sha256=00", "Authorization: Basic eA==", "Content-Length: 7"} <= {*got}
    assert "X-Forwarded-For: 127.0.0.1" in got
    assert [head.split(b"\r\n")[0] for head in woken] == [b"GET /health HTTP/1.0"]
    assert b"Signature" not in woken[0]
    assert b"Authorization" not in woken[0]


NOT_HOOKS = {
    "another method": ("GET", hook(ALICE)),
    "another user's token": ("POST", hook(BOB).replace(hex_of(BOB), hex_of(ALICE))),
    "another webhook's token": ("POST", hook(ALICE).replace("/alert", "/other")),
    "a version that is not accepted": ("POST", hook(ALICE, version=2)),
    "a key in place of the token": ("POST", re.sub("hw1_[^/]+", KEY, hook(ALICE))),
    "no token": ("POST", f"/w/{hex_of(ALICE)}/alert"),
    "a user nobody knows": ("POST", hook("carol")),
    "a user without webhooks": ("POST", hook(BOB)),
    "more of a path": ("POST", f"{hook(ALICE)}/more"),
    "another path": ("POST", f"{hook(ALICE)}/../../health"),
    "a name that is none": ("POST", f"{hook(ALICE)[:-5]}ALERT"),
}


@pytest.mark.parametrize("what", NOT_HOOKS)
def test_what_is_no_webhook_wakes_nobody(way, what):
    woken: list[bytes] = []
    way.agent(ALICE, healthy(woken))
    way.agent(BOB, healthy(woken))
    Hooks(way, ALICE)
    method, target = NOT_HOOKS[what]
    assert way.send(target, bearer("carol"), method=method, body=b"x") == nobodys(way)
    assert woken == []
    assert status(way.send(hook(ALICE), method="POST", body=b"x")) == 200


def test_a_key_does_not_open_the_server_of_webhooks(way):
    way.agent(ALICE)
    Hooks(way, ALICE)
    # nginx merges this to /w/…
    assert way.call(ALICE, f"/../..{hook(ALICE)}", method="POST") == nobodys(way)


def test_an_agent_that_was_restarted_after_it_was_woken_is_woken_again(way):
    woken: list[bytes] = []
    hooks = Hooks(way, ALICE)
    gone = hooks.place.read_text()

    def answer(head: bytes, connection: socket.socket) -> None:
        # The first time nobody listens yet.
        if woken:
            way.serve(socket.create_server(("127.0.0.1", int(gone.rpartition(":")[2]))), repeats)
        healthy(woken)(head, connection)

    way.agent(ALICE, answer)
    hooks.listener.shutdown(socket.SHUT_RDWR)
    hooks.listener.close()
    answered = way.send(hook(ALICE), method="POST", body=b"payload")
    assert status(answered) == 200
    assert b"POST /webhooks/alert" in body(answered)
    assert len(woken) == 2


def test_a_webhook_of_an_agent_that_cannot_be_started_is_told_why(way):
    way.agent(ALICE, lambda _head, _connection: None)
    Hooks(way, ALICE)
    (way.runtimes / "failed" / hex_of(ALICE)).write_text("exit-code 78\n")
    answer = way.send(hook(ALICE), method="POST", body=b"payload")
    assert status(answer) == 503
    assert b"Retry-After: 10" in answer
    assert "its description or a secret is wrong" in json.loads(body(answer))["error"]["message"]


def test_a_server_of_webhooks_that_is_down_is_told(way):
    woken: list[bytes] = []
    way.agent(ALICE, healthy(woken))
    hooks = Hooks(way, ALICE)
    hooks.listener.shutdown(socket.SHUT_RDWR)
    hooks.listener.close()
    assert status(way.send(hook(ALICE), method="POST", body=b"payload")) == 503
    assert len(woken) == 2


def test_an_answer_of_the_server_of_webhooks_stays_its_own(way):
    way.agent(ALICE, healthy([]))
    Hooks(way, ALICE, lambda _head, connection: connection.sendall(says(b"no", status="401 Unauthorized")))
    answer = way.send(hook(ALICE), method="POST", body=b"payload")
    assert (status(answer), body(answer)) == (401, b"no")


def test_the_log_has_no_token_of_a_webhook(way):
    way.agent(ALICE, healthy([]))
    Hooks(way, ALICE)
    way.send(f"{hook(ALICE)}?secret=1", method="POST", body=b"x")
    line = way.logged
    assert f"user={hex_of(ALICE)} method=POST path=/webhooks/alert status=200" in line
    assert "hw1_" not in line
    assert "secret" not in line


def spooled(way: Way) -> int:
    """Bytes that nginx keeps in files, which have no names. In its unit, they lie in the memory of the host."""
    children = Path(f"/proc/{way.nginx.pid}/task/{way.nginx.pid}/children").read_text().split()
    total = 0
    for descriptor in (each for pid in children for each in Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(descriptor).startswith((f"{way.places.own}/proxy/", f"{way.places.own}/client_body/")):
                total += descriptor.stat().st_size
    return total


def test_an_endless_answer_to_a_webhook_takes_no_memory_of_the_host(way):
    sent = []

    def endless(_head: bytes, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.settimeout(2)
        with contextlib.suppress(OSError):
            while sum(sent) < 64 * 2**20:
                sent.append(connection.send(bytes(2**20)))

    way.agent(ALICE, healthy([]))
    Hooks(way, ALICE, endless)
    with way.connect() as connection:
        # The sender reads nothing.
        connection.sendall(f"POST {hook(ALICE)} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx".encode())
        deadline = time.monotonic() + PATIENCE
        while not sent and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        assert sent
        assert spooled(way) == 0


def test_a_webhook_that_hermes_would_refuse_is_refused_before_it_is_kept(way):
    way.agent(ALICE, healthy([]))
    Hooks(way, ALICE)
    with way.connect() as connection:
        head = f"POST {hook(ALICE)} HTTP/1.1\r\nHost: x\r\nContent-Length: {2**20 + 1}\r\n\r\n"
        connection.sendall(head.encode())
        assert status(head_of(connection)) == 413
