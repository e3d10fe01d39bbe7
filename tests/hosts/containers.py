# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers that run an agent as strictly as platforms do."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef0123456789abcdef"
# What Kubernetes calls "restricted", with a root file system that is read-only.
STRICT = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
# Requests to this machine itself, whatever proxy it has.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def docker(*words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, **options)
    assert not check or done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done


def printed(image: str, program: Path) -> str:
    """What the Python *program* prints as root in a container of *image*."""
    options = ("--rm", "--interactive", "--network=none", "--user=0", "--entrypoint=python3")
    return docker("run", *options, image, "-B", "-", input=program.read_text(encoding="utf-8")).stdout


def request(container: str, port: int, path: str, body: Any = None, method: str | None = None) -> Any:
    """What the server at the *port* of *container* answers.

    :param method: by default GET, or POST if there is a *body*
    """
    address = docker("port", container, f"{port}/tcp").stdout.split()[0]
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with DIRECT.open(
        urllib.request.Request(f"http://{address}{path}", data, headers, method=method), timeout=60
    ) as response:
        return json.load(response)


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Call *condition* until it holds, and return its result."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return result


@dataclass
class Container:
    """An agent's container, with a volume and a directory that the platform mounts into it.

    :param given: the directory with ``agent.json`` and ``secrets/``
    :param user: as whom it runs; empty: as the image says
    :param rights: the options of docker that say what it may do
    :param mounts: more of what a platform mounts, as docker's option says it
    :param words: its command; empty: as the image says, else the first is its entrypoint
    :param home: HERMES_HOME
    """

    name: str
    image: str
    network: str
    given: Path
    user: str = ""
    rights: tuple[str, ...] = STRICT
    mounts: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    home: str = "/opt/data/.hermes"

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the container, in place of one that has ended, until it ends."""
        self.remove()
        return docker("run", *self.options({}), self.image, *self.words[1:], check=False)

    def refused(self, word: str) -> subprocess.CompletedProcess[str]:
        """Run the container, which has to end for a wrong description: one error with *word*, and nothing touched."""
        done = self.run()
        assert done.returncode == 78
        assert len(done.stderr.splitlines()) == 1
        assert word in done.stderr
        assert self.on_volume("ls", "-A", "/opt/data") == ""
        return done

    def start(self, **environment: str) -> None:
        """Start the container, in place of one that has ended, and wait until the agent answers."""
        self.remove()
        docker("run", "--detach", *self.options(environment), self.image, *self.words[1:])
        until(self.is_healthy, "the agent answers")

    def options(self, environment: dict[str, str]) -> list[str]:
        return [
            *(f"--name={self.name}", f"--network={self.network}", "--publish=127.0.0.1::8642", *self.rights),
            *([f"--user={self.user}"] if self.user else []),
            *(f"--env={name}={value}" for name, value in environment.items()),
            *(f"--volume={self.name}:/opt/data", f"--volume={self.given}/agent.json:/etc/hermes/agent.json:ro"),
            *(f"--volume={mount}" for mount in (f"{self.given}/secrets:/run/secrets/hermes:ro", *self.mounts)),
            *(f"--entrypoint={word}" for word in self.words[:1]),
        ]

    def remove(self) -> None:
        docker("rm", "--force", self.name, check=False)

    def declare(self, **keys: Any) -> None:
        """Write the description, with *keys* in addition to those of every test."""
        model = {"provider": "custom", "default": "stub-model", "base_url": "http://model:18080/v1"}
        declared = {"name": "ada", "config": {"model": {**model, "api_key": "${MODEL_API_KEY}"}}, **keys}
        self.give("agent.json", json.dumps(declared))

    def hand_in(self, name: str, value: str) -> None:
        """Hand in a secret, as a file."""
        self.give(f"secrets/{name}", value)

    def give(self, name: str, text: str) -> None:
        path = self.given / name
        path.write_text(text)
        # Any user of a container may read what a platform mounts.
        path.chmod(0o644)

    def is_healthy(self) -> bool:
        state = json.loads(docker("inspect", "--format", "{{json .State}}", self.name).stdout)
        assert state["Running"], f"ended with status {state['ExitCode']}: {self.log()}"
        with contextlib.suppress(OSError):
            return request(self.name, 8642, "/health")["status"] == "ok"
        return False

    def reply(self, text: str) -> str:
        """What the agent says to *text*."""
        body = {"model": "hermes-agent", "messages": [{"role": "user", "content": text}]}
        (choice,) = request(self.name, 8642, "/v1/chat/completions", body)["choices"]
        return choice["message"]["content"]

    def execute(self, *words: str, check: bool = True) -> str:
        """What a command prints that runs beside the agent."""
        return docker("exec", self.name, *words, check=check).stdout

    def on_volume(self, command: str, *words: str) -> str:
        """What a command of root prints that runs on the volume in a container of its own."""
        options = ("--rm", "--user=0", f"--volume={self.name}:/opt/data", f"--entrypoint={command}")
        return docker("run", *options, self.image, *words).stdout

    def own(self) -> None:
        """Give the volume to the user, as platforms do."""
        # Docker gives an empty volume to the image's user again at each start.
        self.on_volume("sh", "-c", f"chown {self.user} /opt/data && mkdir /opt/data/lost+found")

    def tell_model(self, what: str, value: Any = None) -> Any:
        """Control the model server: tests/fakes/model_server.py."""
        return request(self.network, 18080, f"/control/{what}", value)

    def state(self) -> dict[str, Any]:
        """What Hermes says of its gateway."""
        return json.loads(self.on_volume("cat", f"{self.home}/gateway_state.json"))

    def log(self) -> str:
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """Stop it as platforms do; returns its exit status."""
        docker("stop", "--time=30", self.name)
        return int(docker("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)


@contextlib.contextmanager
def model_server(image: str) -> Iterator[str]:
    """A network with a model server in it that is called model; yields the name of both."""
    name = f"hermes-test-model-{uuid.uuid4().hex[:8]}"
    docker("network", "create", name)
    try:
        options = ("--network-alias=model", "--publish=127.0.0.1::18080", "--entrypoint=python3")
        options += (f"--name={name}", f"--network={name}", f"--volume={ROOT}/tests/fakes:/fakes:ro")
        docker("run", "--detach", *options, image, "-B", "/fakes/model_server.py", "--host=0.0.0.0")
        yield name
    finally:
        docker("rm", "--force", "--volumes", name, check=False)
        docker("network", "rm", name, check=False)


@contextlib.contextmanager
def declared(image: str, network: str, directory: Path) -> Iterator[Container]:
    """An agent that is declared, but not started.

    :param directory: an empty one, for what is mounted
    """
    (directory / "secrets").mkdir()
    (directory / "secrets").chmod(0o755)
    container = Container(f"hermes-test-agent-{uuid.uuid4().hex[:8]}", image, network, directory)
    container.declare()
    container.hand_in("API_SERVER_KEY", KEY)
    container.hand_in("MODEL_API_KEY", "sk-test")
    try:
        yield container
    finally:
        container.remove()
        docker("volume", "rm", "--force", container.name, check=False)
