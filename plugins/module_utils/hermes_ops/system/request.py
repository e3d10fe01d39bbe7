# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One HTTP request to a server on this host: bounded, in bounded time, and only to whom it is meant for.

Any user can listen on a port above 1023, and an agent's server may answer with anything. So a request is sent after the
kernel said who accepted the connection, and what comes back is read up to a limit until a deadline.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import OpsError
from .network import accepted_by

# Bytes of an answer's head.
_HEAD = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: |\r\n)")
_LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.I)


class Foreign(OpsError):
    """The port is not held by whom the request is meant for. Nothing was sent."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes


def reachable(host: str) -> str:
    """The address to ask a server that is bound to *host*."""
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host


def url(host: str, port: int, path: str) -> str:
    """The URL of *path* at a server that is bound to *host*, for people."""
    host = reachable(host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"


def request(
    host: str,
    port: int,
    path: str,
    *,
    uid: int,
    seconds: float,
    limit: int,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """GET *path*, or POST *body* to it, without proxies or redirects.

    :param uid: the user whose process has to accept the connection
    :param seconds: for all of it
    :param limit: bytes of the answer's body
    :raises Foreign: somebody else's process accepted the connection
    :raises OpsError: no answer, one that is no HTTP, or a longer one
    """
    where, deadline = url(host, port, path), time.monotonic() + seconds
    try:
        with socket.create_connection((reachable(host).encode(), port), timeout=seconds) as connection:
            holder = accepted_by(connection, deadline)
            if holder is None:
                raise OpsError(f"no answer within {seconds:g} s", where=where, fix="see the log")
            if holder != uid:
                raise Foreign(
                    f"is answered by a process of user id {holder}, not of the agent's ({uid})",
                    where=where,
                    fix=f"see who holds port {port}: ss -ltnp",
                )
            connection.sendall(_head(host, port, path, body, headers or {}) + (body or b""))
            return _reply(connection, deadline, limit)
    except (TimeoutError, socket.timeout):  # two of them before Python 3.10
        raise OpsError(f"no answer within {seconds:g} s", where=where, fix="see the log") from None
    except OSError as error:
        raise OpsError(f"does not answer ({error.strerror or error})", where=where, fix="see the log") from None
    except ValueError as error:
        raise OpsError(f"answers with {error}", where=where, fix="see the log") from None


def _head(host: str, port: int, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    # HTTP/1.0: the answer comes in one piece, and the server ends the connection.
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.0", f"Host: {reachable(host)}:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("nothing: a header of the request holds a line break")
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


def _reply(connection: socket.socket, deadline: float, limit: int) -> Reply:
    data, end = bytearray(), -1
    while end < 0:
        part = _receive(connection, deadline)
        if not part:
            raise ValueError("something that is not HTTP" if data else "nothing")
        data += part
        # Also where a part ends within the mark.
        end = data.find(b"\r\n\r\n", max(0, len(data) - len(part) - 3))
        if end < 0 and len(data) > _HEAD:
            raise ValueError(f"more than {_HEAD} bytes of headers")
    head, body = bytes(data[: end + 2]), data[end + 4 :]
    status, length = _STATUS.match(head), _LENGTH.search(head)
    if not status:
        raise ValueError("something that is not HTTP")
    expected = int(length[1]) if length else None
    while expected is None or len(body) < expected:
        if len(body) > limit or (expected or 0) > limit:
            raise ValueError(f"more than {limit} bytes")
        part = _receive(connection, deadline)
        if not part:
            if expected is not None:
                raise ValueError("a part of an answer, then it ended")
            break
        body += part
    return Reply(int(status[1]), bytes(body[:expected]))


def _receive(connection: socket.socket, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return connection.recv(1 << 16)
