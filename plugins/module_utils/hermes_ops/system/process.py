# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to run another program."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import OpsError
from .files import Owner

# Where programs are looked for that run as somebody else.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Completed:
    """What a program answered. ``rc`` is negative when a signal ended it, as in :mod:`subprocess`."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.rc == 0

    @property
    def last_words(self) -> str:
        """The last non-empty line it said, standard error first."""
        return last_line(self.stderr) or last_line(self.stdout) or f"exit status {self.rc}"


def last_line(text: str) -> str:
    """The last line of *text* that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: Owner | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run *argv* without a shell, kill its whole process group at the time-out, and return what it said.

    :param timeout: seconds
    :param check: raise when it exits with another status than 0
    :param env: added to this process's environment; secrets belong here, never in *argv*
    :param user: run as this user (needs root), with nothing of this process's environment
    :param pass_fds: descriptors that it inherits
    :raises OpsError: program missing, time-out, or failure with *check*
    """
    command = tuple(argv)
    shown = shlex.join(command)
    identity = {}
    base: Mapping[str, str] = os.environ
    if user is not None and os.geteuid() != user.uid:
        identity = {"user": user.uid, "group": user.gid, "extra_groups": []}
        # The user can read the environment of its processes, and ours may hold secrets.
        base = {"PATH": PATH, "HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**base, "LC_ALL": "C.UTF-8", **(env or {})},
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
            text=True,
            errors="replace",
            **identity,
        )
    except OSError as error:
        raise OpsError(f"cannot be run ({error.strerror})", where=command[0]) from None
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise OpsError(f"did not finish within {timeout:g} s", where=shown) from None
    done = Completed(command, process.returncode, stdout, stderr)
    if check and not done.ok:
        raise OpsError(f"failed with status {done.rc}: {done.last_words}", where=shown)
    return done


def run_filter(argv: Sequence[str], data: bytes, *, timeout: float) -> bytes:
    """Run *argv* on *data*, and return what it makes of them, byte for byte.

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
