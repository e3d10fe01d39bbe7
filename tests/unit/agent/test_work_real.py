# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The work of a real gateway is seen while it is done, and no longer. One gateway of each version does it all."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.work import Work, read_work
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import resting
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from model_server import ModelServer

# Installed Hermes: one virtual environment for each version.
HERMES = [path for path in os.environ.get("TEST_HERMES_VENVS", "").split(":") if path]
KEY = "0123456789abcdef" * 2
SECRET = "s" * 32
API_TURN = "a turn of api_server"
# Seconds in which what began is seen on a busy machine. The first turn loads Hermes' tools.
PATIENCE = 60.0


@dataclass
class Gateway:
    """A real gateway with its own model; :attr:`model` holds its answers back until it is told."""

    venv: Path
    home: Path
    model: ModelServer
    ports: dict[str, int]
    since: float = field(default_factory=time.time)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))

    @property
    def environment(self) -> dict[str, str]:
        home = str(self.home)
        return {"PATH": os.environ["PATH"], "HOME": home, "HERMES_HOME": home, "HERMES_DISABLE_LAZY_INSTALLS": "1"}

    def hermes(self, *words: str) -> str:
        command = [self.venv / "bin/hermes", *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout

    def ask(self, path: str, body: Any = None, *, port: str = "api", headers: dict[str, str] | None = None) -> Any:
        headers = headers or {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[port]}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def chat(self, text: str) -> Future[Any]:
        body = {"model": "hermes-agent", "messages": [{"role": "user", "content": text}]}
        return self.pool.submit(self.ask, "/v1/chat/completions", body)

    def call_webhook(self) -> None:
        body, now = {"x": 1}, int(time.time())
        mac = hmac.new(SECRET.encode(), f"{now}.{json.dumps(body)}".encode(), hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Webhook-Timestamp": str(now), "X-Webhook-Signature-V2": mac}
        self.ask("/webhooks/demo", body, port="webhook", headers=headers)

    @property
    def work(self) -> Work:
        """What it does. A database that is being made has no table yet."""
        deadline = time.monotonic() + PATIENCE
        while (found := read_work(str(self.home), Account.current(), self.since)).unread:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        return found

    def until(self, condition: Callable[[Work], object]) -> Work:
        """Wait until the work is such, and return it."""
        deadline = time.monotonic() + PATIENCE
        while not condition(found := self.work):
            assert time.monotonic() < deadline, (found, (self.home / "out.log").read_text()[-2000:])
            time.sleep(0.1)
        return found

    def at_rest(self) -> Work:
        return self.until(lambda work: not work.busy)

    @contextmanager
    def holding(self, *script: dict[str, Any]) -> Iterator[None]:
        """The model answers with *script*, and nothing before the end of the block."""
        self.model.state.forget()
        self.model.state.faults = [{"hold": True, "times": 0}] if not script else []
        self.model.state.script = list(script)
        try:
            yield
        finally:
            self.model.state.faults = []
            self.model.state.released.set()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def make_home(home: Path, gateway_ports: dict[str, int], model: ModelServer) -> None:
    (home / "scripts").mkdir(parents=True)
    for name in ("wait", "once"):
        (home / f"scripts/{name}.sh").write_text(f"while ! test -e {home}/{name}.end; do sleep 0.1; done; echo done\n")
    config = {
        "model": {"default": "stub-model", "provider": "custom", "api_key": "sk-stub-key"},
        "platforms": {
            "api_server": {"enabled": True, "extra": {"host": "127.0.0.1", "port": gateway_ports["api"], "key": KEY}},
            "webhook": {"enabled": True, "extra": {"host": "127.0.0.1", "port": gateway_ports["webhook"]}},
        },
        "security": {"allow_lazy_installs": False, "tirith_enabled": False},
        "approvals": {"mode": "off"},
    }
    config["model"]["base_url"] = f"http://127.0.0.1:{model.server_port}/v1"
    (home / "config.yaml").write_text(json.dumps(config))
    demo = {"events": [], "secret": SECRET, "prompt": "Alert", "skills": [], "deliver": "log"}
    (home / "webhook_subscriptions.json").write_text(json.dumps({"demo": demo}))


def make_jobs(gateway: Gateway) -> None:
    """One job of each kind, due now, and one tomorrow."""
    for words in (
        ["every 30m", "say something", "--name", "agent"],
        ["every 30m", "--name", "script", "--script", "wait.sh", "--no-agent"],
        ["30m", "--name", "once", "--script", "once.sh", "--no-agent"],
        ["0 9 * * *", "good morning", "--name", "daily"],
    ):
        gateway.hermes("cron", "create", *words)
    path = gateway.home / "cron/jobs.json"
    jobs = json.loads(path.read_text())
    for job in jobs["jobs"]:
        if job["name"] != "daily":
            job["next_run_at"] = (datetime.now(timezone.utc) - timedelta(seconds=1)).isoformat()
    path.write_text(json.dumps(jobs))


@pytest.fixture(params=HERMES or ["none"], ids=os.path.basename)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    if request.param == "none":
        pytest.skip("no real Hermes: set TEST_HERMES_VENVS to virtual environments that have it")
    home = tmp_path_factory.mktemp("hermes") / "home"
    with ModelServer(("127.0.0.1", 0)) as model:
        threading.Thread(target=model.serve_forever, daemon=True).start()
        found = Gateway(Path(request.param), home, model, {"api": free_port(), "webhook": free_port()})
        make_home(home, found.ports, model)
        make_jobs(found)
        found.since = time.time()
        with open(home / "out.log", "w") as log:
            command = [found.venv / "bin/hermes", "gateway", "run"]
            process = subprocess.Popen(
                command, env=found.environment, cwd=home, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield found
        finally:
            model.state.released.set()
            for name in ("wait.end", "once.end"):
                (home / name).touch()
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            model.shutdown()


def names(gateway: Gateway) -> dict[str, str]:
    """Name of a cron job -> its id."""
    jobs = json.loads((gateway.home / "cron/jobs.json").read_text())["jobs"]
    return {job["name"]: job["id"] for job in jobs}


def due_jobs_run_when_the_gateway_starts_and_the_rest_waits_for_them(gateway: Gateway) -> None:
    """The first step: the gateway starts with jobs that are overdue, as one that was woken for them."""
    ids = names(gateway)
    assert set(ids) == {"agent", "script", "once", "daily"}
    wakes: list[Any] = []
    rest = gateway.pool.submit(
        resting.rest, lambda: gateway.work, time.sleep, time.time, wakes.append, lambda line: None
    )
    claimed = f"cron job {ids['once']}"
    with gateway.holding():
        work = gateway.until(lambda work: claimed in work.busy and "a turn of cron" in work.busy)
        # Sooner than a minute: Hermes looks for due jobs as soon as it runs, not only every minute.
        assert time.time() - gateway.since < PATIENCE
        executions = (gateway.home / "cron/executions.db").exists()
        assert executions == ("0.19" in str(gateway.venv))
        for name in ("agent", "script"):
            due, ended = work.jobs[ids[name]]
            assert due > time.time() + 1000
            assert ended == 0.0
    gateway.until(lambda work: "a turn of cron" not in work.busy)
    assert claimed in gateway.work.busy
    (gateway.home / "once.end").touch()
    # On 0.18.2 nothing shows that a repeated script runs, but that it has not ended.
    seen = [f"cron job {ids['script']}"] if executions else []
    gateway.until(lambda work: work.busy == seen)
    time.sleep(5 * resting._LAST_PAUSE)
    assert gateway.work.busy == seen
    assert not rest.done(), rest.exception()
    (gateway.home / "wait.end").touch()
    rest.result(PATIENCE)
    work = gateway.work
    assert wakes[-1] == min(due for due, _ended in work.jobs.values())
    assert work.busy == []
    assert ids["once"] not in work.jobs
    for name in ("agent", "script"):
        due, ended = work.jobs[ids[name]]
        assert due == pytest.approx(ended + 1800)
        assert ended >= gateway.since


def the_next_time_is_hermes_own(gateway: Gateway) -> None:
    due = gateway.work.jobs[names(gateway)["daily"]][0]
    found = re.search(r"Next run:\s+(\S+)", gateway.hermes("cron", "list").partition("daily")[2])
    assert found
    assert datetime.fromisoformat(found[1]).timestamp() == due
    assert 0 < due - time.time() <= 86_400


def a_turn_through_the_api(gateway: Gateway) -> None:
    gateway.at_rest()
    with gateway.holding():
        answer = gateway.chat("hello")
        gateway.until(lambda work: work.busy == [API_TURN])
    assert answer.result(PATIENCE)["choices"][0]["message"]["content"] == "The model heard: hello"
    gateway.at_rest()


def a_turn_whose_caller_does_not_wait(gateway: Gateway) -> None:
    with gateway.holding():
        gateway.ask("/v1/runs", {"input": "later"})
        gateway.until(lambda work: work.busy == [API_TURN])
    gateway.at_rest()


def a_turn_that_waits_for_a_tool(gateway: Gateway) -> None:
    (gateway.home / "wait.end").unlink()
    with gateway.holding(
        {"tool": "terminal", "arguments": {"command": f"bash {gateway.home}/scripts/wait.sh"}}, {"text": "Waited."}
    ):
        answer = gateway.chat("wait")
        gateway.until(lambda work: len(gateway.model.state.requests) == 1 and work.busy)
        time.sleep(1)
        assert gateway.work.busy == [API_TURN]
        (gateway.home / "wait.end").touch()
        assert answer.result(PATIENCE)["choices"][0]["message"]["content"] == "Waited."
    gateway.at_rest()


def a_background_process(gateway: Gateway) -> None:
    (gateway.home / "wait.end").unlink()
    command = f"bash {gateway.home}/scripts/wait.sh"
    with gateway.holding(
        {"tool": "terminal", "arguments": {"command": command, "background": True}}, {"text": "Started."}
    ):
        gateway.chat("start it").result(PATIENCE)
        gateway.until(lambda work: work.busy == ["a background process"])
        (gateway.home / "wait.end").touch()
        gateway.at_rest()


def a_webhook(gateway: Gateway) -> None:
    with gateway.holding():
        gateway.call_webhook()
        assert "a turn of the gateway" in gateway.until(lambda work: work.busy).busy
        gateway.until(lambda work: set(work.busy) == {"a turn of the gateway", "a turn of webhook"})
    gateway.at_rest()


def a_turn_that_failed_looks_like_one_in_work_until_it_is_old(gateway: Gateway) -> None:
    """The last step. A model that fails leaves no answer.

    0.19.0 writes its number of turns more than once when a webhook's turn ends. A last time during this turn, and it
    counts this one too, for as long as a turn counts.
    """
    gateway.model.state.forget()
    gateway.model.state.faults = [{"status": 401, "times": 0}]
    assert gateway.chat("fail").result(PATIENCE)["choices"][0]["finish_reason"] == "error"
    assert set(gateway.work.busy) - {"a turn of the gateway"} == {API_TURN}


def test_what_a_gateway_does_is_seen_while_it_does_it(gateway, monkeypatch):
    monkeypatch.setattr(resting, "_FIRST_PAUSE", 0.2)
    monkeypatch.setattr(resting, "_LAST_PAUSE", 0.5)
    for step in (
        due_jobs_run_when_the_gateway_starts_and_the_rest_waits_for_them,
        the_next_time_is_hermes_own,
        a_turn_through_the_api,
        a_turn_whose_caller_does_not_wait,
        a_turn_that_waits_for_a_tool,
        a_background_process,
        a_webhook,
        a_turn_that_failed_looks_like_one_in_work_until_it_is_old,
    ):
        step(gateway)
