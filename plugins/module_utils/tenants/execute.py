# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs commands in the pods of tenants, through the API server.

A command runs beside the agent, as its user, so all that comes back is the agent's to choose: it is bounded, and made
printable before it is shown.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from socket import SHUT_RDWR
from typing import Any, BinaryIO

from ..hermes_ops.system.answer import fits
from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.files import failure
from ..hermes_ops.system.text import brief, printable
from ..hermes_ops.system.worker import WorkerDied, parse
from .cluster import Cluster
from .objects import CONTAINER, NAME, SELECTOR, annotations
from .readiness import by_label, reason

try:
    from websocket import ABNF, WebSocket, WebSocketException, WebSocketTimeoutException
except ImportError:
    # Without the client there is no Cluster either.
    WebSocket = object  # type: ignore[assignment, misc]

# If its node is lost meanwhile, the API server says that a command has succeeded (1.34). So each ends with this line.
_ENDED = "tenants: ended"
_SHELL = ("sh", "-c", '"$@"; status=$?; printf "\\n%s\\n" "$0" >&2; exit $status', _ENDED)
# Of channel.k8s.io, v4 and v5.
_STDIN, _STDOUT, _STDERR, _STATUS = range(4)
# Bytes of standard input in one message; of standard error that are kept, its end; and of the status.
_PIECE, _SAID, _LARGEST_STATUS = 32 * 1024, 16 * 1024, 64 * 1024
# Seconds for a command about a whole home.
WHOLE = 7200.0
# Bytes of a frame; kubelets write some ten thousand. Characters that are shown of what the other side says.
_FRAME, _SHOWN = 4 * 2**20, 1000
# Seconds of silence after which the other side is pinged, since what lies between drops connections that are not used;
# and after which a command is given up, which would hold up others.
_SILENCE, _MUTE = 20.0, 900.0
_EXIT = re.compile("[0-9]{1,3}")


@dataclass(frozen=True)
class Command:
    """What is run in a pod.

    :param given: its standard input, of which it has to know the end: that the API server passes it on is not certain
    :param file: path of a file that is its standard input instead
    :param most: bytes that it may write to standard output
    :param seconds: that it may take
    """

    words: tuple[str, ...]
    given: bytes = b""
    file: str = ""
    most: int = 4 * 2**20
    seconds: float = 120.0


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    :param status: its exit status
    :param said: its standard error, printable
    """

    status: int
    said: str


def said(ended: Ended) -> str:
    """Why a command failed, in its own words."""
    words = brief(ended.said.replace("hermes-ops: ", ""), _SHOWN) or "nothing was said about it"
    return f"ended with status {ended.status}: {words}"


def running(cluster: Cluster, names: Sequence[str] = ()) -> tuple[dict[str, str], dict[str, OpsError]]:
    """The tenants whose agents run, by name -> their pods; and why others cannot be asked.

    :param names: only these; empty: all that are there
    """
    keepers, pods = by_label(cluster, "apps/v1", "StatefulSet"), cluster.all("v1", "Pod", SELECTOR)
    known = {annotations(each).get(NAME, label): f"{each['metadata']['name']}-0" for label, each in keepers.items()}
    found: dict[str, str] = {}
    errors: dict[str, OpsError] = {}
    for name in sorted(set(names or known)):
        pod = pods.get(known.get(name, ""))
        if pod and runs(pod):
            found[name] = known[name]
            continue
        why = f"does not run: {reason(pod)}" if name in known else "is not there"
        errors[name] = OpsError(why, where=f"tenant {name}", fix="see how it is: alwayson.hermes.tenants_status")
    return found, errors


def runs(pod: dict[str, Any]) -> bool:
    """Whether the container of a pod that is the agent's runs."""
    states = pod.get("status", {}).get("containerStatuses", ())
    return any(each["name"] == CONTAINER and "running" in each.get("state", {}) for each in states)


