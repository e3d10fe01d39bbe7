#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A ping server for tests: speaks the Healthchecks ping protocol, remembers what arrived, misbehaves on request.

Pings (https://healthchecks.io/docs/http_api/), by GET, HEAD or POST, with ``?rid=<uuid>`` where a run is named:
``/<uuid>``, ``/<uuid>/start``, ``/<uuid>/fail``, ``/<uuid>/log``, ``/<uuid>/<exit status>``. The answer is ``OK``, for
a check that is not known ``OK (not found)``, for a malformed rid status 400.

Control, for tests:

``POST /control/faults``  a list; each entry spoils the next ``times`` (default 1, 0: all) pings with one of ``status``
                          (an HTTP error), ``redirect`` (a URL), ``hold`` (no answer before ``POST /control/release``),
                          ``cut`` (the connection ends without an answer), ``garbage`` (not HTTP), ``drip`` (seconds
                          between the bytes of the answer), ``unknown`` (no such check), or with ``clock`` (seconds
                          that this server's clock is ahead). A ping counts only if the answer was OK
``GET /control/pings``    the pings that count, in order: uuid, kind (``success``, ``start``, ``fail``, ``log``),
                          status, rid, method, body, time
``GET /control/seen``     the kinds of all requests that arrived, whether they count or not
``GET /control/checks``   uuid -> ``up``, ``down``, ``started`` or ``new``, as Healthchecks would show it
``DELETE /control``       forget everything, release held requests
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import threading
import time
import urllib.parse
from email.utils import formatdate
from typing import Any

from handler import Faults, Handler, Server

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
PING = re.compile(rf"/({UUID})(?:/(start|fail|log|\d{{1,3}}))?")
BODY_BYTES = 100_000


class State(Faults):
    """The faults and the requests that arrived; shared by the threads that serve requests."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        super().forget()
        with self.lock:
            self.pings: list[dict[str, Any]] = []
            self.seen: list[str] = []

    def checks(self) -> dict[str, str]:
        found: dict[str, str] = {}
        states = {"success": "up", "fail": "down", "start": "started"}
        with self.lock:
            for ping in self.pings:
                # A log entry changes nothing.
                found[ping["uuid"]] = states.get(ping["kind"], found.get(ping["uuid"], "new"))
        return found


class PingHandler(Handler):
    server: PingServer

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate((timestamp or time.time()) + self.clock, usegmt=True)

    clock = 0.0

    def do_GET(self) -> None:
        state = self.server.state
        if self.path == "/control/checks":
            self.answer(200, json.dumps(state.checks()))
        elif self.path in ("/control/pings", "/control/seen"):
            with state.lock:
                found = json.dumps(getattr(state, self.path.rpartition("/")[2]))
            self.answer(200, found)
        else:
            self.ping()

    def do_HEAD(self) -> None:
        self.ping()

    def do_DELETE(self) -> None:
        if self.path == "/control":
            self.server.state.forget()
            self.answer(200, "{}")
        else:
            self.answer(404, "no such control")

    def do_POST(self) -> None:
        if self.path == "/control/release":
            self.server.state.released.set()
            self.answer(200, "{}")
        elif self.path == "/control/faults":
            faults = json.loads(self.body())
            with self.server.state.lock:
                self.server.state.faults = faults
            self.answer(200, "{}")
        else:
            self.ping()

    def ping(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        match = PING.fullmatch(parts.path)
        # Read first, otherwise the connection breaks while the client still sends the body.
        body = self.body().decode("utf-8", "replace")
        if not match or ((match[2] or "0").isdigit() and int(match[2] or 0) > 255):
            self.answer(404, "not found")
            return
        rid = urllib.parse.parse_qs(parts.query).get("rid", [None])[0]
        if rid is not None and not re.fullmatch(UUID, rid):
            self.answer(400, "invalid uuid format")
            return
        word, status = match[2] or "0", None
        if word.isdigit():
            status = int(word)
            word = "fail" if status else "success"
        state = self.server.state
        released = state.released
        with state.lock:
            state.seen.append(word)
        fault = state.next_fault()
        if self.spoil(fault, released):
            return
        with state.lock:
            state.pings.append(
                {
                    "uuid": match[1],
                    "kind": word,
                    "status": status if match[2] else None,
                    "rid": rid,
                    "method": self.command,
                    "body": body[:BODY_BYTES],
                    "time": time.time(),
                }
            )
        self.answer(200, "OK")

    def spoil(self, fault: dict[str, Any], released: threading.Event) -> bool:
        """Apply *fault* to this ping; False if the ping still counts."""
        self.clock = fault.get("clock", 0.0)
        if "hold" in fault:
            released.wait()
            self.close_connection = True
        elif "cut" in fault:
            self.close_connection = True
        elif "garbage" in fault:
            self.wfile.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            self.close_connection = True
        elif "drip" in fault:
            self.close_connection = True
            with contextlib.suppress(ConnectionError):
                for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
                    self.wfile.write(bytes([byte]))
                    if released.wait(fault["drip"]):
                        break
        elif "redirect" in fault:
            self.answer(302, "", {"Location": fault["redirect"]})
        elif "status" in fault:
            self.answer(fault["status"], "told to fail")
        elif "unknown" in fault:
            self.answer(200, "OK (not found)")
        else:
            return False
        return True

    def answer(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.reply(status, text, "text/plain", headers)


class PingServer(Server):
    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, PingHandler, State())


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A ping server for tests: Healthchecks' protocol, misbehaves on request."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=18090, help="port; 0 takes a free one (%(default)s)")
    arguments = parser.parse_args()
    with PingServer((arguments.host, arguments.port)) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"listening on http://{arguments.host}:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
