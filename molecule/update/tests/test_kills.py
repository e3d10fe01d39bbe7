# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The updater is killed, or the power is cut, at every step; the end is one release and one state of the data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["ansible://update-trixie"]

BOX = Path(__file__).resolve().parents[3] / "tests" / "hosts" / "box.py"
KILL = "kill -9 $PPID"
# Kills the updater shortly afterwards, in the middle of something slow.
SOON = "p=$PPID; (sleep 0.4; kill -9 $p) &"


@pytest.fixture(autouse=True)
def quick(box: Any) -> None:
    """Short settings: these tests do not depend on what a release does."""
    box.set(version=">=0.18.2,<0.30", canary=False, reply=False, stable_seconds=3)


def test_killed_while_it_builds_and_while_a_canary_runs(box, agent, well):
    agent().reply("said to 0.18.2")
    box.set(canary=True)
    box.orders(("build", 12, SOON), ("canary", 40, KILL))
    done = box.by_timer()
    assert box.orders_done()
    assert done["status"] == "success", box.log()
    well("0.19.0")
    assert "said to 0.18.2" in box.words()


@pytest.fixture
def from_0_18_2(box: Any, agent: Any) -> None:
    """The host runs 0.18.2, and can move to 0.19.0, which stays installed."""
    if not box.release.startswith("0.18.2-"):
        done = box.command("rollback", "--to", "0.18.2")
        assert done.returncode == 0, done.stdout
    box.forgive()


# Step, number of events after it, command; and whether the run then begins again or finishes, with the new release.
KILLED = {
    "build": ("build", 0, KILL, True),
    "snapshot": ("snapshot", 20, KILL, True),
    "freeze": ("freeze", 30, KILL, True),
    "stop": ("stop", 0, KILL, False),
    "while gateways stop": ("stop", 0, SOON, False),
    "freezing the rest": ("stop", 20, KILL, False),
    "switch": ("switch", 0, KILL, False),
    "having switched": ("switch", 6, KILL, False),
    "start": ("start", 0, KILL, False),
    "while gateways start": ("start", 2, SOON, False),
    "verify": ("verify", 0, KILL, False),
    "while it looks at them": ("verify", 0, "p=$PPID; (sleep 2; kill -9 $p) &", False),
    "prune": ("prune", 0, KILL, True),
    "clearing up": ("prune", 8, KILL, True),
}


@pytest.mark.parametrize("where", KILLED)
def test_killed(where, box, agent, well, from_0_18_2):
    step, after, how, forward = KILLED[where]
    agent().reply(f"said before: {where}")
    box.orders((step, after, how))
    done = box.by_timer()
    assert box.orders_done(), box.log()
    assert done["status"] == ("success" if forward else "rolled_back"), box.log()
    well("0.19.0" if forward else "0.18.2")
    assert f"said before: {where}" in box.words()
    if not forward:
        assert done["message"].startswith("was interrupted; went back to 0.18.2-")
        # With a delayed kill the next step may have begun.
        assert done["failed_step"] == step or how != KILL


def test_killed_on_the_way_back_again_and_again(box, agent, well, from_0_18_2):
    agent().reply("said before it was killed again and again")
    box.offer("0.19.50", "migrates")
    box.orders(("undo", 4, KILL), ("undo", 12, KILL), ("undo", 25, KILL))
    done = box.by_timer()
    assert box.orders_done(), box.log()
    assert done["status"] == "rolled_back", box.log()
    well("0.18.2")
    assert "said before it was killed again and again" in box.words()


def test_a_run_that_takes_too_long_goes_back_and_is_not_begun_again(box, agent, well, from_0_18_2):
    """systemd counts that as an abnormal end, although the updater finished on its own."""
    directory = "/run/systemd/system/hermes-update.service.d"
    box.shell(f"mkdir -p {directory}; printf '[Service]\\nTimeoutStartSec=30\\n' >{directory}/soon.conf")
    box.shell("systemctl daemon-reload")
    box.orders(("verify", 0, "sleep 300"))
    done = box.by_timer()
    box.shell(f"rm -r {directory}; systemctl daemon-reload")
    # A second run would have succeeded, because its order is used up. A slow host may not reach that step.
    assert done["status"] in ("rolled_back", "failed"), box.log()
    assert box.shell("systemctl show --property NRestarts --value hermes-update.service").strip() == "0"
    well("0.18.2")


@pytest.fixture
def power_cut(box: Any, wait_until: Callable[..., Any]) -> Callable[[str, int], None]:
    """A function that cuts the host's power at a step, and boots the host again."""

    def cut(step: str, after: int) -> None:
        box.orders((step, after, "touch /run/reached; sleep 600"))
        box.shell("systemctl reset-failed hermes-update.service; systemctl start --no-block hermes-update.service")
        wait_until(lambda: box.shell("ls /run/reached || true"), f"the step {step}", 120)
        subprocess.run(["docker", "kill", "--signal=KILL", box.box], check=True, capture_output=True)
        subprocess.run([sys.executable, str(BOX), "reboot", box.box], check=True)

    return cut


# Step -> number of events after it, and the version that the host then has. One case for each kind of state: which
# gateways run, on which release, and whether a rollback is possible. tests/unit/update/test_kills.py kills at every
# event.
CUT = {
    "snapshot": (10, "0.18.2"),
    "canary": (40, "0.18.2"),
    "stop": (3, "0.18.2"),
    "switch": (6, "0.18.2"),
    "verify": (10, "0.18.2"),
    "prune": (2, "0.19.0"),
}


@pytest.mark.parametrize("step", CUT)
def test_the_power_is_cut(step, box, agent, well, from_0_18_2, power_cut, wait_until):
    after, version = CUT[step]
    box.set(canary=step == "canary")
    power_cut(step, after)
    wait_until(agent().is_healthy, "the agent after the boot", 120)
    well(version)
    assert box.status()["status"] == ("success" if step == "prune" else "rolled_back")
    assert box.shell("systemctl is-system-running").strip() == "running"


def test_the_power_is_cut_after_the_data_was_migrated(box, agent, well, from_0_18_2, power_cut, wait_until):
    agent().reply("said before the power was cut")
    box.offer("0.19.50", "migrates")
    power_cut("undo", 3)
    wait_until(agent().is_healthy, "the agent after the boot", 120)
    well("0.18.2")
    assert "said before the power was cut" in box.words()


def test_in_the_users_own_manager(controller, box, agent, well, from_0_18_2, power_cut, wait_until):
    controller.converge({"gateway_scope": "user", "hermes_version": ">=0.18.2,<0.30"})
    box.set(canary=False, reply=False, stable_seconds=3)
    box.control("DELETE", "")
    box.orders(("start", 2, SOON))
    assert box.by_timer()["status"] == "rolled_back", box.log()
    well("0.18.2", scope="user")
    # The recovery at boot is a unit of the system's manager, and runs before the user's manager.
    power_cut("verify", 10)
    wait_until(agent().is_healthy, "the agent after the boot", 120)
    well("0.18.2", scope="user")
    box.set(canary=True)
    assert box.by_timer()["status"] == "success", box.log()
    well("0.19.0", scope="user")