def execute(cluster: Cluster, pod: str, command: Command, out: BinaryIO) -> Ended:
    """Run *command* in *pod*, and write its standard output to *out*.

    :raises OpsError: it could not be run, or not be followed to its end; it may go on
    """
    where, deadline = f"Pod {pod}", time.monotonic() + command.seconds
    socket = cluster.execute(pod, CONTAINER, [*_SHELL, *command.words])
    try:
        for piece in _given(command):
            socket.send_binary(bytes([_STDIN]) + piece)
            if time.monotonic() > deadline:
                raise _late(where, command.seconds)
        said, status, written = bytearray(), bytearray(), 0
        for channel, data in _heard(socket, deadline, where, command.seconds):
            if channel == _STDOUT:
                written += len(data)
                if written > command.most:
                    raise OpsError(f"wrote more than {command.most} bytes", where=where, fix="see what the agent left")
                _write(out, data)
            elif channel == _STDERR:
                said += data
                del said[:-_SAID]
            elif channel == _STATUS:
                status += data
                del status[_LARGEST_STATUS:]
    except (WebSocketException, OSError) as error:
        raise _cut(where, brief(str(error), _SHOWN)) from None
    finally:
        socket.shutdown()
    if not status:
        raise _cut(where, "there is no exit status")
    ended = _status(bytes(status), where)
    text, mark, _rest = said.decode("utf-8", "replace").rpartition(f"\n{_ENDED}\n")
    if not mark:
        raise _cut(where, "its node is lost, or it was killed")
    return Ended(ended, printable(text))


def _heard(socket: WebSocket, deadline: float, where: str, seconds: float) -> Iterator[tuple[int, bytes]]:
    """What comes until the other side ends: the number of its channel, and the data.

    By frames, which API servers pass on as a node wrote them: a message may have any number of those, of any length.
    """
    # Else a frame that comes byte by byte would be waited for.
    watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), _end, [socket])
    watchdog.daemon = True
    watchdog.start()
    try:
        channel, heard = -1, time.monotonic()
        while True:
            left = min(deadline, heard + _MUTE) - time.monotonic()
            if left <= 0:
                raise _late(where, seconds if time.monotonic() >= deadline else _MUTE)
            socket.settimeout(min(left, _SILENCE))
            try:
                frame = _frame(socket, where)
            except WebSocketTimeoutException:
                socket.ping()
                continue
            if frame.opcode == ABNF.OPCODE_CLOSE:
                return
            if frame.opcode == ABNF.OPCODE_PING:
                # Who has ended may still be read.
                with contextlib.suppress(WebSocketException, OSError):
                    socket.pong(frame.data)
            if frame.opcode not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT, ABNF.OPCODE_CONT):
                continue
            data = frame.data
            if frame.opcode != ABNF.OPCODE_CONT and data:
                channel, data = data[0], data[1:]
            if data:
                heard = time.monotonic()
                yield channel, data
    except (WebSocketException, OSError):
        if time.monotonic() >= deadline:
            raise _late(where, seconds) from None
        raise
    finally:
        watchdog.cancel()


def _end(socket: WebSocket) -> None:
    with contextlib.suppress(OSError, AttributeError):
        socket.sock.shutdown(SHUT_RDWR)


def _frame(socket: WebSocket, where: str) -> ABNF:
    """The next frame. What has come of it before a time-out is kept by the client.

    :raises OpsError: it would be too long
    """
    coming = socket.frame_buffer
    # The client has no limit of its own, and reads only what is still to come.
    if coming.header is None:
        coming.recv_header()
    if coming.length is None:
        coming.recv_length()
    if coming.length > _FRAME:
        raise OpsError(f"sends {coming.length} bytes at once", where=where, fix="see what is between, and its node")
    return socket.recv_frame()


def _given(command: Command) -> Iterator[bytes]:
    """The standard input of *command*."""
    try:
        with open(command.file, "rb") if command.file else io.BytesIO(command.given) as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except OSError as error:
        raise failure("read", command.file, error) from None


def _write(out: BinaryIO, data: bytes) -> None:
    try:
        out.write(data)
    except OSError as error:
        raise failure("written", str(getattr(out, "name", "the output")), error) from None


def _late(where: str, seconds: float) -> OpsError:
    return OpsError(f"has not ended after {seconds:g} s", where=where, fix="run it again, or see what it does")


def _cut(where: str, why: str) -> OpsError:
    return OpsError(f"the connection was cut off ({why}); what was begun may go on", where=where, fix="run it again")


def _status(text: bytes, where: str) -> int:
    """The exit status in what the API server says at the end (meta/v1 Status)."""
    message = "the status is none"
    with contextlib.suppress(WorkerDied):
        said = parse(text)
        if fits(said, {str: object}):
            if said.get("status") == "Success":
                return 0
            details = said.get("details")
            causes = details.get("causes") if isinstance(details, dict) else None
            if said.get("reason") == "NonZeroExitCode" and isinstance(causes, list):
                for each in causes:
                    if fits(each, {"reason": str, "message": str}) and _EXIT.fullmatch(each["message"]):
                        return int(each["message"])
            message = str(said.get("message") or message)
    raise OpsError(f"the command could not be run: {brief(message, _SHOWN)}", where=where, fix="see the node's log")
