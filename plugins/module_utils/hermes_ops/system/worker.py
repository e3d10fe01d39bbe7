# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on what an agent can write, done by the kit again, as the agent's user.

An agent does what a language model says, so its files, databases, archives and servers are hostile input. Root never
opens them itself: it starts a worker. A worker is a process of its own (:mod:`.forkserver`) that

- gives up root for good, then calls the function it was named;
- has nothing of root's environment, terminal or descriptors, but those it is handed;
- is limited in memory, processor time, descriptors and the size of files;
- starts no program, process or thread, since it may have none beside itself;
- sees of /home and the like only what it works on (:mod:`.view`);
- ends at its deadline, and with its caller.

Its answer is JSON: bounded, parsed with care, and still only what the agent wants us to believe.

The agent cannot trace a worker, read its environment or reach through it (``/proc/PID/root``) what the agent's own
sandbox hides, although both run as the same user: the kernel keeps a process that has dropped root from being dumped
(prctl(2), PR_SET_DUMPABLE) until it executes another program. So a worker can start none.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import math
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import OpsError
from .files import Account
from .text import one_line

PACKAGE = __name__.rsplit(".", 2)[0]
# Characters of an error that a worker reports.
_WORDS = 2000
# Seconds between two looks at a worker that says nothing: its agent can stop it, and it may hold a lock meanwhile.
_LOOK_SECONDS = 5.0
# Digits of a whole number in an answer. Python takes quadratic time for long ones before 3.11.
_DIGITS = 30
# Levels of an answer. What an agent's file may have (100), and what we put around it.
_DEPTH = 128
# F_SETPIPE_SZ (fcntl(2)), which Python's module names since 3.10, and the most that anybody may ask for.
_SET_PIPE_SIZE = 1031
_PIPE_BYTES = 1 << 20
# What the fork server is started with: the same package, under its plain name, from where this one was imported.
_START = """\
import sys
sys.path.insert(0, sys.argv[1])
from hermes_ops.system import forkserver
forkserver.main(int(sys.argv[2]), int(sys.argv[3]))
"""
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


class WorkerDied(OpsError):
    """A worker gave no answer. That is a finding about the agent whose files it worked on, and about no other."""


@dataclass(frozen=True)
class Limits:
    """What a worker may use.

    :param seconds: until it is killed
    :param memory: bytes of address space
    :param answer: bytes of its answer
    :param file: bytes of the largest file it may write
    :param descriptors: open files
    """

    seconds: float = 10.0
    memory: int = 512 * 2**20
    answer: int = 4 * 2**20
    file: int = resource.RLIM_INFINITY
    descriptors: int = 256


DEFAULT = Limits()


