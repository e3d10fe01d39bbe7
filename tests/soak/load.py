# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users: each sends one message after the other to its agent's API, and notes which were acknowledged."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from ledger import Message

# Seconds between two messages to an agent, and for one answer.
PAUSE = 0.5
ANSWER_SECONDS = 30.0
# How the model server of the tests begins its reply.
HEARD = "The model heard: "


def text_of(number: int) -> str:
    """The message with *number*. The last word ends it, so that no number is the beginning of another."""
    return f"This is message {number} of the soak."


def is_reply(answer: Any, text: str) -> bool:
    """Whether *answer* of the API is the model's whole reply to *text*; Hermes answers 200 also when a turn failed."""
    try:
        choice = answer["choices"][0]
        return choice["finish_reason"] == "stop" and choice["message"]["content"] == f"{HEARD}{text}"
    except (LookupError, TypeError):
        return False


class Users:
    """One user for each agent, in threads of their own.

    :param ports: agent -> port of its API
    :param address: gives the host's address, which changes when it boots
    :param key: of the API
    """

    def __init__(self, ports: dict[str, int], address: Callable[[], str], key: str) -> None:
        self._ports = ports
        self._address = address
        self._key = key
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._number = 0
        self._messages: list[Message] = []
        self._threads = [threading.Thread(target=self._talk, args=(agent,), daemon=True) for agent in ports]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Send nothing more; returns when the last answers are there."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def messages(self) -> list[Message]:
        with self._lock:
            return list(self._messages)

    def silent_since(self, moment: float) -> list[str]:
        """The agents that have answered no message that was sent after *moment*."""
        heard = {each.agent for each in self.messages if each.answered is not None and each.sent > moment}
        return [agent for agent in self._ports if agent not in heard]

    def _talk(self, agent: str) -> None:
        while not self._over.is_set():
            with self._lock:
                self._number += 1
                number = self._number
            sent = time.time()
            answered = time.time() if self._acknowledged(agent, text_of(number)) else None
            with self._lock:
                self._messages.append(Message(number, agent, sent, answered))
            self._over.wait(PAUSE)

    def _acknowledged(self, agent: str, text: str) -> bool:
        """Whether the agent answers *text* with status 200 and the model's reply to it."""
        body = {"model": "hermes-agent", "messages": [{"role": "user", "content": text}]}
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(self._address(), self._ports[agent], timeout=ANSWER_SECONDS)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            return response.status == 200 and is_reply(json.loads(response.read()), text)
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()
