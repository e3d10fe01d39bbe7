# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Good and bad releases of every kind; afterwards the agent answers on the right one, and remembers everything."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap

import pytest

testinfra_hosts = ["ansible://update-bookworm"]

RANGE = {"hermes_version": ">=0.18.2,<0.30"}
# This release is built once, and used by all tests.
MADE_UP = "0.19.2"
HOME = "/var/lib/hermes/agents/default/.hermes"
OPS = "/var/lib/hermes/ops"


def test_a_range_keeps_what_is_current(controller, box, agent):
    """0.19.0 is available from the start, but moving up is left to the update."""
    assert agent().reply("said to 0.18.2") == "The model heard: said to 0.18.2"
    controller.converge(RANGE)
    assert box.release.startswith("0.18.2-")
    shown = json.loads(box.command("update", "--check", "--json").stdout)
    assert shown["status"] == "available"
    assert shown["to"].startswith("0.19.0-")


def test_from_0_18_2_to_0_19_0(controller, box, agent, well):
    box.pings()
    done = box.update()
    assert (done["status"], done["rc"]) == ("success", 0), done["log"]
    well("0.19.0")
    assert "said to 0.18.2" in box.words()
    assert done["from"].startswith("0.18.2-")
    assert box.pings() == ["start", "success"]
    hook = dict(line.split("=", 1) for line in box.shell("cat /root/hook").splitlines())
    assert (hook["HERMES_UPDATE_STATUS"], hook["HERMES_UPDATE_TO"]) == ("success", done["to"])
    for name in ("default", "jobs"):
        assert box.shell(f"ls {OPS}/update/backups/{name}-*.tar.gz")
    # site.yml has nothing to change after an update.
    run = controller.converge(RANGE)
    assert run.changed == 0, run.output
    assert box.update()["status"] == "up_to_date"
    assert box.pings() == ["success"]


