# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by the servers of the tests: quiet handlers, faults on request, clients that may give up.

Standard library only: the directory is copied into a box, and a server runs there with the box's own Python.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Faults:
    """A list of faults, each of which spoils the next ``times`` (default 1, 0: all) requests."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.faults: list[dict[str, Any]] = []
        # Set when requests that a fault holds may go on.
        self.released = threading.Event()

    def forget(self) -> None:
        """Remove all faults, and release held requests."""
        with self.lock:
            self.faults = []
            self.released.set()
            self.released = threading.Event()

    def next_fault(self) -> dict[str, Any]:
        """The fault for this request; ``{}`` for none."""
        with self.lock:
            if not self.faults:
                return {}
            fault = self.faults[0]
            times = fault.get("times", 1)
            if times == 1:
                self.faults.pop(0)
            elif times > 1:
                fault["times"] = times - 1
            return fault


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """No access log: each server records its requests."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, data: bytes | str, kind: str, headers: dict[str, str] | None = None) -> None:
        """:param kind: the content's type"""
        data = data.encode() if isinstance(data, str) else data
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """:param address: host and port to listen on; port 0 takes a free one, then found in ``server_port``
    :param state: shared by its handlers
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[Handler], state: Any) -> None:
        self.state = state
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Several tests have clients that give up, so that is not an error.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
