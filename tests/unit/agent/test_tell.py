# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Context for an agent is kept, sent by a signed webhook call, and answered; Hermes' protocol is played."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import io
import json
import os
import sqlite3
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import sessions, tell
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health, servers
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.worker import WorkerDied

SECRET = "the-secret-of-the-tests"
# An answer in a conversation that goes on.
UNENDED = "I am still thinking."
# Whether the agent has got the text -> the first words and the last.
SAID = {
    "delivered": ("hermes-ops: kept and delivered, but not answered: ", "Do not send it again: the agent has it.\n"),
    "not delivered": (
        "hermes-ops: kept, but not delivered: ",
        "Send it again once that is done: the agent has not got it.\n",
    ),
    "unknown": (
        "hermes-ops: kept, but it is unknown whether it was delivered: ",
        "search its conversations (hermes-ops memory), before you send it again.\n",
    ),
}
HOST = {
    "scope": "system",
    "data_dir": "/d",
    "ops_dir": "/o",
    "root": "/opt/hermes",
    "managed_root": "/m",
}


class Gateway(http.server.BaseHTTPRequestHandler):
    """Plays a gateway: checks the signature of a call, answers, and stores the conversation."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        stamp = self.headers["X-Webhook-Timestamp"]
        expected = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        signed = hmac.compare_digest(expected, self.headers["X-Webhook-Signature-V2"])
        self.server.calls.append(json.loads(body))
        if self.server.status is None:
            return
        self.send_response(self.server.status if signed else 401)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        if signed and self.server.answer is not None:
            chat = f"webhook:{self.path.rpartition('/')[2]}:{self.headers['X-Request-ID']}"
            database = sqlite3.connect(self.server.database)
            with database:
                ended = None if self.server.answer is UNENDED else 1.0
                database.execute("INSERT INTO sessions VALUES (?, 'webhook', ?, ?)", (chat, chat, ended))
                database.execute(
                    "INSERT INTO messages (session_id, role, content, timestamp) VALUES (?, 'assistant', ?, 1.0)",
                    (chat, self.server.answer),
                )
            database.close()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def gateway(tmp_path, monkeypatch):
    """A host with one agent whose gateway takes webhook calls."""
    home = tmp_path / "home"
    home.mkdir()
    database = sqlite3.connect(home / sessions.FILE_NAME)
    database.executescript(
        "CREATE TABLE sessions (id TEXT PRIMARY KEY, source TEXT NOT NULL, chat_id TEXT, ended_at REAL);"
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT, timestamp REAL,"
        " active INTEGER NOT NULL DEFAULT 1, compacted INTEGER NOT NULL DEFAULT 0);"
    )
    database.close()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    server.calls, server.status, server.answer = [], 202, "Understood."
    server.database = str(home / sessions.FILE_NAME)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (home / "webhook_subscriptions.json").write_text(json.dumps({"claude-context": {"secret": SECRET}}))
    agent = described.agent(home=str(home), webhook={"enabled": True, "port": server.server_port})
    installed = Installation(HOST)
    installed.__dict__.update(agents=[agent])
    monkeypatch.setattr(Installation, "load", lambda: installed)
    server.home, server.agent = home, agent
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def call(monkeypatch):
    """A function that calls ``hermes-ops tell`` with a text on its standard input."""

    def run(text, *arguments):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
        return cli.main(["tell", *arguments])

    return run


def kept(gateway):
    return sorted(Path(gateway.home, tell.DIRECTORY).glob("*.md"))


def test_kept_said_and_answered(gateway, call, capsys):
    gateway.answer = "Understood.\x1b[2J"
    assert call("Deployed Grüße.\nAll of it.\n", "--topic", "The Deploy!") == cli.EXIT_OK
    (path,) = kept(gateway)
    assert path.read_text() == "# The Deploy!\n\nDeployed Grüße.\nAll of it.\n"
    assert path.name.endswith("-the-deploy.md")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert gateway.calls == [{"topic": "The Deploy!", "body": "Deployed Grüße.\nAll of it."}]
    printed = capsys.readouterr().out
    assert f"kept:   {path}\n" in printed
    assert printed.endswith("answer: Understood.\\x1b[2J\n")


def test_without_a_topic_the_first_line_is_it(gateway, call):
    assert call("\nThe  deploy\n\nAll of it.") == cli.EXIT_OK
    assert gateway.calls == [{"topic": "The deploy", "body": "All of it."}]


def test_check_does_nothing(gateway, call, capsys):
    assert call("All of it.", "--topic", "x", "--check") == cli.EXIT_OK
    assert not kept(gateway)
    assert gateway.calls == []
    assert "would tell: agent default" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "answer", "said", "delivered"),
    [
        (401, None, "status 401", "not delivered"),
        (503, None, "status 503", "not delivered"),
        (200, None, "without waking", "not delivered"),
        (202, "", "ended without an answer", "delivered"),
        (202, UNENDED, "no answer came within 0.5 s", "delivered"),
        # Hermes accepts calls while it stops, and drops them.
        (202, None, "no answer came within 0.5 s", "unknown"),
        # The connection ends after the call was read.
        (None, None, "answers with nothing", "unknown"),
    ],
)
def test_what_was_not_answered_is_kept_and_it_says_whether_it_was_delivered(
    gateway, call, capsys, status, answer, said, delivered
):
    gateway.status, gateway.answer = status, answer
    timeout = "60" if answer == "" else "0.5"
    assert call("All of it.", "--topic", "x", "--timeout", timeout) == cli.EXIT_UNHEALTHY
    printed = capsys.readouterr()
    assert printed.err.startswith(SAID[delivered][0])
    assert printed.err.endswith(SAID[delivered][1])
    assert said in printed.err
    assert len(kept(gateway)) == 1


def test_a_gateway_that_is_gone_has_got_nothing(gateway, call, capsys):
    gateway.shutdown()
    gateway.server_close()
    assert call("All of it.", "--topic", "x") == cli.EXIT_UNHEALTHY
    printed = capsys.readouterr().err
    assert printed.startswith(SAID["not delivered"][0])
    assert "does not answer" in printed
    assert "Fix: start the agent, or see why it does not answer: hermes-ops check" in printed
    assert printed.endswith(SAID["not delivered"][1])
    assert len(kept(gateway)) == 1


def test_a_process_that_died_leaves_it_unknown(gateway, call, capsys, monkeypatch):
    def died(account, function, *_arguments, **_options):
        if function.endswith(":deliver"):
            raise WorkerDied("was killed")

    monkeypatch.setattr(servers, "work", died)
    assert call("All of it.", "--topic", "x") == cli.EXIT_UNHEALTHY
    assert capsys.readouterr().err.startswith(SAID["unknown"][0])
    monkeypatch.setattr(servers, "work", lambda *_arguments, **_options: {"answer": 7})
    assert call("All of it.", "--topic", "y") == cli.EXIT_UNHEALTHY
    assert capsys.readouterr().err.startswith(SAID["unknown"][0])


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("", ["--topic", "x"], "no body"),
        ("only a topic", [], "no body"),
        ("x", ["--topic", " "], "no topic"),
        ("x" * (tell.MAX_BYTES + 1), ["--topic", "x"], "larger than"),
        ("x", ["--topic", "x", "--webhook", "other"], "it has: claude-context"),
        ("x", ["--topic", "x", "--agent", "other"], "known ones: default"),
    ],
)
def test_refused_before_anything_is_done(gateway, call, capsys, text, arguments, said):
    assert call(text, *arguments) == cli.EXIT_ERROR
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Fix: " in printed.err
    assert not kept(gateway)
    assert gateway.calls == []


def test_text_that_is_none():
    with pytest.raises(OpsError, match="UTF-8"):
        tell.parse(b"\xff", "x")


def test_a_topic_is_no_path():
    assert tell.archive_path("/h", "../../etc/passwd\x00", 0) == "/h/context/1970-01-01-000000-etc-passwd.md"
    assert tell.archive_path("/h", "大别山", 0) == "/h/context/1970-01-01-000000.md"
    assert len(os.path.basename(tell.archive_path("/h", "x" * 500, 0))) < 80


def test_nothing_is_replaced(tmp_path):
    path = str(tmp_path / "context" / "x.md")
    tell.archive(path, Account.current(), "one", "body")
    with pytest.raises(OpsError, match="exists already"):
        tell.archive(path, Account.current(), "two", "body")
    assert Path(path).read_text().startswith("# one")


def test_the_health_check_uses_the_same_call(gateway):
    agent = gateway.agent.checked_by(webhook="claude-context")
    assert health.prove(agent, Account.current()) == (None, None)
    assert gateway.calls[0]["topic"] == "health"
    gateway.answer = ""
    _reply, problem = health.prove(agent, Account.current())
    assert problem.cause == "no_reply"
