# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes that do not depend on the version of Hermes, so on one host only: killed runs, agents, units."""

from __future__ import annotations

import signal
import subprocess

from control import end_at_once

testinfra_hosts = ["ansible://agents-trixie"]

OPS_DIR = "/var/lib/hermes/ops"
ANSWERING = ("default", "work", "family", "bridge")


def test_a_run_that_is_killed_before_the_restart_is_finished_by_the_next(
    host, agents, declared, playbook, converge, restarted, wait_until
):
    pending = f"{OPS_DIR}/agents/default/restart.json"
    declared["default"]["config"]["agent"] = {"max_turns": 31}

    def remembered():
        with host.sudo():
            return host.file(pending).exists

    assert not remembered()
    run = subprocess.Popen(playbook(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # The first agent's configuration is written, and the others' come first before any restart.
        wait_until(lambda: remembered() and "max_turns: 31" in agents["default"].read("config.yaml"), "the change")
    finally:
        end_at_once(run)
    assert run.returncode == -signal.SIGKILL
    assert remembered()
    assert restarted() == set()
    converge()
    assert restarted() == {"default"}
    assert not remembered()


def test_an_agent_that_is_absent_keeps_its_data_unless_purged(host, agents, declared, converge, restarted):
    family, bridge = agents["family"], agents["bridge"]
    key = family.key
    declared["family"]["state"] = declared["bridge"]["state"] = "absent"
    declared["bridge"]["purge"] = True
    converge()
    assert restarted() == {"family", "bridge"}
    for agent in (family, bridge):
        assert agent.pid == 0
        assert agent.show("ActiveState") == "inactive"
        assert agent.show("UnitFileState") != "enabled"
        assert not agent.is_healthy()
        assert not host.file(f"/etc/systemd/system/{agent.unit}.d").exists
    assert family.key == key
    with host.sudo():
        assert host.file(f"{family.home}/state.db").exists
        assert not host.file("/var/lib/hermes/agents/bridge").exists

    for name in ("family", "bridge"):
        declared[name].pop("state")
    del declared["bridge"]["purge"]
    converge()
    assert restarted() == {"family", "bridge"}
    assert family.key == key
    for agent in (family, bridge):
        assert agent.reply("back?") == "The model heard: back?"


def units_of(host, scope):
    """The gateways' files below /etc/systemd, and the units that the users' managers start."""
    found = host.check_output("find %s -name %s", f"/etc/systemd/{scope}", "hermes-gateway*").split()
    if scope == "user":
        with host.sudo():
            found += host.check_output("find /var/lib/hermes/agents/*/.config -name 'hermes-gateway*' || true").split()
    return found


def lingering(host):
    with host.sudo():
        return set(host.check_output("ls /var/lib/systemd/linger").split())


def test_a_change_of_scope_leaves_no_unit_and_no_manager_behind(host, agents, agent, converge):
    users = {ours.user for ours in agents.values()}
    assert not lingering(host) & users
    converge(gateway_scope="user")
    assert units_of(host, "system") == []
    assert units_of(host, "user")
    assert lingering(host) & users == users
    for name, ours in agents.items():
        there = agent(name, scope="user")
        there.user = ours.user
        assert ours.pid == 0
        assert there.pid != 0
        assert f"/user-{host.check_output('id --user %s', ours.user)}.slice/" in there.show("ControlGroup")
    assert all(agents[name].is_healthy() for name in ANSWERING)
    assert agents["work"].reply("hello") == "The model heard: hello"

    converge()
    assert units_of(host, "user") == []
    assert units_of(host, "system")
    assert not lingering(host) & users
    for name, ours in agents.items():
        there = agent(name, scope="user")
        there.user = ours.user
        assert ours.pid != 0
        # That user's manager does not answer any more.
        assert there.show("MainPID") == ""
    assert all(agents[name].is_healthy() for name in ANSWERING)
    assert agents["work"].reply("hello") == "The model heard: hello"
