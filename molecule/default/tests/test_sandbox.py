# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox is closed as promised, and every door opens exactly its part."""

from __future__ import annotations

import os
import re

import pytest
from control import Controller

# Doors depend on systemd only, so one of the boxes is enough.
testinfra_hosts = [f"ansible://default-{os.environ.get('HERMES_TEST_SECOND_SUITE', 'trixie')}"]

# Attempts of the agent's terminal; each prints its word if it succeeds.
TRIALS = {
    "sudo": 'test "$(sudo -n id -u)" = 0 && echo CAN-sudo',
    "home": "cat /home/ops/note && echo CAN-home",
    "browser": "unshare --user true && echo CAN-browser",
    "system": "touch /srv/shared/note-$(id -un) && echo CAN-system",
    # A directory for everybody, which ProtectSystem= alone leaves writable beside ProtectProc=.
    "run": "touch /run/lock/note-$(id -un) && echo CAN-run",
    "own": "touch ~/note && echo CAN-own",
    # Processes of the user's own manager would be outside of the sandbox and the limits.
    "manager": "systemd-run --user --quiet --wait true && echo CAN-manager",
    # The agent must not be able to start that manager either.
    "linger": "loginctl enable-linger && echo CAN-linger",
    "bus": "test -S /run/dbus/system_bus_socket && echo CAN-bus",
    # systemd logs each message that it does not expect.
    "notify": "test -w /run/systemd/notify && echo CAN-notify",
}
# Always allowed: its own home.
CLOSED = {"own"}


def test_exposure_is_low(host):
    with host.sudo():
        report = host.check_output("systemd-analyze security --no-pager hermes-gateway@default.service")
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", report)[1]) <= 2.5


def test_systemd_knows_every_directive(host):
    with host.sudo():
        assert "Unknown" not in host.check_output("journalctl --boot --no-pager --identifier systemd")


# One agent for each door -> its declaration, and what the door opens.
DOORS = {
    "closed": ({}, set()),
    "sudo": ({"open": ["sudo"]}, {"sudo", "browser", "bus", "notify"}),
    "home": ({"open": ["home"]}, {"home"}),
    "browser": ({"open": ["browser"]}, {"browser"}),
    "system": ({"open": ["system"]}, {"system", "run"}),
    "paths": ({"paths": ["/srv/shared"]}, {"system"}),
    "user_manager": ({"open": ["user_manager"]}, {"manager", "bus"}),
    "off": ({"enabled": False}, {"sudo", "home", "browser", "system", "run", "bus", "notify"}),
}
PORTS = {name: 8700 + number for number, name in enumerate(DOORS)}


@pytest.fixture(scope="module")
def doors(host):
    """Agents with different sandboxes, and the targets behind the doors."""
    controller = Controller(host)
    controller.shell(
        'umask 0337; for name; do echo "hermes-$name ALL=(ALL) NOPASSWD: ALL"; done >/etc/sudoers.d/hermes;'
        "umask 0022; echo hello >/home/ops/note; chmod 0755 /home/ops; install -d -m 0777 /srv/shared",
        *(f"door-{door}" for door in DOORS),
    )
    (default,) = host.ansible.get_variables()["hermes_agents"]
    alike = {key: default[key] for key in ("config", "secrets")}
    others = [
        {"name": f"door-{name}", **alike, "api": {"port": PORTS[name]}, "sandbox": sandbox}
        for name, (sandbox, _opened) in DOORS.items()
    ]
    controller.converge({"hermes_agents": [default, *others]})


@pytest.mark.parametrize("door", DOORS)
def test_a_door_opens_what_it_says(door, doors, agent, model):
    _sandbox, opened = DOORS[door]
    model.script({"tool": "terminal", "arguments": {"command": "; ".join(TRIALS.values())}})
    said = agent(f"door-{door}", port=PORTS[door]).reply("what can you do?")
    assert set(re.findall(r"CAN-(\w+)", said)) == CLOSED | opened
