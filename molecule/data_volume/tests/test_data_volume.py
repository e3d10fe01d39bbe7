# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All data of the agents lie on a volume, and nothing starts without it. The tests build on each other, in this order.

Unit tests have the refusals, on real devices: tests/unit/host/test_devices.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from control import Controller
from inside import inside

testinfra_hosts = ["ansible://volume-bookworm"]

FIRST, SECOND = "volume-bookworm", "volume-trixie"
DATA = "/var/lib/hermes"
HOME = f"{DATA}/agents/default"
UNIT = "var-lib-hermes.mount"
GATEWAY = "hermes-gateway@default.service"


def at(box: str, script: str, check: bool = True) -> str:
    """Run *script* as root in *box*; what it prints."""
    done = subprocess.run([*inside(box), "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{script}: {done.stderr}{done.stdout}"
    return (done.stdout + done.stderr).strip()


def boot(box: str, wait_until: Callable[..., Any]) -> None:
    subprocess.run(["docker", "restart", "--time", "60", box], check=True, capture_output=True)
    wait_until(lambda: at(box, "systemctl is-system-running", check=False) in ("running", "degraded"), "a boot")


def findings(box: str) -> set[str]:
    report = at(box, "hermes-ops check --json", check=False)
    return {finding["cause"] for finding in json.loads(report)["findings"]}


def second(controller: Any) -> Controller:
    """The controller, for the second host."""
    other = Controller.__new__(Controller)
    other.box = other.limit = SECOND
    other.inventory = controller.inventory
    return other


def site(controller: Any) -> Any:
    """Run site.yml for the second host."""
    return second(controller).run({"hermes_hosts": SECOND})


def test_the_data_lie_on_the_volume(controller, agent):
    assert at(FIRST, f"findmnt --noheadings --output FSTYPE,LABEL {DATA}").split() == ["xfs", "hermes-data"]
    options = at(FIRST, f"findmnt --noheadings --output OPTIONS {DATA}").split(",")
    assert {"rw", "nosuid", "nodev"} <= set(options)
    assert UNIT in at(FIRST, f"systemctl show --property Requires --value {GATEWAY} hermes-backup.service")
    assert agent().reply("well?") == "The model heard: well?"
    at(FIRST, f"echo 'the harbour is blue' >{HOME}/.hermes/memories/MEMORY.md; chown -R --reference={HOME} {HOME}")


def test_a_volume_in_use_is_refused_by_another_host(controller):
    run = site(controller)
    assert run.rc != 0
    assert "is in use. Fix: see by what" in run.text, run.output
    assert run.changed == 0


def test_without_the_volume_nothing_starts_and_nothing_is_written(controller, wait_until):
    at(FIRST, "systemctl disable stand-in-for-udev")
    boot(FIRST, wait_until)
    try:
        assert at(FIRST, f"systemctl is-active {GATEWAY}", check=False) == "inactive"
        refused = "the data volume is not mounted. Fix: attach the volume, then: systemctl start var-lib-hermes.mount"
        for command in ("backup", "update --here", "restart"):
            assert refused in at(FIRST, f"hermes-ops {command}", check=False), command
        assert refused in at(FIRST, "hermes cron list", check=False)
        at(FIRST, "! systemctl start hermes-backup.service")
        assert "volume_missing" in findings(FIRST)
        at(FIRST, f"! systemctl start {GATEWAY}")
        run = controller.run({"data_volume_device": "", "data_volume_label": "no-such-vol"})
        assert run.rc != 0
        assert "no volume with label no-such-vol is attached. Fix: attach it." in run.text, run.output
        assert at(FIRST, f"ls -A {DATA}; stat --format %a {DATA}") == "0"
        # Nor by the one service of ours that runs meanwhile.
        assert at(FIRST, "systemctl is-active hermes-disks.service") == "active"
    finally:
        at(FIRST, "systemctl enable --now stand-in-for-udev")


def test_with_the_volume_all_comes_back_by_itself(agent, wait_until):
    # On a host with udev the device starts this unit.
    at(FIRST, f"systemctl start {UNIT}")
    wait_until(agent().is_healthy, "the gateway, which the mount has started")
    assert agent().reply("well?") == "The model heard: well?"
    assert "volume_missing" not in findings(FIRST)
    assert "blue" in at(FIRST, f"cat {HOME}/.hermes/memories/MEMORY.md")


def test_a_boot_starts_the_agents_after_the_volume(agent, wait_until):
    boot(FIRST, wait_until)
    wait_until(agent().is_healthy, "the gateway after a boot")


def test_a_larger_device_is_used_while_the_agent_runs(controller, agent):
    pid = agent().pid
    device = at(FIRST, f"findmnt --noheadings --output SOURCE {DATA}")
    before = int(at(FIRST, f"findmnt --noheadings --bytes --output SIZE {DATA}"))
    disk = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "volume")
    os.truncate(disk, disk.stat().st_size + 100 * 2**20)
    at(FIRST, f"losetup --set-capacity {device}")
    assert controller.converge().changes == ["The data volume is mounted"]
    assert int(at(FIRST, f"findmnt --noheadings --bytes --output SIZE {DATA}")) > before + 90 * 2**20
    assert controller.converge().changed == 0
    assert agent().pid == pid


def numbers(box: str) -> str:
    """The user and the group of the agent's home, as the host sees them."""
    return at(box, f"stat --format '%u %g' {HOME}")


def test_another_host_goes_on_with_the_volume_although_its_numbers_are_taken_there(controller):
    before, key = numbers(FIRST), at(FIRST, f"grep API_SERVER_KEY {HOME}/.hermes/.env")
    uid, gid = before.split()
    # Only unmounting it is not enough for a container, whose mounts are private: services that began after the mount
    # and have a mount namespace, like systemd-logind, keep theirs. The loop device would stay in use.
    subprocess.run(["docker", "stop", "--time", "60", FIRST], check=True, capture_output=True)
    # Some of them are taken on any Debian.
    at(SECOND, f"getent group {gid} || groupadd --system --gid {gid} others")
    at(SECOND, f"getent passwd {uid} || useradd --system --uid {uid} --gid {gid} taken")
    run = site(controller)
    assert run.rc == 0, run.output
    assert at(SECOND, f"stat --format '%U %G' {HOME}") == "hermes-default hermes-default"
    assert not {uid, gid} & set(numbers(SECOND).split())
    as_other = f"setpriv --reuid={uid} --regid={gid} --clear-groups"
    assert "Permission denied" in at(SECOND, f"{as_other} ls {HOME}", check=False)
    # On the volume, also a file that the agent has made here has the numbers of the first host.
    device = at(SECOND, f"findmnt --noheadings --output SOURCE {DATA}")
    home = "/mnt/agents/default"
    made = f"mount {device} /mnt && stat --format '%u %g' {home} {home}/.hermes/gateway_state.json"
    assert at(SECOND, f'unshare --mount sh -c "{made}"').splitlines() == [before, before]
    assert at(SECOND, f"grep API_SERVER_KEY {HOME}/.hermes/.env") == key
    assert "blue" in at(SECOND, f"cat {HOME}/.hermes/memories/MEMORY.md")
    assert at(SECOND, f"systemctl is-active {GATEWAY}") == "active"
    assert site(controller).changed == 0


# As a test of the host, so that it follows the one before.
@pytest.mark.usefixtures("controller")
def test_a_boot_keeps_the_numbers(wait_until):
    seen = numbers(SECOND)
    boot(SECOND, wait_until)
    wait_until(
        lambda: at(SECOND, f"systemctl is-active {GATEWAY}", check=False) == "active", "the gateway after a boot"
    )
    assert numbers(SECOND) == seen


def test_a_volume_that_is_no_longer_declared_is_not_left_behind_unseen(controller):
    run = second(controller).run({"hermes_hosts": SECOND, "data_volume_enabled": False})
    assert run.rc != 0
    assert "var-lib-hermes.mount mounts a data volume that is no longer declared. Fix:" in run.text, run.output
    assert run.changed == 0
