# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent's terminal can do nothing to another agent: tried with the agent's own tool, with both releases."""

from __future__ import annotations

import re

import pytest

SOCKET = "socket-of-the-family"
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
LISTEN = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(600)"
# Forks until it is refused, prints the number of children, and cleans up.
FORKS = """
import os, signal
children = []
try:
    while len(children) < 2000:
        child = os.fork()
        if not child:
            os.setsid()
            signal.pause()
        children.append(child)
except OSError:
    print("STOPPED-AT-%d" % len(children))
for child in children:
    os.kill(child, 9)
"""


@pytest.fixture
def says(agents, model):
    """A function that runs a command by the terminal tool of *work*, and returns its output."""

    def run(command):
        model.script({"tool": "terminal", "arguments": {"command": command}})
        return agents["work"].reply("do it")

    return run


@pytest.fixture
def listening(host, agents):
    """A socket in the home of *family* on which its user listens."""
    family = agents["family"]
    with host.sudo():
        host.check_output(
            f"systemd-run --quiet --collect --unit test-listener --uid {family.user} python3 -c %s %s",
            LISTEN,
            f"{family.home}/{SOCKET}",
        )
        yield f"{family.home}/{SOCKET}"
        host.check_output("systemctl stop test-listener; rm -f %s", f"{family.home}/{SOCKET}")


def test_another_agent_is_out_of_reach(host, agents, says, listening, wait_until):
    work, family = agents["work"], agents["family"]
    with host.sudo():
        wait_until(lambda: host.file(listening).exists, "the socket")
        # Proves that the socket answers its own user.
        host.check_output(f"runuser -u {family.user} -- python3 -c %s %s", CONNECT, listening)
    trials = {
        "own_env": f"cat {work.home}/.env",
        "own_signal": f"kill -0 {work.pid}",
        "own_environ": f"cat /proc/{work.pid}/environ",
        "list": f"ls {family.home}",
        "directory": f"ls {family.home}/..",
        "env": f"cat {family.home}/.env",
        "write": f"touch {family.home}/note",
        "socket": f"python3 -c '{CONNECT}' {listening}",
        "process": f"test -e /proc/{family.pid}",
        "environ": f"cat /proc/{family.pid}/environ",
        "signal": f"kill -0 {family.pid}",
        "neighbours": "ls /var/lib/hermes/agents",
        "rename": "mv /var/lib/hermes/agents/work /var/lib/hermes/agents/elsewhere",
        "records": "ls /var/lib/hermes/ops",
        "manager": "systemd-run --user --quiet --wait true",
        "system_manager": "systemd-run --quiet --wait true",
        "linger": "loginctl enable-linger",
        "runtime": "ls /run/user/*/",
        "bus": "test -S /run/dbus/system_bus_socket",
    }
    said = says("; ".join(f"{command} >/dev/null 2>&1 && echo CAN-{name}" for name, command in trials.items()))
    assert set(re.findall(r"CAN-(\w+)", said)) == {"own_env", "own_signal", "own_environ"}


def test_the_limits_hold_for_whatever_it_starts(agents, says):
    limit = int(agents["work"].show("TasksMax"))
    said = says(f"python3 -c '{FORKS}'")
    reached = int(re.search(r"STOPPED-AT-(\d+)", said)[1])
    # The gateway itself is one of them.
    assert limit // 2 < reached < limit
