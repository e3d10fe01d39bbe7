# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why an agent is not healthy: causes from systemd, from Hermes' state file and from its journal."""

from __future__ import annotations

import http.server
import json
import threading
import time
from dataclasses import replace
from functools import partial

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.state import read_state
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Server as Address
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import (
    health,
    journal,
    servers,
    systemd,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Health, Problem
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import network, request
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager, Unit


def unit(**over):
    values = {
        "name": "hermes-gateway@default.service",
        "load": "loaded",
        "active": "active",
        "sub": "running",
        "enabled": True,
        "pid": 42,
        "restarts": 0,
        "result": "success",
        "status": 0,
        "entered": time.clock_gettime(time.CLOCK_MONOTONIC) - 60,
        "stale": False,
    }
    return Unit(**{**values, **over})


def test_a_running_unit_needs_no_explanation():
    assert systemd.explain_unit(unit()) is None


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ({"load": "not-found", "active": "inactive", "sub": "dead", "pid": 0}, "not_installed"),
        ({"active": "activating", "sub": "auto-restart", "pid": 0, "status": 203}, "wrong_binary"),
        ({"active": "failed", "sub": "failed", "pid": 0, "result": "start-limit-hit"}, "start_limit_hit"),
        ({"active": "activating", "sub": "auto-restart", "pid": 0, "result": "oom-kill"}, "out_of_memory"),
        ({"active": "activating", "sub": "auto-restart", "pid": 0, "status": 78}, "bad_configuration"),
        ({"active": "inactive", "sub": "dead", "pid": 0}, "not_running"),
    ],
)
def test_what_systemd_knows(state, cause):
    problem = systemd.explain_unit(unit(**state))
    assert problem.cause == cause
    assert problem.fix


# Lines as Hermes 0.18.2 and 0.19.0 wrote them.
JOURNAL = {
    "key_too_short": "ERROR gateway.platforms.api_server: [Api_Server] Refusing to start: API_SERVER_KEY is a "
    "placeholder or too short (<16 chars). This endpoint dispatches terminal-capable agent work",
    "refused_bind": "Refusing to start: binding to 0.0.0.0 requires API_SERVER_KEY",
    "missing_dependency": "WARNING gateway.run: API Server: aiohttp not installed",
    "stale_token": "ERROR gateway.config: discord is enabled but DISCORD_BOT_TOKEN is set to a placeholder value",
    "config_unparsable": "  hermes config: Failed to parse /data/.hermes/config.yaml: while parsing a flow sequence",
}


@pytest.mark.parametrize("cause", sorted(JOURNAL))
def test_what_the_journal_says(cause):
    lines = ["INFO gateway.run: starting", JOURNAL[cause], "WARNING gateway.run: No messaging platforms enabled."]
    assert journal.explain_journal(lines).cause == cause


@pytest.mark.parametrize(
    "line",
    [
        # discord.py, python-telegram-bot, slack_sdk, in the words of the adapters of 0.18.2 and 0.19.0.
        "ERROR plugins.platforms.discord.adapter: [Discord] Failed to connect to Discord: Improper token "
        "has been passed.",
        "ERROR plugins.platforms.telegram.adapter: [Telegram] Failed to connect to Telegram: The token `123:abc` was "
        "rejected by the server.",
        "The server responded with: {'ok': False, 'error': 'invalid_auth'}",
    ],
)
def test_a_token_that_a_platform_refuses(line):
    assert journal.explain_journal([line]).cause == "stale_token"


@pytest.mark.parametrize(
    "line",
    [
        "INFO all is well",
        "WARNING gateway.run: Unauthorized user: 1234 (somebody) on discord",
        "WARNING plugins.platforms.discord.adapter: [Discord] Unauthorized slash attempt: user=somebody id=1",
        "WARNING gateway.platforms.qqbot.adapter: [QQBot] Invalid token (4004), will refresh and reconnect",
    ],
)
def test_a_journal_without_a_known_cause(line):
    assert journal.explain_journal([line]) is None


class Systemctl:
    """A service manager; the last process of its units is ``now``."""

    now = "c"
    journal = Manager("system", Account.current()).journal

    def ask(self, *arguments):
        assert "InvocationID" in arguments
        return Completed((), 0, self.now + "\n", "")


