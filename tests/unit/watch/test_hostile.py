# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent attacks the check: the result is a finding about that agent, and about no other."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Server
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health, journal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.systemd import Systemd
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager, Unit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import info, look

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root looks at others' homes")

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS id FROM n"
MESSAGES = "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id, role, timestamp, observed)"
TOKEN = "7712345678:AAF-" + "secretsecretsecretsecretsecret123"
NAMES = ("bad", "good")


@pytest.fixture
def host(ground, tmp_path, monkeypatch):
    """A host with two agents of the user nobody, whose gateways are this very process. ``home(name)`` is a home."""
    nobody = Account.named("nobody")
    base = ground / f"hostile-{tmp_path.name}"
    base.mkdir()
    base.chmod(0o755)
    unit_of = {}
    host = Installation(
        {
            **{"scope": "system", "data_dir": str(base)},
            **{"ops_dir": str(tmp_path / "ops"), "root": str(base / "root"), "managed_root": str(base / "m")},
        }
    )
    os.mkdir(host.ops_dir, 0o700)
    described.release(host.root)
    entered = time.clock_gettime(time.CLOCK_MONOTONIC) - 1000
    for name in NAMES:
        home = base / name
        home.mkdir(mode=0o700)
        (home / "gateway_state.json").write_text(
            json.dumps({"pid": os.getpid(), "gateway_state": "running", "platforms": {}})
        )
        unit = f"hermes-gateway@{name}.service"
        unit_of[unit] = Unit(unit, "loaded", "active", "running", True, os.getpid(), 0, "", 0, entered, False)
        host.records(name).write_agent(
            described.agent(name, user="nobody", home=str(home), managed_dir=str(base / "m"), health={"timeout": 0})
        )
        for path in (home, *home.iterdir()):
            os.chown(path, nobody.uid, nobody.gid)
    monkeypatch.setattr(Manager, "units", lambda _self, names: {name: unit_of[name] for name in names})
    monkeypatch.setattr(look, "_failed_units", dict)
    monkeypatch.setattr(look, "settings_path", lambda job: str(tmp_path / job))
    monkeypatch.setattr(journal, "last_lines", lambda *_arguments, **_more: [f"its token is {TOKEN}\x1b[2J"])
    monkeypatch.setattr(info.systemd, "version", lambda: 252)
    monkeypatch.setattr(Installation, "load", lambda **_options: host)
    host.home = lambda name: base / name
    yield host
    shutil.rmtree(base)


