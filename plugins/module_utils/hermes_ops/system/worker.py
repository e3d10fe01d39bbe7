# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on what an agent can write, done by the kit again, as the agent's user.

An agent does what a language model says, so its files, databases, archives and servers are hostile input. Root never
opens them itself: it starts a worker. A worker is a new Python process that

- imports the function it was named, then gives up root for good and calls the function;
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

import contextlib
import fcntl
import importlib
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from .errors import OpsError
from .files import Owner
from .text import printable
from .view import end_with, hide_others

PACKAGE = __name__.rsplit(".", 2)[0]
# Characters of an error that a worker reports.
_WORDS = 2000
# Digits of a whole number in an answer. Python takes quadratic time for long ones before 3.11.
_DIGITS = 30
# Levels of an answer. What an agent's file may have (100), and what we put around it.
_DEPTH = 128
# F_SETPIPE_SZ (fcntl(2)), which Python's module names since 3.10, and the most that anybody may ask for.
_SET_PIPE_SIZE = 1031
_PIPE_BYTES = 1 << 20
# What a worker is started with: the same package, under its plain name, from where this one was imported.
_START = """\
import sys
sys.path.insert(0, sys.argv[1])
from hermes_ops.system import worker
worker.main()
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

    :param owner: whose files it works on: the worker runs as this user
    :param function: ``room.module:function``; takes and returns what JSON can say
    :param arguments: for the function; they may hold secrets
    :param descriptors: stay open in the worker, under the same numbers
    :param where: names the agent, its home or a file, for errors
    """

    owner: Owner
    function: str
    arguments: Sequence[Any] = ()
    limits: Limits = DEFAULT
    descriptors: Sequence[int] = ()
    where: str | None = None
    _process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _deadline: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if os.geteuid() not in (0, self.owner.uid):
            raise OpsError(f"cannot act as {self.owner.name!r} without being root", fix="run as root (become: true)")
        request = {
            "function": self.function,
            "arguments": list(self.arguments),
            "caller": os.getpid(),
            "home": self.owner.home,
            "uid": self.owner.uid,
            "gid": self.owner.gid,
            "seconds": self.limits.seconds,
            "memory": self.limits.memory,
            "file": self.limits.file,
            "descriptors": self.limits.descriptors,
        }
        environment = {
            **_ENVIRONMENT,
            "HOME": self.owner.home,
            "USER": self.owner.name,
            "LOGNAME": self.owner.name,
        }
        # In memory: never too large for a pipe that nobody reads.
        with os.fdopen(os.memfd_create("request"), "w+b") as stream:
            stream.write(json.dumps(request).encode())
            stream.seek(0)
            self._deadline = time.monotonic() + self.limits.seconds
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, _import_directory()],
                stdin=stream,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                start_new_session=True,
                pass_fds=tuple(self.descriptors),
            )
        # It need not wait with its answer until somebody reads it.
        with contextlib.suppress(OSError):
            fcntl.fcntl(cast(BinaryIO, self._process.stdout), _SET_PIPE_SIZE, _PIPE_BYTES)

    def result(self) -> Any:
        """What the function returned.

        :raises OpsError: the error that the function raised
        :raises WorkerDied: it ended without an answer, or its answer is none
        """
        try:
            said = self._read()
            self._reap(max(0.0, self._deadline - time.monotonic()))
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
        """Kill it, if it is still there, with all that it started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._reap(5.0)
        cast(BinaryIO, self._process.stdout).close()

    def _read(self) -> bytes:
        stream = cast(BinaryIO, self._process.stdout)
        said = bytearray()
        poll = select.poll()
        poll.register(stream, select.POLLIN | select.POLLHUP)
        while True:
            # It may have answered in time, although whoever waits for several looks late.
            remaining = max(0.0, self._deadline - time.monotonic())
            if not poll.poll(remaining * 1000):
                raise self._died(f"did not finish within {self.limits.seconds:g} s")
            part = os.read(stream.fileno(), 1 << 16)
            if not part:
                return bytes(said)
            said += part
            if len(said) > self.limits.answer:
                raise self._died(f"answered with more than {self.limits.answer} bytes")

    def _reap(self, seconds: float) -> None:
        # A process that the kernel cannot end (a dead network file system) must not hold us.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=seconds)

    def _death(self) -> str:
        status = self._process.returncode
        if status is not None and status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status} and no answer"

    def _died(self, how: str) -> WorkerDied:
        return WorkerDied(
            f"a look at what the agent wrote {how}",
            where=self.where or self.owner.name,
            fix="see what the agent left there; it is its own, and may be damaged or hostile",
        )


def work(
    owner: Owner,
    function: str,
    *arguments: Any,
    limits: Limits = DEFAULT,
    descriptors: Sequence[int] = (),
    where: str | None = None,
) -> Any:
    """Start a :class:`Worker` and wait for what it returns."""
    return Worker(owner, function, arguments, limits, descriptors, where).result()


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
    return printable(text[:_WORDS]) if isinstance(text, str) else None


def _import_directory() -> str:
    """What Python has to search to find this package as ``hermes_ops``: a directory, or a place in a zip file."""
    return os.path.dirname(os.path.abspath(sys.modules[PACKAGE].__path__[0]))


# From here on in the worker.


def main() -> None:
    """Read the request, drop what root has, call the function, write the answer."""
    request = json.loads(sys.stdin.buffer.read())
    module, name = request["function"].split(":")
    # While files of root's can still be read: where the kit lies, others may not be able to look.
    function = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
    _drop(request)
    try:
        answer = json.dumps({"value": function(*request["arguments"])}, allow_nan=False)
    except OpsError as error:
        answer = json.dumps({"error": {"what": error.what, "where": error.where, "fix": error.fix}})
    except MemoryError:
        answer = json.dumps({"defect": "needs more memory than it may have"})
    except Exception as error:
        # What the agent wrote is good for any exception; its text is the agent's, too.
        answer = json.dumps({"defect": f"failed with {type(error).__name__}: {error}"[:_WORDS]})
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(answer)
        sys.stdout.flush()
    # Threads and exit handlers have nothing left to do that anybody waits for.
    os._exit(0)


def _drop(request: dict[str, Any]) -> None:
    seconds = request["seconds"]
    # Ends the worker inside of C code, too, where its caller hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    processor = int(seconds) + 2
    drops = os.geteuid() == 0 and request["uid"] != 0
    if drops:
        hide_others([request["arguments"], _own_home(request)])
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, processor),
        (resource.RLIMIT_AS, request["memory"]),
        (resource.RLIMIT_FSIZE, request["file"]),
        (resource.RLIMIT_NOFILE, request["descriptors"]),
        # What its user runs counts, itself included: no fork(2), and so no other program.
        (resource.RLIMIT_NPROC, 0),
    ):
        _limit(kind, value)
    os.umask(0o077)
    if drops:
        os.setgroups([request["gid"]])
        os.setresgid(request["gid"], request["gid"], request["gid"])
        os.setresuid(request["uid"], request["uid"], request["uid"])
    end_with(request["caller"])


def _own_home(request: dict[str, Any]) -> str | None:
    """The home of the agent's user, which the agent's sandbox shows, too; None where it is somebody else's."""
    with contextlib.suppress(OSError):
        if os.stat(request["home"]).st_uid == request["uid"]:
            return request["home"]
    return None


def _limit(kind: int, value: int) -> None:
    _soft, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY and (value == resource.RLIM_INFINITY or value > hard):
        value = hard
    resource.setrlimit(kind, (value, value))
