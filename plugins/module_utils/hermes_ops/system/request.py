# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends one HTTP request to a server on this host, with limits on size and time, and only to the intended user.

Any user can listen on a port above 1023, and an agent's server may answer with anything. So the request is sent only
after the kernel named the user that accepted the connection, and the answer is read up to a limit and a deadline.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import OpsError
from .network import accepted_by

# Bytes that the headers of an answer may have.
_HEAD = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: |\r\n)")
_LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.I)


class NotSent(OpsError):
    """Nothing was sent, because nobody has accepted the connection."""


class Foreign(NotSent):
    """A process of another user than expected accepted the connection. Nothing was sent."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes


def reachable(host: str) -> str:
    """The address under which this host reaches a server that is bound to *host*."""
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host


def url(host: str, port: int, path: str) -> str:
    """The URL of *path* on a server that is bound to *host*, for messages."""
    host = reachable(host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"


def request(
    host: str,
    port: int,
    path: str,
    *,
    uid: int | None,
    seconds: float,
    limit: int,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """GET *path*, or POST *body* to it, without proxies or redirects.

    :param uid: the user whose process must accept the connection; None: *host* is a container's address, where this
        host sees no process. Then the request must hold no secret
    :param seconds: time for the whole exchange
    :param limit: bytes that the answer's body may have
    :raises Foreign: another user's process accepted the connection
    :raises NotSent: nobody accepted it
    :raises OpsError: no answer, an answer that is not HTTP, or one that is too long
    """
    where, deadline = url(host, port, path), time.monotonic() + seconds
    kind: type[OpsError] = NotSent
    try:
        with socket.create_connection((reachable(host).encode(), port), timeout=seconds) as connection:
            if uid is not None:
                _refuse_others(connection, deadline, uid, where, seconds)
            data = _head(host, port, path, body, headers or {}) + (body or b"")
            kind = OpsError
            connection.sendall(data)
            return _reply(connection, deadline, limit)
    except (TimeoutError, socket.timeout):  # two different classes before Python 3.10
        raise kind(f"no answer within {seconds:g} s", where=where, fix="see the log") from None
    except OSError as error:
        raise kind(f"does not answer ({error.strerror or error})", where=where, fix="see the log") from None
    except ValueError as error:
        raise kind(f"answers with {error}", where=where, fix="see the log") from None


def _refuse_others(connection: socket.socket, deadline: float, uid: int, where: str, seconds: float) -> None:
    holder = accepted_by(connection, deadline)
    if holder is None:
        raise NotSent(f"no answer within {seconds:g} s", where=where, fix="see the log")
    if holder != uid:
        raise Foreign(
            f"is answered by a process of user id {holder}, not the agent's ({uid})",
            where=where,
            fix=f"see who holds port {connection.getpeername()[1]}: ss -ltnp",
        )


def _head(host: str, port: int, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    # With HTTP/1.0 the answer is not chunked, and the server closes the connection after it.
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
        part = receive(connection, deadline)
        if not part:
            raise ValueError("something that is not HTTP" if data else "nothing")
        data += part
        # The search goes back 3 bytes, because a part may end within the blank line.
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
        part = receive(connection, deadline)
        if not part:
            if expected is not None:
                raise ValueError("an incomplete answer")
            break
        body += part
    return Reply(int(status[1]), bytes(body[:expected]))


def receive(connection: socket.socket, deadline: float, most: int = 1 << 16) -> bytes:
    """Up to *most* bytes of what comes next over *connection*; empty: it has ended.

    :raises OSError: nothing came before the *deadline* of the monotonic clock
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return connection.recv(most)
