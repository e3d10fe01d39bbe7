# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to run another program."""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from .errors import OpsError
from .files import Account
from .text import brief
from .view import leave_keyring

# Bytes that a program may print: more than any program here needs, and little enough to hold in memory.
OUTPUT_LIMIT = 16 * 2**20
# Characters of a line of its output that an error repeats.
_LONGEST_LINE = 1000


@dataclass(frozen=True)
class Completed:
    """The result of a program. ``rc`` is negative when a signal ended it, as in :mod:`subprocess`."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.rc == 0

    @property
    def last_words(self) -> str:
        """The last non-empty line of standard error, else of standard output, else the exit status."""
        return last_line(self.stderr) or last_line(self.stdout) or f"exit status {self.rc}"


def last_line(text: str) -> str:
    """The last line of *text* that is not empty; short and printable, since a program may repeat what others said."""
    lines = [line for line in text.splitlines() if line.strip()]
    return brief(lines[-1], _LONGEST_LINE) if lines else ""


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: Account | None = None,
    pass_fds: Sequence[int] = (),
    limit: int = OUTPUT_LIMIT,
) -> Completed:
    """Run *argv* without a shell and return its output; at the time-out, kill its whole process group.

    :param timeout: seconds
    :param check: raise when the exit status is not 0
    :param env: added to its environment; secrets belong here, never in *argv*
    :param cwd: where it runs; None: where we do, or, as another user, in ``/``: every process of that user reaches
        through a program's directory what directories above it keep from others
    :param user: run as this user (needs root). Of this process's environment the program then gets PATH only, because
        every process of that user can read it. Without another user the program gets the whole environment
    :param pass_fds: descriptors that it inherits
    :param limit: bytes that it may print, separately for standard output and standard error
    :raises OpsError: program missing, time-out, more output than *limit*, or failure with *check*
    """
    command = tuple(argv)
    shown = shlex.join(command)
    process = _start(command, stderr=subprocess.PIPE, env=env, user=user, cwd=cwd, pass_fds=tuple(pass_fds))
    problem = None
    try:
        stdout, stderr = (text.decode("utf-8", "replace") for text in _said(process, time.monotonic() + timeout, limit))
    except TimeoutError:
        problem = f"did not finish within {timeout:g} s"
    except OverflowError:
        problem = f"printed more than {limit} bytes"
    finally:
        cast(BinaryIO, process.stdout).close()
        cast(BinaryIO, process.stderr).close()
    if problem:
        _kill(process)
        raise OpsError(problem, where=shown)
    done = Completed(command, process.returncode, stdout, stderr)
    if check and not done.ok:
        raise OpsError(f"failed with status {done.rc}: {done.last_words}", where=shown)
    return done


def _said(process: subprocess.Popen[bytes], deadline: float, limit: int) -> list[bytearray]:
    """Standard output and standard error of *process*, once it has ended.

    :raises TimeoutError: it still runs at the *deadline*
    :raises OverflowError: it printed more than *limit*
    """
    said = {cast(BinaryIO, stream): bytearray() for stream in (process.stdout, process.stderr)}
    with selectors.DefaultSelector() as selector:
        for stream in said:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            remaining = deadline - time.monotonic()
            ready = selector.select(remaining) if remaining > 0 else []
            if not ready:
                raise TimeoutError
            for key, _events in ready:
                stream = cast(BinaryIO, key.fileobj)
                part = os.read(key.fd, 1 << 16)
                said[stream] += part
                if len(said[stream]) > limit:
                    raise OverflowError
                if not part:
                    selector.unregister(stream)
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return list(said.values())


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill *process* and its group, and wait for *process* only.

    Another process, perhaps an agent's, may still hold the pipes.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5.0)


def _as_user(user: Account | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments of Popen that switch to *user*, and the environment, which that user can read."""
    if user is None or os.geteuid() == user.uid:
        return {}, dict(os.environ)
    path = os.environ.get("PATH", os.defpath)
    environment = {"PATH": path, "HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    return {"preexec_fn": functools.partial(_become, user)}, environment


def _become(user: Account) -> None:
    """In the new process, before it executes the program."""
    leave_keyring()
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def _start(
    command: tuple[str, ...],
    *,
    stderr: int,
    env: Mapping[str, str] | None,
    user: Account | None,
    cwd: str | None = None,
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start *command* in a session of its own, with a pipe for its output; see :func:`run`."""
    identity, environment = _as_user(user)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**environment, "LC_ALL": "C.UTF-8", **(env or {})},
            cwd=cwd or (os.sep if identity else None),
            start_new_session=True,
            **identity,
            **options,
        )
    except OSError as error:
        raise OpsError(f"cannot be run ({error.strerror})", where=command[0]) from None
    except subprocess.SubprocessError:
        name = user.name if user else "root"
        raise OpsError(f"cannot be run as {name!r}", where=command[0], fix="run as root (become: true)") from None
    except ValueError as error:
        # A NUL in an argument or in the environment.
        raise OpsError(f"cannot be run ({error})", where=command[0]) from None


def run_tail(
    argv: Sequence[str],
    *,
    timeout: float,
    limit: int,
    env: Mapping[str, str] | None = None,
    user: Account | None = None,
) -> str:
    """Run *argv*, whose output may have any length, and return the end: standard output and error, interleaved.

    Earlier output is dropped, with the line that the cut goes through.

    :param timeout: seconds, after which its process group is killed; the output until then is returned
    :param limit: bytes
    :param user: see :func:`run`
    :raises OpsError: program missing
    """
    process = _start(tuple(argv), stderr=subprocess.STDOUT, env=env, user=user)
    said, cut, late = bytearray(), False, False
    deadline = time.monotonic() + timeout
    with process, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not selector.select(remaining):
                late = True
                break
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                break
            said += part
            cut = cut or len(said) > limit
            del said[: -2 * limit]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        # Includes every process that it started, also when it closed its output and still runs.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if cut:
        del said[:-limit]
        del said[: said.find(b"\n") + 1]
    before = "[earlier output is left out]\n" if cut else ""
    after = f"[it did not finish within {timeout:g} s]\n" if late else ""
    if process.returncode > 0:
        after = f"[exit status {process.returncode}]\n"
    return before + said.decode("utf-8", "replace") + after


def run_filter(argv: Sequence[str], data: bytes, *, timeout: float) -> bytes:
    """Run *argv* with *data* as standard input, and return its standard output unchanged.

    :param timeout: seconds
    :raises OpsError: program missing, time-out, or failure
    """
    shown = shlex.join(argv)
    try:
        done = subprocess.run(list(argv), input=data, capture_output=True, check=False, timeout=timeout)
    except OSError as error:
        raise OpsError(f"cannot be run ({error.strerror})", where=argv[0]) from None
    except subprocess.TimeoutExpired:
        raise OpsError(f"did not finish within {timeout:g} s", where=shown) from None
    if done.returncode:
        reason = last_line(done.stderr.decode("utf-8", "replace"))
        raise OpsError(f"failed with status {done.returncode}: {reason}", where=shown)
    return done.stdout


def run_head(argv: Sequence[str], *, limit: int, timeout: float) -> str:
    """The first *limit* bytes that *argv* prints; for programs whose output others can make endless.

    :param timeout: seconds
    :raises OpsError: program missing
    """
    # timeout(1) enforces the time-out, because reading from the pipe has none.
    command = ["timeout", "--signal=KILL", f"{timeout:g}", *argv]
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        ) as process:
            data = cast(BinaryIO, process.stdout).read(limit)
    except OSError as error:
        raise OpsError(f"cannot be run ({error.strerror})", where=command[0]) from None
    return data.decode("utf-8", "replace")