# Description of the fault -> fault, with or without a canary, the step that detects it, final status.
BAD = {
    "does not start": ("no_start", True, "canary", "failed"),
    "starts and dies, on a copy": ("dies", True, "canary", "failed"),
    "starts and dies": ("dies", False, "verify", "rolled_back"),
    "answers /health but no chat, on a copy": ("no_reply", True, "canary", "failed"),
    "answers /health but no chat": ("no_reply", False, "verify", "rolled_back"),
    "hangs on stop": ("no_stop", True, "canary", "failed"),
    "fails only where it counts": ("fails_later", True, "verify", "rolled_back"),
    "migrates the database and fails": ("migrates", False, "verify", "rolled_back"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_release_that(what, box, agent, well):
    wrong, canary, step, status = BAD[what]
    words = f"said before one that {what}"
    agent().reply(words)
    pid = agent().pid
    box.set(canary=canary)
    box.forgive()
    box.offer(MADE_UP, wrong)
    box.pings()
    done = box.update()
    assert (done["status"], done["failed_step"], done["rc"]) == (status, step, 1), done["log"]
    well("0.19.0")
    assert words in box.words()
    assert box.pings() == ["start", "fail"]
    # The canary runs on a copy, so the agent itself was not affected.
    assert (agent().pid == pid) == (step == "canary")
    failed = json.loads(box.controller.read(f"{OPS}/update/failed.json"))
    assert failed[done["to"]]["reason"].startswith(f"failed at {step}: ")
    if wrong == "migrates":
        aside = re.search(rf"{OPS}/set-aside/update-\w+", done["message"])[0] + "/default/state.db"
        script = """
            import sqlite3, sys
            database = sqlite3.connect(sys.argv[1])
            print(database.execute("SELECT sql FROM sqlite_master WHERE name = 'messages'").fetchone())
        """
        columns = box.shell('python3 -c "$1" "$2"', textwrap.dedent(script), aside)
        assert "content_of_a_later_release" in columns
        # The next night does not try it again.
        again = box.update()
        assert (again["status"], again["rc"]) == ("held", 0)
        assert box.pings() == ["success"]


def test_an_index_with_a_broken_wheel(box, well):
    # The other tests need no canary, which takes time.
    box.set(canary=False)
    box.offer("0.19.20", "broken")
    done = box.update()
    assert (done["status"], done["failed_step"], done["rc"]) == ("failed", "build", 1), done["log"]
    assert "nothing was changed" in done["message"]
    well("0.19.0")
    assert done["to"] not in box.controller.read(f"{OPS}/update/failed.json").decode()


def test_no_network(box, well):
    box.control("POST", "/fault", "gone")
    done = box.update()
    box.control("POST", "/fault", "")
    assert (done["status"], done["failed_step"], done["rc"]) == ("failed", "resolve", 1), done["log"]
    well("0.19.0")


def test_a_hold(box, well):
    box.offer("0.19.21")
    box.set(hold="the exhibition is on")
    done = box.update()
    box.set(hold="")
    assert (done["status"], done["rc"]) == ("held", 0)
    assert "the exhibition is on" in done["message"]
    well("0.19.0")


def test_two_updaters_a_person_who_stops_a_gateway_and_a_caller_who_leaves(box, agent, well):
    box.forgive()
    box.offer(MADE_UP)
    box.orders(
        ("snapshot", 3, "hermes-ops update >/run/second 2>&1; echo $? >>/run/second; touch /run/there"),
        ("freeze", 0, "systemctl stop hermes-gateway@jobs.service"),
    )
    caller = subprocess.Popen(["docker", "exec", box.box, "timeout", "--signal=KILL", "6", "hermes-ops", "update"])
    caller.wait()
    box.shell(
        "while systemctl is-active --quiet hermes-update-by-hand.service || "
        "systemctl show hermes-update-by-hand.service | grep -q ^ActiveState=activating; do sleep 0.2; done"
    )
    assert box.orders_done()
    assert box.status()["status"] == "success", box.log()
    second = box.shell("cat /run/second")
    assert "runs already" in second or "another update is running" in second
    assert second.split()[-1] == "3"
    assert agent("jobs").show("ActiveState") == "inactive"
    box.shell("systemctl start hermes-gateway@jobs.service")
    well(MADE_UP)


def test_back_by_hand(controller, box, agent, well):
    agent().reply("said to the made-up one")
    done = box.command("rollback", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "success"
    well("0.19.0")
    # Neither the next night nor site.yml moves to the release that was rolled back.
    assert box.update()["status"] == "held"
    controller.converge(RANGE)
    well("0.19.0")
    # A version that a person names is installed.
    assert box.update("--version", MADE_UP)["status"] == "success"
    well(MADE_UP)


def test_back_by_hand_to_a_release_that_is_named(box, agent, well):
    agent().reply("said to the made-up one later")
    before = box.words()
    done = box.command("rollback", "--to", "0.18.2", "--json")
    assert done.returncode == 0, done.stderr
    well("0.18.2")
    assert before <= box.words()
    done = box.command("rollback", "--to", "0.17.0")
    assert done.returncode == 2
    assert "there is no release 0.17.0 to go back to" in done.stdout


def test_back_by_hand_with_data(box, agent, well):
    """Back to the data from before a migration, although the new release was healthy."""
    box.forgive()
    box.offer(MADE_UP, "upgrades")
    assert box.update()["status"] == "success", box.log()
    well(MADE_UP)
    agent().reply("said to what upgraded")
    done = box.command("rollback", "--data", "--json")
    assert done.returncode == 0, done.stderr
    well("0.18.2")
    assert "said to what upgraded" not in box.words()
    message = json.loads(done.stdout)["message"]
    aside = re.search(rf"{OPS}/set-aside/rollback-\w+", message)[0]
    assert "said to what upgraded" in box.words(home=f"{aside}/default")
    assert "came in meanwhile that default does not know any more" in message
    assert "said to what upgraded" in box.shell(f"cat {aside}/default/messages.jsonl")
    shown = json.loads(box.shell("hermes-ops status --json"))["set_aside"]
    (item,) = [each for each in shown if each["path"] == aside]
    assert item["complete"]
    assert item["bytes"] > 100_000
    assert aside in box.shell("hermes-ops status")


def test_a_restore_that_fails(box, agent, wait_until):
    """A mounted file cannot be renamed, even if only the updater sees the mount."""
    database = f"{HOME}/state.db"
    box.forgive()
    box.offer(MADE_UP, "migrates")
    box.orders(("verify", 0, f"mount --bind {database} {database}"))
    done = box.update()
    assert box.orders_done()
    assert (done["status"], done["rc"]) == ("failed", 1), done["log"]
    assert "Device or resource busy" in done["message"]
    # The old release runs as well as it can, and the failure is reported.
    assert box.release.startswith("0.18.2-")
    assert box.pings()[-1] == "fail"
    wait_until(lambda: agent().pid, "the old release")
    # The copies from before the switch are kept, and the message names their directory.
    (kept,) = box.shell(f"ls -d {OPS}/set-aside/update-*/before-the-switch/default/state.db").split()
    assert kept.rpartition("/before-the-switch")[0] in done["message"]
    box.shell(
        f"systemctl stop hermes-gateway@default; rm -f {database}*; "
        f"install -o hermes-default -g hermes-default -m 0600 {kept} {database}; systemctl start hermes-gateway@default"
    )
    wait_until(agent().is_healthy, "the agent with what was kept")
    assert agent().reply("well?") == "The model heard: well?"
    assert "said to 0.18.2" in box.words()


def test_a_release_without_its_lock_is_built_anew_beside_it(controller, box, agent, well):
    """However the version is spelt. The old one is not changed, and the gateways move to the new one."""
    old = box.release
    stamp = f"/opt/hermes/releases/{old}/release.json"
    box.shell(f"""sed --in-place 's/"locked": true/"locked": false/' {stamp}; grep '"locked": false' {stamp}""")
    before = box.shell(f"find /opt/hermes/releases/{old} -type f | sort | xargs sha256sum | sha256sum")
    declared = {"hermes_version": "v0.18.2.0", "auto_update_enabled": False}
    controller.converge(declared)
    assert box.release == f"{old}-2"
    assert box.shell(f"find /opt/hermes/releases/{old} -type f | sort | xargs sha256sum | sha256sum") == before
    assert json.loads(controller.read(f"/opt/hermes/releases/{old}-2/release.json"))["locked"] is True
    well("0.18.2")
    assert controller.converge(declared).changed == 0
