# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the other side of a command may send: a node that is in other hands chooses each byte of it."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
import websocket
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import execute

CONTINUATION, BINARY, CLOSE, PING = 0, 2, 8, 9
ENDED = b"\x02\ntenants: ended\n"


def frame(kind: int, data: bytes, *, last: bool = True, length: int | None = None) -> bytes:
    """A frame that says that it is *length* bytes long."""
    length = len(data) if length is None else length
    return struct.pack("!BBQ", kind | 0x80 * last, 127, length) + data


def status(**said: object) -> bytes:
    return frame(BINARY, b"\x03" + json.dumps(said).encode())


def failed(message: object) -> bytes:
    return status(
        status="Failure",
        reason="NonZeroExitCode",
        message="failed",
        details={"causes": [{"reason": "ExitCode", "message": message}]},
    )


class Cluster:
    """Has the other side of each command send *pieces*."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = pieces

    def execute(self, pod: str, container: str, command: list[str]) -> websocket.WebSocket:
        ours, theirs = socket.socketpair()
        found = websocket.WebSocket()
        found.sock, found.connected = ours, True

        def send() -> None:
            with theirs, contextlib.suppress(OSError):
                for piece in itertools.chain(self.pieces, [frame(CLOSE, b"")]):
                    theirs.sendall(piece)

        threading.Thread(target=send, daemon=True).start()
        return found


def run(*pieces: bytes, endless: Iterable[bytes] = (), seconds: float = 20.0) -> tuple[execute.Ended, bytes]:
    out = io.BytesIO()
    command = execute.Command(("x",), most=1 << 20, seconds=seconds)
    return execute.execute(Cluster(itertools.chain(pieces, endless)), "hermes-acme-0", command, out), out.getvalue()


def test_a_message_may_have_several_frames():
    first, second = frame(BINARY, b"\x01one ", last=False), frame(CONTINUATION, b"message")
    ended, out = run(first, frame(PING, b"?"), second, frame(BINARY, ENDED), status(status="Success"))
    assert (ended.status, out) == (0, b"one message")
    ended, _out = run(frame(BINARY, ENDED), failed("3"))
    assert ended.status == 3


@pytest.mark.parametrize(
    "said",
    [
        *map(failed, (float("inf"), float("nan"), 3, None, "1e999", "-1", "9" * 5000, [], "٣")),
        *(
            frame(BINARY, b"\x03" + text)
            for text in (b"[" * 60_000, b"null", b"[]", b'{"status": []}', b"\xff", b"1e999")
        ),
        status(status="Failure", reason="NonZeroExitCode", details={"causes": [1, None, {"reason": "ExitCode"}]}),
        status(status="Failure", reason="NonZeroExitCode", details=[]),
    ],
)
def test_a_status_that_is_none_is_an_error(said):
    with pytest.raises(OpsError, match="could not be run"):
        run(frame(BINARY, ENDED), said)


def dripping() -> Iterator[bytes]:
    yield frame(BINARY, b"", length=1000)
    while True:
        time.sleep(0.05)
        yield b"x"


@pytest.mark.parametrize("endless", [itertools.repeat(frame(PING, b"?")), dripping()], ids=["pings", "a slow frame"])
def test_what_never_ends_is_ended_in_time(endless):
    began = time.monotonic()
    with pytest.raises(OpsError, match="has not ended after 1 s"):
        run(endless=endless, seconds=1.0)
    assert time.monotonic() - began < 15


def test_a_message_without_an_end_is_counted_as_it_comes():
    first, more = frame(BINARY, b"\x01" + bytes(65536), last=False), frame(CONTINUATION, bytes(65536), last=False)
    tracemalloc.start()
    try:
        with pytest.raises(OpsError, match="wrote more than"):
            run(first, endless=itertools.repeat(more))
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_frame_that_would_be_too_long_is_not_read():
    with pytest.raises(OpsError, match="sends 1099511627776 bytes at once"):
        run(frame(BINARY, b"", length=2**40), endless=itertools.repeat(bytes(65536)))


def test_who_says_nothing_for_long_is_given_up(monkeypatch):
    monkeypatch.setattr(execute, "_MUTE", 0.5)
    with pytest.raises(OpsError, match=r"has not ended after 0\.5 s"):
        run(frame(BINARY, b"\x01x"), endless=(time.sleep(5) or b"" for _each in range(2)))
