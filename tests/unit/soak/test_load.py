# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of a soak: only a whole reply of the model counts as an acknowledgement."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import load
import model_server
import pytest
from load import Users


@pytest.fixture
def server() -> Iterator[model_server.ModelServer]:
    with model_server.ModelServer(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.state.forget()
        server.shutdown()
        thread.join()


def after(users: Users, number: int) -> list[load.Message]:
    """The messages of *users* once there are *number*."""
    users.begin()
    while len(users.messages) < number:
        time.sleep(0.01)
    users.end()
    return users.messages


def test_messages_are_numbered_and_noted(server, monkeypatch):
    monkeypatch.setattr(load, "PAUSE", 0.01)
    server.state.faults = [{"times": 2, "status": 500}]
    users = Users({"default": server.server_port}, lambda: "127.0.0.1", "a-key")
    began = time.time()
    found = after(users, 4)
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    assert [each.answered is None for each in found[:4]] == [True, True, False, False]
    assert users.silent_since(began) == []
    assert users.silent_since(time.time()) == ["default"]
    (first, *_others) = server.state.requests
    assert first["authorization"] == "Bearer a-key"
    assert first["body"]["messages"][-1]["content"] == load.text_of(1)


def test_nobody_there_is_no_acknowledgement(monkeypatch):
    monkeypatch.setattr(load, "PAUSE", 0.01)
    users = Users({"default": 1}, lambda: "127.0.0.1", "a-key")
    assert all(each.answered is None for each in after(users, 2))
    assert users.silent_since(0.0) == ["default"]


def reply(content: str | None, reason: str = "stop") -> dict[str, object]:
    return {"choices": [{"finish_reason": reason, "message": {"content": content}}]}


def test_only_the_models_whole_reply_counts():
    text = load.text_of(7)
    assert load.is_reply(reply(f"The model heard: {text}"), text)
    for answer in (
        # Hermes answers a turn that failed with status 200 as well.
        reply(f"The model heard: {text}", "error"),
        reply("The model heard: This is message 8 of the soak."),
        reply(None),
        {"choices": []},
        {"error": {"message": "full"}},
        [],
        None,
    ):
        assert not load.is_reply(answer, text)
