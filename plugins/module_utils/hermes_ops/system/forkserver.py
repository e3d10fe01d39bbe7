# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process from which workers are forked, and what a worker does: the other side of :mod:`.worker`.

A new Python process takes a tenth of a second until it has imported what reads an agent's home, a fork of one that has
takes a hundredth of that. A fork has all that its parent had in memory, so the parent must have nothing: the fork
server is a new process without anything of its caller's, and it never reads a request itself. It ends with its caller.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Any

from .errors import OpsError
from .view import end_with, forbid_tracing, hide_others

PACKAGE = __name__.rsplit(".", 2)[0]
# Bytes of a message, and descriptors that one may carry (SCM_MAX_FD, unix(7)).
_MESSAGE, _DESCRIPTORS = 1 << 12, 253
# Characters of an error that a worker reports.
_WORDS = 2000


def main(channel: int, caller: int) -> None:
    serve(socket.socket(fileno=channel), caller)


def serve(channel: socket.socket, caller: int) -> None:
    """Fork a worker for each message, say how it ended, and kill it when asked; until the caller is gone.

    A message is ``{"start": id, "import": module, "numbers": […]}``, with the request, the pipe for the answer, the
    pipe for the status, and the descriptors that the worker is handed, under these numbers; ``{"kill": id}``; or
    ``{"import": module}``, which is for the workers to come. To the pipe for the status goes the worker's process ID,
    and once it has ended how (:func:`os.waitstatus_to_exitcode`), each with a line feed.
    """
    end_with(caller)
    # A child that ended must wake the loop.
    awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    workers = _Workers()
    while True:
        ready = select.select([channel, awake], [], [])[0]
        if awake in ready:
            os.read(awake, 1 << 12)
            workers.reap()
        if channel in ready:
            message, descriptors, _flags, _address = socket.recv_fds(channel, _MESSAGE, _DESCRIPTORS)
            if not message:
                # What still runs ends with us.
                os._exit(0)
            workers.obey(json.loads(message), descriptors)


class _Workers:
    """Those that were forked and not yet waited for."""

    def __init__(self) -> None:
        # Process ID -> its number, the pipe for its status.
        self._living: dict[int, tuple[int, int]] = {}

    def obey(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if "kill" in message:
            for pid, (number, _status) in self._living.items():
                if number == message["kill"]:
                    # Not waited for yet: the number is nobody else's. It may not be the leader of its group yet.
                    for kill in (os.kill, os.killpg):
                        with contextlib.suppress(ProcessLookupError):
                            kill(pid, signal.SIGKILL)
            return
        # Imported here, it need not be imported by the next one. What cannot be imported is the worker's error.
        with contextlib.suppress(Exception):
            importlib.import_module(f"{PACKAGE}.{message['import']}")
        if "start" not in message:
            return
        status, server = descriptors.pop(2), os.getpid()
        pid = os.fork()
        if not pid:
            _begin(descriptors, message["numbers"], server)
        for descriptor in descriptors:
            os.close(descriptor)
        self._living[pid] = (message["start"], status)
        _say(status, pid)

    def reap(self) -> None:
        for pid, (_number, status) in list(self._living.items()):
            ended, how = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._living[pid]
                _say(status, os.waitstatus_to_exitcode(how))
                os.close(status)


def _say(descriptor: int, number: int) -> None:
    # Whoever asked may no longer want to know.
    with contextlib.suppress(OSError):
        os.write(descriptor, b"%d\n" % number)


# From here on in the worker.


def _begin(descriptors: list[int], numbers: list[int], server: int) -> None:
    """Become a worker that has nothing but *descriptors*: request, answer, and those that get *numbers*."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        _keep(dict(zip([0, 1, *numbers], descriptors)))
        _work(server)
        status = 0
    finally:
        # Nothing of the server's may go on here, whatever happened.
        os._exit(status)


def _keep(wanted: dict[int, int]) -> None:
    """Have the open files *wanted* under these numbers, standard error (which leads nowhere), and no other."""
    above = max(*wanted, *wanted.values(), 2) + 1
    # Out of the way first: a number that is wanted may be taken by another one that is wanted.
    moved = {number: fcntl.fcntl(descriptor, fcntl.F_DUPFD, above) for number, descriptor in wanted.items()}
    for number, descriptor in moved.items():
        os.dup2(descriptor, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in {*wanted, 2}:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _work(server: int) -> None:
    """Read the request, drop what root has, call the function, write the answer."""
    with open(0, "rb", closefd=False) as stream:
        request = json.loads(stream.read())
    # A link to /dev/stdin would lead to the request.
    os.dup2(2, 0)
    os.environ.update(request["environment"])
    module, name = request["function"].split(":")
    # While files of root's can still be read: where the kit lies, others may not be able to look.
    function = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
    _drop(request, server)
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


def _drop(request: dict[str, Any], server: int) -> None:
    seconds = request["seconds"]
    # Ends the worker inside of C code, too, where its caller hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    processor = int(seconds) + 2
    drops = os.geteuid() == 0 and request["uid"] != 0
    if drops:
        # Only a container's user has no name (files.Account.of).
        contained = request["environment"]["USER"].isdecimal()
        hide_others([*request["arguments"], _own_home(request)], contained=contained)
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
        forbid_tracing()
    end_with(server)


def _own_home(request: dict[str, Any]) -> str | None:
    """The home of the agent's user, which the agent's sandbox shows, too; None where it is somebody else's."""
    home = request["environment"]["HOME"]
    with contextlib.suppress(OSError):
        if os.stat(home).st_uid == request["uid"]:
            return home
    return None


def _limit(kind: int, value: int) -> None:
    _soft, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY and (value == resource.RLIM_INFINITY or value > hard):
        value = hard
    resource.setrlimit(kind, (value, value))
