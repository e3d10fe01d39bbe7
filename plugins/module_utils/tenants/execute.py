# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs commands in the pods of tenants, through the API server.

A command runs beside the agent, as its user, so all that comes back is the agent's to choose: it is bounded, and made
printable before it is shown.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.files import failure
from ..hermes_ops.system.text import printable
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
# Seconds of silence after which the other side is pinged: what lies between drops connections that are not used.
_SILENCE = 20.0


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
    words = " ".join(ended.said.replace("hermes-ops: ", "").split()) or "nothing was said about it"
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
        raise _cut(where, printable(str(error))) from None
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
    """What comes until the other side ends: the number of its channel, and the data."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _late(where, seconds)
        socket.settimeout(min(left, _SILENCE))
        try:
            kind, message = socket.recv_data()
        except WebSocketTimeoutException:
            socket.ping()
            continue
        if kind == ABNF.OPCODE_CLOSE:
            return
        if message:
            yield message[0], message[1:]


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
    try:
        said = json.loads(text)
        if said["status"] == "Success":
            return 0
        if said.get("reason") == "NonZeroExitCode":
            return next(int(each["message"]) for each in said["details"]["causes"] if each["reason"] == "ExitCode")
        message = str(said["message"])
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration):
        message = "the status is none"
    raise OpsError(f"the command could not be run: {printable(message)}", where=where, fix="see the node's log")
