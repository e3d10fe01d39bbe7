# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by the tests of all scenarios. Every request is made inside the box, by its own curl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra.backend
import yaml
from xdist.scheduler import LoadScopeScheduling

sys.path.insert(0, str(Path(__file__).resolve().parent / "shared"))
from signing import signed

testinfra.backend.BACKENDS["docker"] = "inside.InsideBackend"

BOX = Path(__file__).resolve().parent.parent / "tests" / "hosts" / "box.py"
AGENTS = "/var/lib/hermes/agents"
# How gateway.log shows what the agent said to a webhook (0.19.0 gateway/platforms/webhook.py, the first 200
# characters); an entry ends where the next one begins.
WEBHOOK_RESPONSE = re.compile(r"Response for webhook:\S+: (.*?)(?=^\d{4}-\d\d-\d\d |\Z)", re.M | re.S)
MODEL_SERVER = "http://127.0.0.1:18080"


@dataclass(frozen=True)
class Answer:
    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def request(
    host: Any, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Ask *url* from inside the box."""
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--request",
        method,
        "--write-out",
        "\n%{http_code}",
    ]
    for name, value in (headers or {}).items():
        command += ["--header", f"{name}: {value}"]
    if body is not None:
        command += ["--data-binary", body.decode()]
    done = host.run(" ".join(["%s"] * (len(command) + 1)), *command, url)
    assert done.rc == 0, f"{method} {url}: {done.stderr}"
    text, _, status = done.stdout.rpartition("\n")
    return Answer(int(status), text)


class Agent:
    """One agent, from the outside: its API server and its webhooks.

    :param scope: the scope of its unit; ``user`` for the manager of its user
    """

    def __init__(self, host: Any, name: str, port: int, webhook_port: int, scope: str) -> None:
        self.host = host
        self.name = name
        self.scope = scope
        self.user = f"hermes-{name}"
        self.home = f"{AGENTS}/{name}/.hermes"
        self.unit = f"hermes-gateway@{name}.service"
        self.url = f"http://127.0.0.1:{port}"
        self.webhook_url = f"http://127.0.0.1:{webhook_port}"

    def read(self, file: str) -> str:
        """A file below the agent's home."""
        with self.host.sudo():
            return self.host.file(f"{self.home}/{file}").content_string

    @property
    def key(self) -> str:
        (line,) = [line for line in self.read(".env").splitlines() if line.startswith("API_SERVER_KEY=")]
        return line.partition("=")[2].strip("\"'")

    def systemctl(self, *arguments: str) -> Any:
        """Ask the manager that the unit belongs to."""
        ask = "systemctl"
        if self.scope == "user":
            runtime = f"XDG_RUNTIME_DIR=/run/user/$(id --user {self.user})"
            ask = f"sudo --user={self.user} env {runtime} systemctl --user"
        return self.host.run(" ".join([ask, *["%s"] * len(arguments)]), *arguments)

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.systemctl("show", "--property", name, "--value", self.unit).stdout.strip()

    @property
    def pid(self) -> int:
        """Main process of the unit, 0 when there is none."""
        return int(self.show("MainPID"))

    def is_healthy(self) -> bool:
        """Whether its API server reports that it is healthy; False while nobody listens."""
        done = self.host.run("curl --silent --max-time 5 %s/health", self.url)
        return done.rc == 0 and json.loads(done.stdout)["status"] == "ok"

    def ask(self, text: str, key: str | None = None) -> Answer:
        """Say *text* to the agent; its reply is in ``choices[0].message.content``."""
        body = {"model": "hermes-agent", "messages": [{"role": "user", "content": text}]}
        headers = {"Authorization": f"Bearer {self.key if key is None else key}", "Content-Type": "application/json"}
        return request(self.host, "POST", f"{self.url}/v1/chat/completions", json.dumps(body).encode(), headers)

    def reply(self, text: str) -> str:
        """What the agent says to *text*."""
        answer = self.ask(text)
        assert answer.status == 200, answer
        (choice,) = answer.json["choices"]
        assert choice["finish_reason"] == "stop", answer.text
        return choice["message"]["content"]

    def post(self, subscription: str, secret: str, payload: Any) -> Answer:
        """Post *payload* to a webhook, signed with *secret*."""
        body = json.dumps(payload).encode()
        return request(self.host, "POST", f"{self.webhook_url}/webhooks/{subscription}", body, signed(secret, body))

    def webhook_replies(self) -> list[str]:
        """What the agent said to webhooks so far."""
        return WEBHOOK_RESPONSE.findall(self.read("logs/gateway.log"))


class Model:
    """The model server in the box; tests/fakes/model_server.py says what it can be told."""

    def __init__(self, host: Any) -> None:
        self.host = host

    def tell(self, method: str, path: str, value: Any = None) -> Any:
        body = None if value is None else json.dumps(value).encode()
        answer = request(self.host, method, f"{MODEL_SERVER}/control{path}", body)
        assert answer.status == 200, answer
        return answer.json

    def faults(self, *faults: dict[str, Any]) -> None:
        self.tell("POST", "/faults", list(faults))

    def script(self, *answers: dict[str, Any]) -> None:
        self.tell("POST", "/script", list(answers))

    def requests(self) -> list[dict[str, Any]]:
        return self.tell("GET", "/requests")


class HostScheduling(LoadScopeScheduling):
    """Hosts run in parallel, the tests of one host one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        host = re.search(r"\[ansible://(\w+-\w+)", nodeid)
        # Some tests need no host.
        return host[1] if host else nodeid


def pytest_xdist_auto_num_workers() -> int:
    """One worker for each host of the scenario."""
    return len(yaml.safe_load(Path(os.environ["MOLECULE_FILE"]).read_text(encoding="utf-8"))["platforms"])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> HostScheduling:
    return HostScheduling(config, log)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Call *condition* until it holds, and return its result; *seconds* limit only a failure."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        # Each call into a box takes a good part of this.
        time.sleep(0.5)
    return result


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def agent(host: Any) -> Callable[..., Agent]:
    """A function that gives an agent: ``agent()``, ``agent("work", port=8643)``."""

    def make(name: str = "default", port: int = 8642, webhook_port: int = 8644, scope: str = "system") -> Agent:
        return Agent(host, name, port, webhook_port, scope)

    return make


@pytest.fixture
def model(host: Any) -> Any:
    """The model server of the box, blank before and after the test."""
    server = Model(host)
    server.tell("DELETE", "")
    yield server
    server.tell("DELETE", "")


@pytest.fixture
def reboot(host: Any) -> Callable[[], None]:
    """A function that reboots the box and returns when systemd has booted."""

    def restart() -> None:
        name = host.backend.host
        subprocess.run([sys.executable, str(BOX), "reboot", name], check=True)

    return restart