@contextlib.contextmanager
def as_the_agent():
    nobody = Account.named("nobody")
    os.setegid(nobody.gid)
    os.seteuid(nobody.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def hole(path: Path) -> None:
    with open(path, "wb") as stream:
        stream.truncate(600 * 2**20)


def database(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join([*lines, "model: *a9", ""])


def fifo_beside(home: Path) -> None:
    database(home / "state.db", MESSAGES)
    os.mkfifo(home / "state.db-journal")


# Attack of an agent -> the findings about it.
DEEDS: dict[str, tuple[Any, set[str]]] = {
    "hole for a state": (lambda home: hole(home / "gateway_state.json"), {"not_ready"}),
    "deep state": (lambda home: (home / "gateway_state.json").write_text("[" * 10**5), {"not_ready"}),
    "pipe for a state": (
        lambda home: ((home / "gateway_state.json").unlink(), os.mkfifo(home / "gateway_state.json")),
        {"not_ready"},
    ),
    "hole for a config": (lambda home: hole(home / "config.yaml"), {"config_unparsable"}),
    "deep config": (lambda home: (home / "config.yaml").write_text("a: " + "[" * 10**5), {"any"}),
    "aliases in config": (lambda home: (home / "config.yaml").write_text(bomb()), {"config_unparsable"}),
    "hole for an environment": (lambda home: hole(home / ".env"), set()),
    "hole for a heartbeat": (
        lambda home: ((home / "state").mkdir(), hole(home / "state/gateway.heartbeat")),
        set(),
    ),
    "pipe for a database": (lambda home: os.mkfifo(home / "state.db"), {"turns_unknown"}),
    "pipe beside a database": (fifo_beside, {"turns_unknown"}),
    "view that never ends": (
        lambda home: database(home / "state.db", f"CREATE VIEW messages AS {ENDLESS}"),
        {"turns_unknown"},
    ),
    "odd times": (
        lambda home: database(home / "state.db", MESSAGES, "INSERT INTO messages VALUES (1, x'ff', 'user', 9e999, 0)"),
        set(),
    ),
    "odd heartbeat": (
        lambda home: (
            (home / "state").mkdir(),
            (home / "state/gateway.heartbeat").write_text(f'{{"pid": {os.getpid()}, "monotonic": -1e999}}'),
        ),
        set(),
    ),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_what_an_agent_does_to_its_home_harms_no_look(host, deed, capsys):
    act, expected = DEEDS[deed]
    with as_the_agent():
        act(host.home("bad"))
    status = cli.main(["check", "--json"])
    report = json.loads(capsys.readouterr().out)
    found = {(finding["agent"], finding["cause"]) for finding in report["findings"]}
    about = {cause for agent, cause in found if agent == "bad"}
    assert not {cause for agent, cause in found if agent == "good"}
    if expected == {"any"}:
        # The parser may report the error, or die of it.
        assert about & {"config_unparsable", "home_unreadable"}
    else:
        assert about == expected
    assert status == (cli.EXIT_OK if about <= {"turns_unknown"} else cli.EXIT_UNHEALTHY)


@pytest.mark.parametrize("deed", ["hole for a state", "aliases in config"])
def test_nor_the_status_screen(host, deed, capsys):
    for name in NAMES:
        host.records(name).write_applied("config", {"keys": [[["model"], "0" * 64]]})
        host.records(name).write_applied("env", {"keys": {"A": "0"}, "salt": "00"})
    with as_the_agent():
        DEEDS[deed][0](host.home("bad"))
    assert cli.main(["status", "--json"]) == cli.EXIT_OK
    agents = json.loads(capsys.readouterr().out)["agents"]
    assert agents["good"]["drift"] == ["model", "env: A"]
    assert agents["bad"]["drift"]


def test_a_token_and_escapes_in_its_words_are_repeated_nowhere(host, capsys, monkeypatch):
    host.__dict__["agents"] = [agent.checked_by(platforms=("telegram",)) for agent in host.agents]
    said = {"state": "fatal", "error_message": f"The token `{TOKEN}` was rejected \x1b]0;owned\x07"}
    state = {"pid": os.getpid(), "gateway_state": "running", "platforms": {"telegram": said}}
    (host.home("bad") / "gateway_state.json").write_text(json.dumps(state))
    (host.home("bad") / ".env").write_text("\x1b[2JNAME=x\n")
    cli.main(["check"])
    cli.main(["check", "--json"])
    cli.main(["status"])
    printed = capsys.readouterr()
    assert "the platform telegram is fatal: The token `(secret)` was rejected" in printed.out
    kept = Path(host.status_path("check")).read_text()
    for text in (printed.out, printed.err, kept):
        assert TOKEN not in text
        assert not set(text) & set("\x1b\x07")
        assert "u001b" not in text


# A gateway of another user, which prints the bytes that it received.
STRANGER = """
import os, socket, sys
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
server = socket.create_server(("127.0.0.1", int(sys.argv[2])))
print("ready", flush=True)
while True:
    connection = server.accept()[0]
    print(connection.recv(65536), flush=True)
    connection.close()
"""


@pytest.fixture
def stranger():
    """A free port that a process of the user daemon holds; ``said()`` ends it and gives what it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-c", STRANGER, str(Account.named("daemon").uid), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"

        def said() -> str:
            process.send_signal(signal.SIGKILL)
            return process.stdout.read()

        yield SimpleNamespace(port=port, said=said)
        process.kill()


def test_whoever_took_the_webhook_s_port_gets_no_context(host, stranger, capsys, monkeypatch):
    (agent,) = host.select("bad")
    host.__dict__["agents"] = [replace(agent, webhook=Server(True, "127.0.0.1", stranger.port))]
    subscriptions = host.home("bad") / "webhook_subscriptions.json"
    subscriptions.write_text(json.dumps({"claude-context": {"secret": "s"}}))
    subscriptions.chmod(0o644)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=SimpleNamespace(read=lambda _limit: b"confidential")))
    assert cli.main(["tell", "--agent", "bad", "--topic", "x"]) == cli.EXIT_UNHEALTHY
    assert "kept, but not delivered" in capsys.readouterr().err
    assert set(stranger.said().split("\n")) <= {"b''", ""}


def test_whoever_took_the_api_s_port_gets_no_key(host, stranger, monkeypatch):
    # As if the other process ran in a unit of the same name.
    monkeypatch.setattr(health.network, "gateway_of", lambda _pid: "bad")
    (agent,) = host.select("bad")
    agent = replace(agent.checked_by(reply=True), api=Server(True, "127.0.0.1", stranger.port))
    (host.home("bad") / ".env").write_text("API_SERVER_KEY=the-key-of-this-agent\n")
    (result,) = health.wait([agent], Systemd(host.manager_of))
    # Hermes, which could not have the port, says so.
    assert result.causes == ["platform_missing", "foreign_answer"], str(result)
    assert set(stranger.said().split("\n")) <= {"b''", ""}


def test_no_error_acts_on_a_terminal(monkeypatch, capsys):
    def fail(_argv):
        raise OpsError("is nobody's\x9b2J", where="user ada\u202e\x1b]0;x\x07", fix="see\nthe list")

    monkeypatch.setattr(cli, "call", fail)
    assert cli.main(["runtime"]) == cli.EXIT_ERROR
    assert capsys.readouterr().err == (
        "hermes-ops: user ada\\u202e\\x1b]0;x\\x07: is nobody's\\x9b2J. Fix: see\nthe list\n"
    )
