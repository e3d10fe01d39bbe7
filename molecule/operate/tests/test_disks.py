# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk fills up while users talk to the agent on it: what it answers, it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["ansible://operate-trixie"]

TALK = Path(__file__).resolve().parents[1] / "files/talk.py"
WORK = "/var/lib/hermes/agents/work/.hermes"
GATEWAY = "hermes-gateway@work.service"
ANSWERED = "/root/answered"
FILLER = f"{WORK}/workspace/filler"
HELD = "/run/hermes-held/work"
# Prints how many of the messages in a file the database does not have.
LOST = """
import sqlite3, sys
with open(sys.argv[1]) as stream:
    answered = set(stream.read().splitlines())
rows = sqlite3.connect(f"file:{sys.argv[2]}?mode=ro", uri=True).execute("SELECT content FROM messages")
print(len(answered - {row[0] for row in rows}))
"""


class Disk:
    """The disk of the agent ``work``, and the users who talk to it."""

    def __init__(self, controller: Any, agent: Callable[..., Any], wait_until: Callable[..., Any]) -> None:
        self.shell, self.write, self.controller = controller.shell, controller.write, controller
        self.agent, self.work = agent(), agent("work", port=8643)
        self.wait_until = wait_until

    def answered(self) -> int:
        return int(self.shell(f"cat {ANSWERED} | wc -l"))

    def talk(self) -> None:
        """Let users talk, and return once they are answered."""
        self.shell(f"rm -f {ANSWERED}*; touch {ANSWERED}")
        self.shell(f"systemd-run --quiet --collect --unit talk python3 /root/talk.py 8643 {WORK} {ANSWERED}")
        self.wait_until(lambda: self.answered() >= 5, "users are answered")

    def lost(self) -> int:
        """How many answered messages the agent has lost, now that nobody talks any more."""
        self.shell(f"touch {ANSWERED}.stop; while systemctl is-active --quiet talk; do sleep 0.1; done")
        return int(self.shell('python3 -c "$1" "$2" "$3"', LOST, ANSWERED, f"{WORK}/state.db"))

    def fill(self, *, slowly: bool = False) -> None:
        """Fill the disk as its agent may."""
        write = f"head -c 4M /dev/zero >>{FILLER}"
        script = f"while {write}; do sleep 0.05; done" if slowly else f"while {write}; do :; done"
        self.shell(f"sudo -u hermes-work sh -c '{script}' 2>/dev/null || true")

    def fill_once(self) -> None:
        """Leave 10 MiB: too little to go on, and enough with what is kept in reserve."""
        size = f"$(($(df --output=avail --block-size=1 {WORK} | tail -n 1) - 10485760))"
        self.shell(f"sudo -u hermes-work fallocate --length {size} {FILLER}")

    def free(self) -> None:
        self.shell(f"rm -f {FILLER}")

    def stopped(self) -> bool:
        # It counts as failed if it was killed.
        return self.work.show("ActiveState") in ("inactive", "failed")

    def runs(self) -> bool:
        return self.work.show("ActiveState") == "active" and self.work.is_healthy()


@pytest.fixture
def disk(controller: Any, agent: Any, wait_until: Any) -> Iterator[Disk]:
    disk = Disk(controller, agent, wait_until)
    disk.write("/root/talk.py", TALK.read_bytes())
    disk.shell(
        f"cp -a {WORK} /root/work; systemctl stop {GATEWAY}; "
        f'mount -t tmpfs -o "size=200m,mode=0700,uid=$(id -u hermes-work),gid=$(id -g hermes-work)" tmpfs {WORK}; '
        f"cp -a /root/work/. {WORK}/; systemctl start {GATEWAY}"
    )
    wait_until(disk.runs, "work on its small disk")
    yield disk
    disk.shell(
        # It may be declared off.
        f"touch {ANSWERED}.stop; systemctl start hermes-disks || true; systemctl stop {GATEWAY}; umount {WORK}; "
        f"rm -rf /root/work /root/backups /root/talk.py {ANSWERED}*; rm -f {HELD}; systemctl start {GATEWAY}",
        check=False,
    )
    wait_until(disk.work.is_healthy, "work on its own disk")


@pytest.mark.parametrize("slowly", [False, True], ids=["at once", "slowly"])
def test_nothing_that_was_answered_is_lost(disk, slowly):
    disk.talk()
    disk.fill(slowly=slowly)
    disk.wait_until(disk.stopped, "the gateway is stopped")
    before = disk.answered()
    # The agent on the other disk goes on.
    assert disk.agent.reply("well?") == "The model heard: well?"
    assert disk.answered() == before
    disk.free()
    disk.wait_until(disk.runs, "the gateway is started when there is room again")
    disk.wait_until(lambda: disk.answered() > before, "users are answered again")
    assert disk.lost() == 0


