# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command of Hermes, run as an agent for somebody at a terminal or in a script.

The agent's code is hostile. Run by root it gets a unit of its own, within the limits and the sandbox of the agent's
gateway, and nothing of root's: no environment, no terminal (whoever has a terminal can type into it, TIOCSTI), no open
file. systemd starts it, so it does not descend from root's shell either.
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

# Goes to the caller's directory, unless the agent may not or sees another one under that name (an empty /root), and
# hands the exit status on: for systemd a service that SIGINT or SIGTERM ended has succeeded, a shell says 130 and 143.
_SCRIPT = """\
cd -- "$1" 2>/dev/null && [ "$(stat --format=%d:%i .)" = "$2" ] || cd -- "$HERMES_HOME"
shift 2
trap : HUP INT QUIT TERM
"$@"
"""
_CHUNK = 1 << 16
# Has systemd-run leave the caller's window as it is (docs/ENVIRONMENT.md of systemd 257).
_PLAIN_TERMINAL = {"SYSTEMD_ADJUST_TERMINAL_TITLE": "0", "SYSTEMD_TINT_BACKGROUND": "0"}


def hermes(root: str, home: str, words: Sequence[str]) -> list[str]:
    """The command line of the current release."""
    return [os.path.join(root, "current", "bin", "hermes"), *home_arguments(home), *words]


def environment(home: str) -> dict[str, str]:
    """What Hermes needs to find its home, and to leave what is installed alone."""
    return {"HERMES_HOME": home, "HERMES_DISABLE_LAZY_INSTALLS": "1"}


def spoken(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the caller's environment a command may know: which terminal it is, and which language."""
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
    """``systemd-run`` for *words* of Hermes as the agent *agent*.

    :param unit: its name
    :param terminal: it gets a terminal of its own, which systemd-run copies to ours; otherwise what our standard
        input, output and error are
    :param environ: the caller's environment
    :param directory: the caller's working directory, from :func:`_directory`
    """
    owner, home = host.owner_of(agent), agent.home
    properties = [
        ("User", owner.name),
        ("WorkingDirectory", home),
        ("Environment", f"HOME={units.user_home(agent, owner)}"),
        *units.confinement(agent, owner, host.scope),
    ]
    command = ["/bin/sh", "-c", _SCRIPT, "hermes", *directory, *hermes(host.root, home, words)]
    return [
        *("systemd-run", "--quiet", "--collect", "--wait", "--service-type=exec", f"--unit={unit}"),
        # Otherwise the command line stands in the journal.
        f"--description=Command of the Hermes agent {agent.name}",
        "--pty" if terminal else "--pipe",
        *(f"--setenv={name}={value}" for name, value in {**spoken(environ), **environment(home)}.items()),
        *(f"--property={name}={value}" for name, value in properties),
        "--",
        # systemd puts variables in.
        *(word.replace("$", "$$") for word in command),
    ]


def run_in_unit(host: Installation, agent: Agent, words: Sequence[str]) -> int:
    """Run *words* of Hermes as the agent *agent*, connected to our standard input, output and error. Needs root.

    Does not return where all three are a terminal.

    :returns: its exit status
    """
    manager = Manager("system", host.owner_of(agent))
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
    """Where we are: the path, and device and inode, by which it is known again; both empty when it is gone."""
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
            # Gets the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)


def _run_with_pipes(argv: Sequence[str], unit: str, manager: Manager) -> int:
    """Run *argv* with pipes of its own, and copy: a file or terminal of root's in the hands of the agent could be read
    from its beginning, cut off, or typed into.
    """
    # So that lines keep their order.
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
        # Ctrl-C is for the command, not for systemd-run, which would leave it alone.
        start_new_session=True,
        bufsize=0,
    )
    # The input may never end.
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
    """Copy our standard input to *pipe*, whose end the other side sees."""
    with contextlib.suppress(OSError), pipe:
        while data := os.read(0, _CHUNK):
            _write(pipe.fileno(), data)


def _take(pipe: IO[bytes], target: int, over: int) -> None:
    """Copy *pipe* to *target*; when nobody reads that any more, the other side is told so by a closed pipe.

    :param over: a pipe that ends when the command has. What is in *pipe* by then is copied, too. Its end is not waited
        for: the command may have handed it to a process of the agent that outlives it, and that may write for ever
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