@dataclass
class Worker:
    """A function of the kit, called by another process. Begins at once; :meth:`result` waits for it.

    :param account: whose files it works on: the worker runs as this user
    :param function: ``room.module:function``; takes and returns what JSON can say
    :param arguments: for the function; they may hold secrets
    :param descriptors: stay open in the worker, under the same numbers
    :param where: names the agent, its home or a file, for errors
    """

    account: Account
    function: str
    arguments: Sequence[Any] = ()
    limits: Limits = DEFAULT
    descriptors: Sequence[int] = ()
    where: str | None = None
    _server: _Server = field(init=False, repr=False)
    _number: int = field(init=False, repr=False)
    _answer: int = field(init=False, repr=False)
    _status: _Status = field(init=False, repr=False)
    _deadline: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if os.geteuid() not in (0, self.account.uid):
            raise OpsError(f"cannot act as {self.account.name!r} without being root", fix="run as root (become: true)")
        request = {
            "function": self.function,
            "arguments": list(self.arguments),
            "environment": {"HOME": self.account.home, "USER": self.account.name, "LOGNAME": self.account.name},
            "uid": self.account.uid,
            "gid": self.account.gid,
            "seconds": self.limits.seconds,
            "memory": self.limits.memory,
            "file": self.limits.file,
            "descriptors": self.limits.descriptors,
        }
        self._deadline = time.monotonic() + self.limits.seconds
        with contextlib.ExitStack() as theirs:
            # In memory: never too large for a pipe that nobody reads.
            stream = theirs.enter_context(os.fdopen(os.memfd_create("request"), "w+b"))
            stream.write(json.dumps(request).encode())
            stream.seek(0)
            self._answer, answer = _pipe(theirs)
            status, said = _pipe(theirs)
            self._status = _Status(status)
            # It need not wait with its answer until somebody reads it.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._answer, _SET_PIPE_SIZE, _PIPE_BYTES)
            self._server = _fork_server()
            module = self.function.partition(":")[0]
            self._number = self._server.start(module, [stream.fileno(), answer, said], self.descriptors)

    def result(self) -> Any:
        """What the function returned.

        :raises OpsError: the error that the function raised
        :raises WorkerDied: it ended without an answer, or its answer is none
        """
        try:
            said = self._read()
            self._status.wait(max(0.0, self._deadline - time.monotonic()))
        finally:
            self.end()
        if not said:
            raise self._died(self._death())
        answer = parse(said)
        if not isinstance(answer, dict) or len(answer) != 1:
            raise self._died("answered with something else than an answer")
        if "value" in answer:
            return answer["value"]
        error = answer.get("error")
        if isinstance(error, dict):
            what, where, fix = (_words(error.get(key)) for key in ("what", "where", "fix"))
            raise OpsError(what or "failed", where=where, fix=fix)
        raise self._died(_words(answer.get("defect")) or "answered with something else than an answer")

    def end(self) -> None:
        """Kill it, if it is still there."""
        if self._status.wait(0.0) is None:
            self._server.kill(self._number)
            # A process that the kernel cannot end (a dead network file system) must not hold us.
            self._status.wait(5.0)
        self._status.close()
        if self._answer >= 0:
            os.close(self._answer)
            self._answer = -1

    def _read(self) -> bytes:
        said, stopped = bytearray(), 0
        poll = select.poll()
        poll.register(self._answer, select.POLLIN | select.POLLHUP)
        while True:
            # It may have answered in time, although whoever waits for several looks late.
            remaining = max(0.0, self._deadline - time.monotonic())
            if not poll.poll(min(remaining, _LOOK_SECONDS) * 1000):
                if remaining <= _LOOK_SECONDS:
                    raise self._died(f"did not finish within {self.limits.seconds:g} s")
                stopped = stopped + 1 if self._status.is_stopped() else 0
                if stopped > 1:
                    raise self._died("was stopped by a signal, which only the agent's user and root can send")
                continue
            part = os.read(self._answer, 1 << 16)
            if not part:
                return bytes(said)
            said += part
            if len(said) > self.limits.answer:
                raise self._died(f"answered with more than {self.limits.answer} bytes")

    def _death(self) -> str:
        status = self._status.wait(0.0)
        if status is None:
            return "ended without an answer"
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status} and no answer"

    def _died(self, how: str) -> WorkerDied:
        return WorkerDied(
            f"a look at what the agent wrote {how}",
            where=self.where or self.account.name,
            fix="see what the agent left there; it is its own, and may be damaged or hostile",
        )