@pytest.fixture
def written(monkeypatch):
    """The journal: what each process wrote, as (process, line)."""
    entries = []

    def journalctl(command, **_options):
        wanted = [word.split("=")[1] for word in command if word.startswith("_SYSTEMD_INVOCATION_ID=")]
        column = 0 if "--output-fields" in command else 1
        lines = [entry[column] for entry in entries if not wanted or entry[0] in wanted]
        lines = lines[-int(command[command.index("--lines") + 1]) :]
        return "".join(f"{line}\n" for line in lines)

    monkeypatch.setattr(journal, "run_head", journalctl)
    return entries


def explained(*problems):
    found = Health("default", list(problems))
    journal.explain(described.agent(), systemd.Systemd(lambda _agent: Systemctl()), found)
    return found


def problem(cause):
    return Problem(cause, "what", "fix")


def test_only_the_last_process_explains(written):
    written += [("b", JOURNAL["key_too_short"]), ("c", "INFO waiting")]
    found = explained(problem("not_ready"))
    assert [problem.cause for problem in found.problems] == ["not_ready"]
    assert found.log == ["INFO waiting"]


def test_a_crash_loop_is_explained_by_the_process_before(written):
    written += [("a", JOURNAL["refused_bind"]), ("b", JOURNAL["key_too_short"]), ("c", "INFO starting")]
    found = explained(problem("crash_loop"))
    assert [problem.cause for problem in found.problems] == ["key_too_short", "crash_loop"]
    assert found.log == [JOURNAL["key_too_short"], "INFO starting"]
    written.pop()
    assert explained(problem("crash_loop")).log == [JOURNAL["key_too_short"]]


def test_a_cause_that_was_found_by_looking_is_not_told_twice(written):
    written.append(("c", JOURNAL["config_unparsable"]))
    seen = problem("config_unparsable")
    assert explained(problem("not_ready"), seen).problems == [seen, problem("not_ready")]


def test_a_port_that_nobody_else_holds_is_no_cause(written):
    written.append(("c", "ERROR gateway.platforms.api_server: [Errno 98] address already in use"))
    assert [problem.cause for problem in explained(problem("not_ready")).problems] == ["not_ready"]


def test_of_a_unit_that_systemd_forgot_the_last_process_explains(written, monkeypatch):
    monkeypatch.setattr(Systemctl, "now", "")
    assert explained(problem("not_running")).log == []
    written += [("b", JOURNAL["key_too_short"]), ("c", "INFO stopping")]
    assert explained(problem("not_running")).log == ["INFO stopping"]


class Units:
    """A manager whose unit is in one state after the other, and then stays in the last."""

    scope, account = "system", Account.current()
    journal = Manager("system", account).journal

    def __init__(self, *states):
        self.states = list(states)

    def units(self, names):
        state = self.states[0] if len(self.states) == 1 else self.states.pop(0)
        return dict.fromkeys(names, state)

    def ask(self, *arguments):
        return Completed((), 0, "", "")


