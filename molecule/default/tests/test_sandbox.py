# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox: closed as promised, and every door really opens what it says."""

from __future__ import annotations

import os
import re

import pytest

# Doors are systemd's business: one of the boxes tells.
testinfra_hosts = [f"ansible://default-{os.environ.get('HERMES_TEST_SECOND_SUITE', 'trixie')}"]

# What the agent's terminal tries, and the word it prints where it may.
TRIALS = {
    "sudo": 'test "$(sudo -n id -u)" = 0 && echo CAN-sudo',
    "home": "cat /home/ops/note && echo CAN-home",
    "browser": "unshare --user true && echo CAN-browser",
    "system": "touch /srv/shared/note && echo CAN-system",
    "own": "touch ~/note && echo CAN-own",
    "scope": "systemd-run --user --scope --quiet true && echo CAN-scope",
}
# Always: its own home, and the user's manager, where cron jobs run since Hermes 0.21.1.
CLOSED = {"own", "scope"}


def what_it_can_do(agent, model):
    model.script({"tool": "terminal", "arguments": {"command": "; ".join(TRIALS.values())}})
    return set(re.findall(r"CAN-(\w+)", agent().reply("what can you do?")))


def declare(controller, host, **sandbox):
    profiles = host.ansible.get_variables()["hermes_profiles"]
    controller.converge({"hermes_profiles": [{**profiles[0], "sandbox": sandbox}]})


def test_exposure_is_low(host):
    with host.sudo():
        report = host.check_output("systemd-analyze security --no-pager hermes-gateway@default.service")
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", report)[1]) <= 2.5


def test_systemd_knows_every_directive(host):
    with host.sudo():
        assert "Unknown" not in host.check_output("journalctl --boot --no-pager --identifier systemd")


@pytest.mark.parametrize(
    ("sandbox", "opened"),
    [
        ({}, set()),
        ({"open": ["sudo"]}, {"sudo", "browser"}),
        ({"open": ["home"]}, {"home"}),
        ({"open": ["browser"]}, {"browser"}),
        ({"open": ["system"]}, {"system"}),
        ({"paths": ["/srv/shared"]}, {"system"}),
        ({"enabled": False}, {"sudo", "home", "browser", "system"}),
    ],
    ids=["closed", "sudo", "home", "browser", "system", "paths", "no sandbox"],
)
def test_a_door_opens_what_it_says(host, controller, agent, model, sandbox, opened):
    controller.shell(
        "echo 'hermes ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/hermes; chmod 0440 /etc/sudoers.d/hermes;"
        "echo hello >/home/ops/note; chmod 0755 /home/ops; install -d -o hermes /srv/shared"
    )
    declare(controller, host, **sandbox)
    assert what_it_can_do(agent, model) == CLOSED | opened