class _Status:
    """What the fork server says of a worker: its process ID, and once it has ended how."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._said = b""

    @property
    def pid(self) -> int:
        """0: it was not started."""
        self._listen(lambda: b"\n" in self._said, 5.0)
        return int(self._said.partition(b"\n")[0] or 0)

    def wait(self, seconds: float) -> int | None:
        """How it ended (:func:`os.waitstatus_to_exitcode`); None: not within *seconds*, or nobody knows any more."""
        self._listen(lambda: self._said.count(b"\n") > 1, seconds)
        said = self._said.split(b"\n")
        return int(said[1]) if len(said) > 2 else None

    def is_stopped(self) -> bool:
        """Whether it waits for a SIGCONT."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="utf-8", errors="replace") as stream:
                return stream.read().rpartition(")")[2].split()[0] in ("T", "t")
        except (OSError, IndexError):
            return False

    def _listen(self, enough: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._descriptor >= 0 and not enough():
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN | select.POLLHUP)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                break
            part = os.read(self._descriptor, 64)
            self._said += part
            if not part:
                self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Server:
    """The process from which this one's workers are forked (:mod:`.forkserver`)."""

    def __init__(self, directory: str) -> None:
        self.directory, self.caller = directory, os.getpid()
        self._started = 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, directory, str(theirs.fileno()), str(self.caller)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        self._channel = ours
        atexit.register(self.end)

    @property
    def serves(self) -> bool:
        """Whether it is there, and this process's own."""
        return self.caller == os.getpid() and self._process.poll() is None and self.directory == _import_directory()

    def start(self, module: str, descriptors: Sequence[int], handed: Sequence[int]) -> int:
        """Have a worker forked; the number by which it can be killed."""
        self._started += 1
        self._send({"start": self._started, "import": module, "numbers": list(handed)}, [*descriptors, *handed])
        return self._started

    def prepare(self, module: str) -> None:
        """Have *module* imported, so that workers need not wait for that."""
        self._send({"import": module}, [])

    def kill(self, number: int) -> None:
        self._send({"kill": number}, [])

    def end(self) -> None:
        """End it, and with it all workers that still run."""
        atexit.unregister(self.end)
        self._channel.close()
        if self.caller == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5.0)

    def _send(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        # A server that was killed: the worker's pipes say so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._channel, [json.dumps(message).encode()], descriptors)


_servers: list[_Server] = []


def _fork_server() -> _Server:
    """This process's own, started at the first need."""
    if not _servers or not _servers[0].serves:
        end_server()
        _servers.append(_Server(_import_directory()))
    return _servers[0]


def prepare(function: str) -> None:
    """Start the fork server, which imports what *function* needs while this process does other work."""
    _fork_server().prepare(function.partition(":")[0])


def end_server() -> None:
    """End the fork server, if there is one. The next worker gets a new one."""
    while _servers:
        _servers.pop().end()


def _pipe(theirs: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe to read from, and its other end, which *theirs* closes."""
    reading, writing = os.pipe()
    theirs.callback(os.close, writing)
    return reading, writing


def work(
    account: Account,
    function: str,
    *arguments: Any,
    limits: Limits = DEFAULT,
    descriptors: Sequence[int] = (),
    where: str | None = None,
) -> Any:
    """Start a :class:`Worker` and wait for what it returns."""
    return Worker(account, function, arguments, limits, descriptors, where).result()


def parse(text: bytes) -> Any:
    """The JSON value in *text*, which somebody hostile may have written.

    :raises OpsError: it is none, is nested too deeply, or holds a number that is none
    """
    try:
        # As UTF-8: a text that looks like UTF-32 would have Python import what a worker can no longer read.
        value = json.loads(text.decode(), parse_int=_whole, parse_float=_finite, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise WorkerDied(f"answered with what is not JSON ({type(error).__name__})") from None
    _refuse_depth(value)
    return value


def _refuse_depth(value: Any) -> None:
    """:raises WorkerDied: when *value* is nested so deeply that who reads it by recursion would not come to its end"""
    level = [value]
    for _depth in range(_DEPTH):
        level = [below for each in level for below in _below(each)]
        if not level:
            return
    raise WorkerDied(f"answered with what is nested more than {_DEPTH} levels deep")


def _below(value: Any) -> list[Any]:
    """The lists and mappings in *value*."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in held if isinstance(each, (dict, list))]


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return value


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("a number has too many digits")
    return int(digits)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _words(text: Any) -> str | None:
    return one_line(text[:_WORDS]) if isinstance(text, str) else None


def _import_directory() -> str:
    """What Python has to search to find this package as ``hermes_ops``: a directory, or a place in a zip file."""
    return os.path.dirname(os.path.abspath(sys.modules[PACKAGE].__path__[0]))
