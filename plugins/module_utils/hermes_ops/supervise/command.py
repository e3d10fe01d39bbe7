# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command of Hermes as an agent, from a terminal or a script.

The agent's code is hostile. When root runs a command, it gets a unit of its own with the limits and the sandbox of the
agent's gateway. It inherits nothing from root: no environment, no open file, and no terminal, because any process on a
terminal can type into it (TIOCSTI). systemd starts it, so it is not a child of root's shell either.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from ..description.agent import Agent
from ..description.declaration import home_arguments
from ..host.installation import Installation
from ..system.errors import OpsError
from ..system.systemd import COMMAND_TIMEOUT, Manager
from . import units

# Changes to the caller's directory, unless the agent has no access or sees another directory under that name (an empty
# /root). Also preserves the exit status: systemd calls a service that SIGINT or SIGTERM ended successful, whereas a
# shell returns 130 or 143.
_SCRIPT = """\
cd -- "$1" 2>/dev/null && [ "$(stat --format=%d:%i .)" = "$2" ] || cd -- "$HERMES_HOME"
shift 2
trap : HUP INT QUIT TERM
"$@"
"""
_CHUNK = 1 << 16
# Keeps systemd-run from changing the title and colour of the caller's window (docs/ENVIRONMENT.md of systemd 257).
_PLAIN_TERMINAL = {"SYSTEMD_ADJUST_TERMINAL_TITLE": "0", "SYSTEMD_TINT_BACKGROUND": "0"}


def hermes(root: str, home: str, words: Sequence[str]) -> list[str]:
    """The command line that runs ``hermes`` *words* with the current release."""
    return [os.path.join(root, "current", "bin", "hermes"), *home_arguments(home), *words]


def environment(home: str) -> dict[str, str]:
    """Variables that name Hermes' home and keep Hermes from installing packages."""
    return {"HERMES_HOME": home, "HERMES_DISABLE_LAZY_INSTALLS": "1"}


def spoken(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a command may inherit from its caller: type of terminal and language."""
    return {name: value for name, value in environ.items() if name in ("TERM", "LANG") or name.startswith("LC_")}


def unit_command(
    host: Installation,
    agent: Agent,
    words: Sequence[str],
    *,
    unit: str,
    terminal: bool,
    environ: Mapping[str, str],
    directory: tuple[str, str],
) -> list[str]:
    """The ``systemd-run`` command line that runs ``hermes`` *words* as *agent*.

    :param unit: name of the transient unit
    :param terminal: give the command a terminal of its own, which systemd-run connects to ours; otherwise it gets our
        standard input, output and error
    :param environ: the caller's environment
    :param directory: the caller's working directory, from :func:`_directory`
    """
    account, home = host.account_of(agent), agent.home
    properties = [
        ("User", account.name),
        ("WorkingDirectory", home),
        ("Environment", f"HOME={units.user_home(agent, account)}"),
        *units.confinement(agent, account, host.scope),
    ]
    command = ["/bin/sh", "-c", _SCRIPT, "hermes", *directory, *hermes(host.root, home, words)]
    return [
        *("systemd-run", "--quiet", "--collect", "--wait", "--service-type=exec", f"--unit={unit}"),
        # The default description is the command line, which would end up in the journal.
        f"--description=Command of the Hermes agent {agent.name}",
        "--pty" if terminal else "--pipe",
        *(f"--setenv={name}={value}" for name, value in {**spoken(environ), **environment(home)}.items()),
        *(f"--property={name}={value}" for name, value in properties),
        "--",
        # systemd expands variables in the command line.
        *(word.replace("$", "$$") for word in command),
    ]


def run_in_unit(host: Installation, agent: Agent, words: Sequence[str]) -> int:
    """Run ``hermes`` *words* as *agent*, connected to our standard input, output and error. Needs root.

    Does not return when all three are terminals: systemd-run replaces this process.

    :returns: the exit status of the command
    """
    manager = Manager("system", host.account_of(agent))
    if not manager.reachable:
        raise OpsError("systemd does not run here", fix="run it as the agent's user")
    _have_standard_streams()
    unit = f"hermes-run-{agent.name}-{secrets.token_hex(4)}.service"
    terminal = all(map(os.isatty, (0, 1, 2)))
    argv = unit_command(host, agent, words, unit=unit, terminal=terminal, environ=os.environ, directory=_directory())
    if terminal:
        os.execvpe(argv[0], argv, {**os.environ, **_PLAIN_TERMINAL})
    return _run_with_pipes(argv, unit, manager)


def _directory() -> tuple[str, str]:
    """The working directory: its path, and ``device:inode`` to recognise it. Both are empty when it was removed."""
    try:
        status = os.stat(".")
        return os.getcwd(), f"{status.st_dev}:{status.st_ino}"
    except OSError:
        return "", ""


def _have_standard_streams() -> None:
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # open() returns the lowest free descriptor, which is this one.
            os.open(os.devnull, os.O_RDWR)


def _run_with_pipes(argv: Sequence[str], unit: str, manager: Manager) -> int:
    """Run *argv* on its own pipes and copy the data: given root's file or terminal, the agent could read the file from
    its beginning, truncate it, or type into the terminal.
    """
    # With one pipe for both, lines keep their order.
    joined = os.path.sameopenfile(1, 2)
    stop = {
        signal.SIGINT: ("kill", "--signal=INT", unit),
        signal.SIGTERM: ("stop", "--no-block", unit),
        signal.SIGHUP: ("stop", "--no-block", unit),
    }
    for number, words in stop.items():
        signal.signal(number, lambda *_, words=words: manager.call(*words, check=False, timeout=COMMAND_TIMEOUT))
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if joined else subprocess.PIPE,
        # Ctrl-C must reach the command. systemd-run would die of it and leave the command running.
        start_new_session=True,
        bufsize=0,
    )
    # A daemon thread, because the input may never end.
    threading.Thread(target=_feed, args=(process.stdin,), daemon=True).start()
    outputs = [(process.stdout, 1), *([] if joined else [(process.stderr, 2)])]
    over, end = os.pipe()
    copies = [threading.Thread(target=_take, args=(*output, over)) for output in outputs]
    for copy in copies:
        copy.start()
    status = process.wait()
    os.close(end)
    for copy in copies:
        copy.join()
    return status


def _feed(pipe: IO[bytes]) -> None:
    """Copy our standard input to *pipe*, and close *pipe* at its end."""
    with contextlib.suppress(OSError), pipe:
        while data := os.read(0, _CHUNK):
            _write(pipe.fileno(), data)


def _take(pipe: IO[bytes], target: int, over: int) -> None:
    """Copy *pipe* to *target*. When *target* has no reader left, *pipe* is closed, which tells its writer.

    :param over: a pipe that is closed when the command has ended. Data already in *pipe* is still copied then, but its
        end is not awaited: a surviving process of the agent may hold the pipe and write for ever
    """
    with contextlib.suppress(OSError), pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        poll.register(over, select.POLLIN)
        while over not in dict(poll.poll()):
            data = os.read(pipe.fileno(), _CHUNK)
            if not data:
                return
            _write(target, data)
        left = int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
        while left:
            data = os.read(pipe.fileno(), min(left, _CHUNK))
            left -= len(data)
            _write(target, data)


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]