def test_without_the_watch_it_would_forget(disk):
    """The other tests can fail."""
    disk.shell("systemctl stop hermes-disks")
    disk.talk()
    disk.fill()
    before = disk.answered()
    disk.wait_until(lambda: disk.answered() >= before + 5, "users are answered on the full disk")
    disk.free()
    assert disk.lost() > 0


def test_nobody_starts_it_and_everybody_says_why(disk):
    (made,) = json.loads(disk.shell("hermes-ops backup --agent work --output /root/backups --json"))
    disk.fill()
    disk.wait_until(disk.stopped, "the gateway is stopped")
    why = f"its gateway was stopped, because the disk of {WORK} has "
    disk.shell(f"systemctl start {GATEWAY}")
    assert disk.stopped()
    found = json.loads(disk.shell("hermes-ops check --json || true"))["findings"]
    assert [each["agent"] for each in found if each["cause"] == "no_space" and each["what"].startswith(why)] == ["work"]
    assert why in disk.shell("hermes-ops status")
    # As at a boot: nothing is left in /run, and both are started at once.
    disk.shell(f"systemctl stop hermes-disks; rm -r /run/hermes-held; systemctl start hermes-disks {GATEWAY}")
    assert disk.stopped()
    # A run has nothing to change about it, and says so in the end.
    run = disk.controller.run()
    assert run.rc != 0
    assert run.changed == 0
    assert f"agent work: {why}" in run.text
    assert disk.stopped()
    # Nor does a restore start it.
    assert why in disk.shell('hermes-ops restore --force "$1" 2>&1 || true', made["path"])
    disk.free()
    disk.wait_until(disk.runs, "the gateway is started when there is room again")
    assert disk.work.reply("well?") == "The model heard: well?"


def test_a_reserve_is_kept_where_no_agent_can_reach_it(disk):
    said = disk.shell("stat --format '%U %a %s' /var/lib/hermes/ops/disk.reserve").split()
    assert said == ["root", "600", str(512 * 2**20)]


@pytest.fixture
def shared(disk):
    """The disk of all homes and of the ops directory is a small one."""
    units = f"hermes-disks {GATEWAY} hermes-gateway@default"
    # The agent's home on a disk of its own is copied as well, and goes on as a directory.
    disk.shell(
        f"systemctl stop {units}; rm -f /var/lib/hermes/ops/disk.reserve; cp -a /var/lib/hermes /root/data; "
        "mount -t tmpfs -o size=400m,mode=0711 tmpfs /var/lib/hermes; cp -a /root/data/. /var/lib/hermes/; "
        f"systemctl start {units}"
    )
    disk.wait_until(disk.runs, "work on the small disk")
    disk.wait_until(disk.agent.is_healthy, "default on the small disk")
    yield disk
    disk.shell(f"systemctl stop {units}; umount /var/lib/hermes; rm -rf /root/data; systemctl start {units}")


def test_what_was_kept_in_reserve_is_enough_if_the_disk_is_filled_once(shared):
    reserve = "/var/lib/hermes/ops/disk.reserve"
    shared.wait_until(lambda: shared.shell(f"ls {reserve} 2>/dev/null || true"), "there is a reserve")
    pids = shared.work.pid, shared.agent.pid
    shared.talk()
    shared.fill_once()
    shared.wait_until(lambda: not shared.shell(f"ls {reserve} 2>/dev/null || true"), "the reserve is released")
    before = shared.answered()
    shared.wait_until(lambda: shared.answered() >= before + 5, "users are answered")
    assert shared.lost() == 0
    assert (shared.work.pid, shared.agent.pid) == pids
    shared.free()
    shared.wait_until(lambda: shared.shell(f"ls {reserve} 2>/dev/null || true"), "there is a reserve again")


def test_off_when_it_is_declared_off(disk):
    disk.fill()
    disk.wait_until(disk.stopped, "the gateway is stopped")
    run = disk.controller.run({"gateway_min_free_mb": 0})
    assert run.changed > 0
    # Hermes may end because it cannot write, and is started again.
    disk.wait_until(lambda: disk.work.show("ActiveState") == "active", "the gateway runs, although its disk is full")
    left = "/etc/systemd/system/hermes-disks.service /var/lib/hermes/ops/disk.reserve"
    assert not disk.shell(f"ls {left} {HELD} 2>/dev/null || true")
    disk.free()
    disk.controller.converge()
    assert disk.shell("systemctl is-active hermes-disks").strip() == "active"
