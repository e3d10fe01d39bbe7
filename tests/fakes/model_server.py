#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model server for tests and demo: speaks the OpenAI chat API, answers predictably, misbehaves on request.

``POST /v1/chat/completions`` (streaming or not) repeats the last message: ``The model heard: …`` for a person's
message, ``The tool said: …`` for a tool's result. ``GET /v1/models`` names the one model.

Control, for tests:

``POST /control/faults``    a list; each entry spoils the next ``times`` (default 1, 0: all) chat requests with one or
                            more of ``status`` (an HTTP error; ``retry_after`` in seconds), ``delay`` (seconds
                            before the answer), ``hold`` (no answer before ``POST /control/release``), ``pause``
                            (seconds before each piece of a streamed answer), ``cut_after`` (number of pieces of a
                            streamed answer after which the connection breaks)
``POST /control/script``    a list of answers for the next requests that offer tools, each ``{"text": …}`` or
                            ``{"tool": NAME, "arguments": {…}}``
``GET /control/requests``   the requests so far: path, authorization header and body of each
``DELETE /control``         forget faults, script and requests, release held requests
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from typing import Any

from handler import Faults, Handler, Server

MODEL = "stub-model"


def text_of(content: Any) -> str:
    """The text in a message's content, which is a string or a list of parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def answer_to(messages: list[dict[str, Any]]) -> str:
    """The model's answer when no script is set."""
    for message in reversed(messages):
        if message.get("role") == "tool":
            return f"The tool said: {text_of(message.get('content'))}"
        if message.get("role") == "user":
            return f"The model heard: {text_of(message.get('content'))}"
    return "The model heard nothing."


def pieces_of(text: str) -> list[str]:
    """*text* in pieces, as a model streams words; joined, they give *text* again."""
    words = text.split(" ")
    return [word if first else f" {word}" for first, word in zip([True] + [False] * len(words), words)]


class State(Faults):
    """The control settings and the requests; shared by the threads that serve requests."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        super().forget()
        with self.lock:
            self.script: list[dict[str, Any]] = []
            self.requests: list[dict[str, Any]] = []
            self.number = 0

    def record(self, request: dict[str, Any]) -> int:
        with self.lock:
            self.requests.append(request)
            self.number += 1
            return self.number

    def next_answer(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            # Side questions (a title for the session) offer no tools and leave the script alone.
            if self.script and body.get("tools"):
                return self.script.pop(0)
        return {"text": answer_to(body.get("messages", []))}


class ModelHandler(Handler):
    server: ModelServer

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "tests"}
            self.answer(200, {"object": "list", "data": [model]})
        elif self.path == "/control/requests":
            with self.server.state.lock:
                requests = list(self.server.state.requests)
            self.answer(200, requests)
        else:
            self.error(404, f"no {self.path} here")

    def do_DELETE(self) -> None:
        if self.path == "/control":
            self.server.state.forget()
            self.answer(200, {})
        else:
            self.error(404, f"no {self.path} here")

    def do_POST(self) -> None:
        try:
            body = json.loads(self.body() or b"null")
        except ValueError as error:
            self.error(400, f"the body is not JSON: {error}")
            return
        state = self.server.state
        if self.path == "/v1/chat/completions":
            if not isinstance(body, dict):
                self.error(400, "the body is not an object")
                return
            self.complete(body)
        elif self.path in ("/control/faults", "/control/script"):
            if not isinstance(body, list) or not all(isinstance(entry, dict) for entry in body):
                self.error(400, "a list of objects is expected")
                return
            with state.lock:
                setattr(state, self.path.rpartition("/")[2], body)
            self.answer(200, {})
        elif self.path == "/control/release":
            state.released.set()
            self.answer(200, {})
        else:
            self.error(404, f"no {self.path} here")

    def complete(self, body: dict[str, Any]) -> None:
        state = self.server.state
        released = state.released
        number = state.record({"path": self.path, "authorization": self.headers.get("Authorization", ""), "body": body})
        fault = state.next_fault()
        if fault.get("hold"):
            released.wait()
        if "delay" in fault:
            time.sleep(fault["delay"])
        if "status" in fault:
            retry = {"Retry-After": str(fault["retry_after"])} if "retry_after" in fault else {}
            self.error(fault["status"], "told to fail", retry)
            return
        answer = state.next_answer(body)
        identity = {"id": f"chatcmpl-{number}", "created": 0, "model": body.get("model") or MODEL}
        if "tool" in answer:
            function = {"name": answer["tool"], "arguments": json.dumps(answer.get("arguments", {}))}
            call = {"id": f"call-{number}", "type": "function", "function": function}
            message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
            deltas: list[dict[str, Any]] = [{"tool_calls": [{"index": 0, **call}]}]
            reason = "tool_calls"
        else:
            message = {"role": "assistant", "content": answer["text"]}
            deltas = [{"content": piece} for piece in pieces_of(answer["text"])]
            reason = "stop"
        usage = {"prompt_tokens": len(json.dumps(body)) // 4, "completion_tokens": len(deltas)}
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self.answer(200, {**identity, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        chunks = [{"role": "assistant", "content": ""}, *deltas]
        events: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in chunks
        ]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append({"choices": [], "usage": usage})
        self.stream([{**identity, "object": "chat.completion.chunk", **event} for event in events], fault)

    def stream(self, events: list[dict[str, Any]], fault: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for sent, event in enumerate([*(json.dumps(event) for event in events), "[DONE]"]):
            if sent == fault.get("cut_after"):
                # Without the closing chunk the connection looks broken to the client.
                self.close_connection = True
                return
            time.sleep(fault.get("pause", 0))
            data = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def error(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.answer(status, {"error": {"message": text, "type": "stub_error", "code": status}}, headers)

    def answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self.reply(status, json.dumps(value), "application/json", headers)


class ModelServer(Server):
    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, ModelHandler, State())


def main() -> None:
    parser = argparse.ArgumentParser(description="A model server for tests: OpenAI chat API, misbehaves on request.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=18080, help="port; 0 takes a free one (%(default)s)")
    arguments = parser.parse_args()
    with ModelServer((arguments.host, arguments.port)) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"listening on http://{arguments.host}:{server.server_port}/v1", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