@pytest.fixture
def seconds(monkeypatch):
    """A clock that moves only by sleeping; returns the time slept."""
    clock = [0.0]

    def sleep(length):
        clock[0] += length

    monkeypatch.setattr(health.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(health.time, "sleep", sleep)
    return clock


def failed_to_execute(restarts):
    return unit(active="activating", sub="auto-restart", pid=0, status=203, restarts=restarts)


def test_a_failure_to_execute_from_before_the_repair_is_waited_out(tmp_path, seconds):
    (tmp_path / "gateway_state.json").write_text('{"pid": 42, "gateway_state": "running"}')
    manager = Units(failed_to_execute(7), failed_to_execute(7), unit(restarts=8))
    (found,) = health.wait([agent(tmp_path)], systemd.Systemd(lambda _agent: manager))
    assert found.ok


@pytest.mark.parametrize(
    "states",
    [
        [failed_to_execute(7), failed_to_execute(8)],
        [unit(active="failed", sub="failed", pid=0, status=203)],
    ],
)
def test_a_failure_to_execute_that_was_tried_again_is_final(states, tmp_path, written, seconds):
    manager = Units(*states)
    (found,) = health.wait([agent(tmp_path)], systemd.Systemd(lambda _agent: manager))
    assert [problem.cause for problem in found.problems] == ["wrong_binary"]
    assert seconds[0] < 1


@pytest.mark.parametrize(
    "content", ["", "[1]", "{", "null", "\udcff", "[" * 100_000, '{"platforms": [1], "pid": "self"}', '{"pid": true}']
)
def test_a_state_file_that_says_nothing(content, tmp_path):
    (tmp_path / "gateway_state.json").write_bytes(content.encode(errors="surrogateescape"))
    state = read_state(str(tmp_path), Account.current())
    assert not state.get("platforms")
    assert not state.get("pid")


def test_no_state_file(tmp_path):
    assert read_state(str(tmp_path), Account.current()) == {}


def test_of_a_state_file_what_can_be_used_is(tmp_path):
    platforms = {"a": 1, "discord": {"state": "connected"}}
    (tmp_path / "gateway_state.json").write_text(json.dumps({"pid": 42, "platforms": platforms}))
    state = read_state(str(tmp_path), Account.current())
    assert (state["pid"], state["platforms"]) == (42, {"discord": {"state": "connected"}})


def agent(home, **over):
    return replace(described.agent(home=str(home), health={"timeout": 60}), **over)


def test_a_broken_state_file_is_a_gateway_that_is_not_ready(tmp_path):
    (tmp_path / "gateway_state.json").write_text('[{"platforms": {"a": 1}}]')
    found = health.check(agent(tmp_path), Account.current(), systemd.state_of(unit()))
    assert [(problem.cause, problem.what) for problem in found.problems] == [
        ("not_ready", "Hermes reports its state as not started")
    ]


def test_an_agent_without_a_provider_is_not_healthy_however_well_it_serves(tmp_path):
    said = {"pid": 42, "gateway_state": "running", "platforms": {}}
    answer = {"state": said, "config": None, "servers": {}, "no_provider": False}
    judged = partial(health.judge, agent(tmp_path), systemd.state_of(unit()), {})
    assert judged(answer).ok
    (problem,) = judged({**answer, "no_provider": True}).problems
    assert (problem.cause, problem.final) == ("no_provider", True)
    assert problem.fix == "declare its model under config and the model's key under secrets, in hermes_agents"
    # A hostile worker's answer.
    assert judged({**answer, "no_provider": "yes"}).ok


def test_a_gateway_that_became_stable_while_it_was_judged_is_looked_at_again(tmp_path):
    """At first it was too young to be checked; an answer on its port must not count as foreign because of that."""
    server = Address(True, "127.0.0.1", 8642)
    found = health.judge(agent(tmp_path, api=server), systemd.state_of(unit()), {}, {})
    assert [(problem.cause, problem.final) for problem in found.problems] == [("not_stable", False)]


@pytest.mark.parametrize(("works_at_once", "asked"), [(True, 1), (False, 2)])
def test_a_reply_is_asked_for_while_a_gateway_is_too_young_to_be_stable(
    works_at_once, asked, tmp_path, seconds, monkeypatch
):
    """That hides the time it takes. Only what a gateway does once it is stable counts against it."""
    (tmp_path / "gateway_state.json").write_text('{"pid": 42, "gateway_state": "running"}')
    answers = []

    def ask(*_arguments, **_options):
        answers.append(seconds[0])
        seconds[0] += 10
        if not works_at_once and len(answers) == 1:
            raise OpsError("refuses the connection", where="http://127.0.0.1:8642")
        return "yes"

    monkeypatch.setattr(health.servers, "ask", ask)
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    manager = Units(unit(entered=now), unit(entered=now), unit())
    asking = agent(tmp_path, health=replace(agent(tmp_path).health, reply=True))
    (found,) = health.wait([asking], systemd.Systemd(lambda _agent: manager))
    assert (found.ok, found.reply, len(answers)) == (True, "yes", asked)
    # The pauses leave time to starting gateways; a reply that took long is no reason for a long one.
    assert seconds[0] < 10 * asked + 3
    assert answers[0] == 0


def test_a_reply_of_an_earlier_process_does_not_count(tmp_path, seconds, monkeypatch):
    (tmp_path / "gateway_state.json").write_text('{"pid": 42, "gateway_state": "running"}')
    pids = []

    def ask(*_arguments, **_options):
        pids.append(json.loads((tmp_path / "gateway_state.json").read_text())["pid"])
        (tmp_path / "gateway_state.json").write_text('{"pid": 43, "gateway_state": "running"}')
        return "yes"

    monkeypatch.setattr(health.servers, "ask", ask)
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    manager = Units(unit(entered=now), unit(pid=43, restarts=1))
    asking = agent(tmp_path, health=replace(agent(tmp_path).health, reply=True))
    (found,) = health.wait([asking], systemd.Systemd(lambda _agent: manager))
    assert found.ok
    assert pids == [42, 43]


def test_platforms_must_be_connected():
    state = {
        "platforms": {
            "api_server": {"state": "connected"},
            "webhook": {"state": "retrying", "error_message": "failed to connect"},
        }
    }
    problems = health.platform_problems(state, ["api_server", "webhook", "discord"])
    assert [(p.cause, p.final) for p in problems] == [
        ("platform_not_connected", False),
        ("platform_missing", False),
    ]
    assert "webhook is retrying: failed to connect" in problems[0].what


class Server(http.server.BaseHTTPRequestHandler):
    answer: tuple[int, object] = (200, {})

    def _reply(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, body = self.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    do_GET = do_POST = _reply

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    """Answers every request with ``Server.answer``."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Address(True, "127.0.0.1", running.server_address[1])
        running.shutdown()
        thread.join()


def test_health_must_come_from_hermes(server, monkeypatch):
    monkeypatch.setattr(Server, "answer", (200, {"status": "ok", "platform": "hermes-agent", "version": "0.19.0"}))
    problem, answer = servers.server_problem("the api server", server, "hermes-agent", Account.current())
    assert problem is None
    assert answer["version"] == "0.19.0"
    monkeypatch.setattr(Server, "answer", (200, b"<html>It works!</html>"))
    problem, _answer = servers.server_problem("the api server", server, "hermes-agent", Account.current())
    assert problem is not None
    monkeypatch.setattr(Server, "answer", (200, {"platform": "webhook"}))
    problem, _answer = servers.server_problem("the api server", server, "hermes-agent", Account.current())
    assert problem.cause == "foreign_answer"


@pytest.mark.parametrize(("holder", "causes"), [("default", []), ("bridge", ["port_in_use"]), (None, ["port_in_use"])])
def test_the_api_server_must_be_this_agents(server, holder, causes, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "answer", (200, {"status": "ok", "platform": "hermes-agent", "version": "0.19.0"}))
    monkeypatch.setattr(network, "gateway_of", lambda pid: holder)
    state = {"pid": 42, "gateway_state": "running", "platforms": {"api_server": {"state": "connected"}}}
    (tmp_path / "gateway_state.json").write_text(json.dumps(state))
    found = health.check(agent(tmp_path, api=server), Account.current(), systemd.state_of(unit()))
    assert [problem.cause for problem in found.problems] == causes
    assert found.version == (None if causes else "0.19.0")
    if holder == "bridge":
        assert "the gateway of agent bridge" in found.problems[0].what
        assert found.problems[0].fix == "one of the two needs another api.port"


@pytest.mark.parametrize("contained", [False, True])
def test_in_a_container_neither_ports_nor_process_ids_are_those_of_the_host(server, contained, tmp_path, monkeypatch):
    """An agent of the host may have the same port there."""
    monkeypatch.setattr(Server, "answer", (200, {"status": "ok", "platform": "hermes-agent", "version": "0.19.0"}))
    monkeypatch.setattr(network, "gateway_of", lambda pid: "bridge")
    said = {"pid": 2, "gateway_state": "running", "platforms": {"api_server": {"state": "connected"}}}
    (tmp_path / "gateway_state.json").write_text(json.dumps(said))
    state = replace(systemd.state_of(unit()), contained=contained)
    found = health.check(agent(tmp_path, api=server), Account.current(), state)
    assert found.causes == ([] if contained else ["port_in_use", "not_ready"])
    # Also when agents of the host are looked at as well.
    judged = health.judge(agent(tmp_path, api=server), state, {server.port: {1}}, {"state": said, "servers": {}})
    assert ("port_in_use" in judged.causes) != contained
    # What a container says of itself is not believed more than that.
    (tmp_path / "gateway_state.json").write_text(json.dumps({**said, "gateway_state": "starting"}))
    assert "not_ready" in health.check(agent(tmp_path, api=server), Account.current(), state).causes


@pytest.mark.parametrize(("contained", "causes"), [(False, ["no_answer"]), (True, [])])
def test_nobody_on_the_host_accepts_a_connection_to_a_container(server, contained, causes, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "answer", (200, {"status": "ok", "platform": "hermes-agent", "version": "0.19.0"}))
    monkeypatch.setattr(request, "accepted_by", lambda *_arguments: None)
    found = servers.look({"api": server.to_plain()}, contained)
    problem = servers.judge("the api server", server, "hermes-agent", found["api"])
    assert ([problem.cause] if problem else []) == causes
    # A worker is told whether it is one.
    state = replace(systemd.state_of(unit()), contained=contained)
    wanted = []
    monkeypatch.setattr(health.sight, "start", lambda _account, given: wanted.append(given) or dict)
    health.check(agent(tmp_path, api=server), Account.current(), state)
    assert wanted[0]["contained"] is contained


def test_a_port_that_is_taken_explains_a_gateway_that_ends(server, tmp_path):
    ended = unit(active="activating", sub="auto-restart", pid=0, status=1)
    found = health.check(agent(tmp_path, webhook=server), Account.current(), systemd.state_of(ended))
    assert [problem.cause for problem in found.problems] == ["port_in_use", "not_running"]
    assert found.problems[0].final


def test_nobody_listens():
    problem, _answer = servers.server_problem(
        "the api server", Address(True, "127.0.0.1", 1), "hermes-agent", Account.current()
    )
    assert problem.cause == "no_answer"


def test_a_dead_model_is_no_reply(server, monkeypatch):
    dead = {"choices": [{"message": {"content": "API call failed"}, "finish_reason": "error"}]}
    monkeypatch.setattr(Server, "answer", (200, dead))
    with pytest.raises(OpsError, match="check the model"):
        servers.ask(server, Account.current(), "hello", key_in=[], timeout=5)


def test_a_wrong_key_is_named(server, monkeypatch):
    monkeypatch.setattr(Server, "answer", (401, {}))
    with pytest.raises(OpsError, match="API_SERVER_KEY"):
        servers.ask(server, Account.current(), "hello", key_in=[], timeout=5)


def test_a_real_reply(server, monkeypatch):
    monkeypatch.setattr(
        Server, "answer", (200, {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]})
    )
    assert servers.ask(server, Account.current(), "hello", key_in=[], timeout=5) == "yes"


def test_the_signature_is_the_one_that_hermes_computes():
    # gateway/platforms/webhook.py of 0.19.0 wants HMAC-SHA256 of "<timestamp>.<body>"; the figure is from openssl:
    # printf %s 1700000000.{"a":1} | openssl dgst -sha256 -hmac topsecret
    headers = servers.sign("topsecret", b'{"a":1}', 1700000000)
    assert headers["X-Webhook-Signature-V2"] == "6a939b0c71853d606167625a15168ee9188c6a511c773ef4f42d307f3849e50f"


def test_a_journal_without_end_is_read_at_its_beginning(tmp_path, monkeypatch):
    """A program may log lines of many megabytes."""
    program = tmp_path / "journalctl"
    program.write_text("#!/bin/sh\nexec yes a-line-of-the-log\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = Health("default", [problem("not_ready")])
    journal.explain(described.agent(), systemd.Systemd(lambda _agent: Systemctl()), found)
    assert set(found.log[:-1]) == {"a-line-of-the-log"}
    assert sum(map(len, found.log)) <= journal.JOURNAL_BYTES
