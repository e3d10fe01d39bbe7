# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model server of the tests, asked by the client library that Hermes itself uses."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import model_server
import openai
import pytest

TOOLS = [{"type": "function", "function": {"name": "terminal", "parameters": {"type": "object"}}}]


@pytest.fixture
def url() -> Iterator[str]:
    with model_server.ModelServer(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.state.forget()
        server.shutdown()
        thread.join()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0) as made:
        yield made


@pytest.fixture
def control(url: str) -> Callable[..., Any]:
    def ask(method: str, path: str, value: Any = None) -> Any:
        data = None if value is None else json.dumps(value).encode()
        with urllib.request.urlopen(urllib.request.Request(url + path, data, method=method)) as response:
            return json.load(response)

    return ask


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    return client.chat.completions.create(model="stub-model", messages=[{"role": "user", "content": text}], **options)


def test_models_names_the_one_model(client):
    assert [model.id for model in client.models.list()] == ["stub-model"]


@pytest.mark.parametrize("text", ["hello", "two  spaces, a\nline and ümläuts", "", " "])
def test_the_answer_repeats_the_question_streamed_or_not(client, text):
    expected = f"The model heard: {text}"
    assert ask(client, text).choices[0].message.content == expected
    chunks = list(ask(client, text, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_content_in_parts_is_joined(client):
    content = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "The model heard: one two"


def test_usage_comes_when_it_is_asked_for(client):
    chunks = list(ask(client, "hello", stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens == len(["The", "model", "heard:", "hello"])
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_a_scripted_tool_call_then_its_result(client, control, stream):
    control("POST", "/control/script", [{"tool": "terminal", "arguments": {"command": "id"}}])
    # A side question without tools does not use the script up.
    assert ask(client, "title?").choices[0].message.content == "The model heard: title?"
    answer = ask(client, "who am I?", tools=TOOLS, stream=stream)
    if stream:
        chunks = list(answer)
        (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        reason = chunks[-1].choices[0].finish_reason
    else:
        (call,) = answer.choices[0].message.tool_calls
        reason = answer.choices[0].finish_reason
    assert reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("terminal", {"command": "id"})
    messages = [
        {"role": "user", "content": "who am I?"},
        {"role": "tool", "tool_call_id": call.id, "content": "hermes"},
    ]
    answer = client.chat.completions.create(model="stub-model", messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "The tool said: hermes"


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, openai.RateLimitError), (500, openai.InternalServerError), (503, openai.APIError)],
)
def test_an_error_as_often_as_told(client, control, status, error):
    control("POST", "/control/faults", [{"status": status, "times": 2, "retry_after": 7}])
    for _ in range(2):
        with pytest.raises(error) as caught:
            ask(client, "hello")
        assert caught.value.response.headers["Retry-After"] == "7"
    assert ask(client, "hello").choices[0].finish_reason == "stop"


def test_a_fault_without_end_ends_with_the_reset(client, control):
    control("POST", "/control/faults", [{"status": 500, "times": 0}])
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            ask(client, "hello")
    control("DELETE", "/control")
    assert ask(client, "hello").choices[0].finish_reason == "stop"


def test_a_cut_stream_breaks_in_the_middle(client, control):
    control("POST", "/control/faults", [{"cut_after": 2}])
    received = []
    with pytest.raises(httpx.RemoteProtocolError):
        received.extend(chunk.choices[0].delta.content for chunk in ask(client, "hello", stream=True))
    assert len(list(ask(client, "hello", stream=True))) > 2


def test_a_held_answer_comes_with_the_release(client, control):
    control("POST", "/control/faults", [{"hold": True}])
    with pytest.raises(openai.APITimeoutError):
        ask(client, "hello", timeout=0.05)
    control("POST", "/control/faults", [{"hold": True}])
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(ask(client, "hello")))
    waiting.start()
    while len(control("GET", "/control/requests")) < 2:
        assert waiting.is_alive()
    assert not answers
    control("POST", "/control/release")
    waiting.join()
    assert answers[0].choices[0].message.content == "The model heard: hello"


def test_a_delay_is_waited_for(client, control, monkeypatch):
    waited = []
    monkeypatch.setattr(model_server.time, "sleep", waited.append)
    control("POST", "/control/faults", [{"delay": 30}])
    ask(client, "hello")
    assert waited == [30]


def test_what_was_asked_is_kept(client, control):
    ask(client, "one")
    (request,) = control("GET", "/control/requests")
    assert request["authorization"] == "Bearer sk-test"
    assert request["body"]["messages"] == [{"role": "user", "content": "one"}]
    control("DELETE", "/control")
    assert control("GET", "/control/requests") == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("DELETE", "/v1/models", None, 404),
        ("POST", "/nothing", b"{}", 404),
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/control/faults", b"{}", 400),
        ("POST", "/control/script", b"[1]", 400),
    ],
)
def test_a_wrong_request_is_told(url, method, path, body, status):
    request = urllib.request.Request(url + path, body, method=method)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as response:
        assert response.code == status
        assert json.load(response)["error"]["message"]
