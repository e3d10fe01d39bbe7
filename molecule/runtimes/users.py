# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of a host with runtimes: what an application does for one, and what root can."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import shlex
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from control import Controller

# Of group_vars/hermes.yml.
SECRET = "the-secret-of-the-host-that-tests-know"
WEBHOOK, WEBHOOK_SECRET = "alert", "the-secret-of-the-webhook"
URL = "http://127.0.0.1:8640"
# With the time that an agent has to become healthy.
CALL_SECONDS = 90
# The id of systemd's message that a unit was started (sd-messages.h).
STARTED = "39f53479d3a045ac8e11786248231fbf"


def hex_of(user: str) -> str:
    """By the rule in docs/runtimes-keys.md, as an application computes it."""
    if re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", user.lower()):
        return user.lower().replace("-", "")
    digits = hashlib.sha256(b"alwayson.hermes/user/1\0" + user.encode()).hexdigest()
    return digits[:16] + "01234567cdef"[int(digits[16], 16) % 12] + digits[17:32]


def key_of(user: str, version: int = 1, secret: str = SECRET) -> str:
    """By the same rule."""
    code = hmac.digest(secret.encode(), f"alwayson.hermes/key/{version}/{hex_of(user)}".encode(), "sha256")
    return f"hu{version}_{base64.urlsafe_b64encode(code).decode().rstrip('=')}"


def webhook_path_of(user: str, name: str = WEBHOOK, version: int = 1) -> str:
    """By the same rule."""
    text = f"alwayson.hermes/webhook/{version}/{hex_of(user)}/{name}"
    token = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), text.encode(), "sha256")).decode().rstrip("=")
    return f"/w/{hex_of(user)}/hw{version}_{token}/{name}"


@dataclass(frozen=True)
class Answer:
    """``status`` is 0 if the connection ended without one."""

    status: int
    headers: dict[str, str]
    text: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class User:
    """A user of a host, with what an application and root can do."""

    def __init__(self, controller: Controller, name: str) -> None:
        self.controller = controller
        self.shell = controller.shell
        self.name = name
        self.id = hex_of(name)
        self.container = f"hermes-user-{self.id}"
        self.agent, self.front, self.rest = (f"hermes-user{part}@{self.id}.service" for part in ("-agent", "", "-rest"))
        self.socket = f"hermes-user@{self.id}.socket"
        self.data = f"/var/lib/hermes/users/{self.id}"

    # An application's.

    def call(self, path: str = "/health", body: Any = None, key: str | None = None) -> Answer:
        """Call the user's agent, over the one address of the host."""
        headers = [f"Authorization: Bearer {key_of(self.name) if key is None else key}"]
        return self._send(f"/u/{quote(self.name, safe='')}{path}", headers, None if body is None else json.dumps(body))

    def send(self, word: str, *, path: str | None = None, secret: str = WEBHOOK_SECRET) -> Answer:
        """Call the webhook of the user's agent, as whoever knows its address and its secret."""
        body = json.dumps({"word": word})
        now = int(self.shell("date +%s"))
        mac = hmac.new(secret.encode(), f"{now}.{body}".encode(), "sha256").hexdigest()
        headers = [f"X-Webhook-Timestamp: {now}", f"X-Webhook-Signature-V2: {mac}"]
        return self._send(path or webhook_path_of(self.name), headers, body)

    def _send(self, path: str, headers: list[str], body: str | None) -> Answer:
        words = [
            *("curl", "--silent", "--include", "--path-as-is", "--max-time", str(CALL_SECONDS)),
            *([] if body is None else ["--data", body]),
            *(
                word
                for header in [*headers, "Content-Type: application/json", "Expect:"]
                for word in ("--header", header)
            ),
            *("--write-out", "\n%{http_code} %{time_total}", f"{URL}{path}"),
        ]
        said, _, figures = self.shell(f"{shlex.join(words)} || true").rpartition("\n")
        head, _, text = said.replace("\r\n", "\n").partition("\n\n")
        status, seconds = figures.split()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\n")[1:])}
        return Answer(int(status), headers, text, float(seconds))

    def reply(self, text: str) -> str:
        """What the agent says to *text*."""
        body = {"model": "hermes-agent", "messages": [{"role": "user", "content": text}]}
        answer = self.call("/v1/chat/completions", body)
        assert answer.status == 200, answer
        (choice,) = answer.json["choices"]
        assert choice["finish_reason"] == "stop", answer.text
        return choice["message"]["content"]

    def answers(self) -> bool:
        """Whether the agent says that it is healthy, woken if it has to be."""
        return self.call().status == 200

    # Root's.

    def command(self, action: str, *options: str, after: tuple[str, ...] = ()) -> str:
        """What ``hermes-ops runtime ACTION USER`` prints, with *after* behind the user."""
        return self.shell(f"hermes-ops runtime {shlex.join([action, *options, '--', self.name, *after])}")

    def status(self) -> dict[str, Any]:
        return json.loads(self.shell('hermes-ops runtime status --json -- "$1" || true', self.name))

    def show(self, name: str, unit: str = "") -> str:
        """A property of a unit, by default of the agent's."""
        return self.shell(f"systemctl show --property={name} --value '{unit or self.agent}'").strip()

    @property
    def runs(self) -> bool:
        return self.show("ActiveState") == "active"

    @property
    def asleep(self) -> bool:
        """Whether nothing of it runs but its socket."""
        states = self.shell(f"systemctl is-active {self.socket} {self.front} {self.rest} {self.agent} || true").split()
        return states == ["active", "inactive", "inactive", "inactive"]

    def starts(self) -> int:
        """How often the agent's unit was started since boot."""
        self.shell("journalctl --sync")
        log = self.shell(f"journalctl --boot --quiet --output=cat UNIT={self.agent} MESSAGE_ID={STARTED}")
        return len(log.splitlines())

    def inside(self, *words: str, check: bool = True) -> str:
        """What a command prints that runs beside the agent, which is woken by it."""
        assert self.call().status == 200
        return self.shell(shlex.join(["podman", "exec", self.container, *words]), check=check)

    def python(self, program: str, *arguments: str, check: bool = True) -> str:
        """What a program prints that runs beside the agent."""
        return self.inside("python3", "-c", program, *arguments, check=check)

    def lie_down(self) -> None:
        """Put the agent to sleep as if nobody had called for long."""
        self.shell(f"systemctl stop {self.front} {self.rest} 2>&1")


class Model:
    """The model server of a host's agents: tests/fakes/model_server.py says what it can be told."""

    def __init__(self, controller: Controller, url: str) -> None:
        self.controller = controller
        self.url = url

    def tell(self, method: str, what: str, value: Any = None) -> Any:
        script = 'curl --silent --show-error --fail --max-time 30 --request "$1" ${3:+--data-raw "$3"} "$2"'
        data = [] if value is None else [json.dumps(value)]
        return json.loads(self.controller.shell(script, method, f"{self.url}/control{what}", *data))
