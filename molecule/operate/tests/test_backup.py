# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of working agents, and every way in which a restore may fail."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

testinfra_hosts = ["ansible://operate-trixie"]

HOME = "/var/lib/hermes/agents/default/.hermes"
WORK = "/var/lib/hermes/agents/work/.hermes"
OPS = "/var/lib/hermes/ops"
ARCHIVES = f"{OPS}/backups"
SETTINGS = "/etc/hermes-ops/backup.json"
# As in group_vars.
REPOSITORY = "/var/backups/hermes"
PASSWORD = "the-password-of-the-repository"
# Stopped, because the tests start the jobs themselves.
TIMERS = "hermes-heartbeat.timer hermes-backup.timer hermes-rehearsal.timer"


class Host:
    """The host as its operator sees it."""

    def __init__(self, controller: Any, agent: Callable[..., Any], wait_until: Callable[..., Any]) -> None:
        self.shell, self.write, self.read = controller.shell, controller.write, controller.read
        self.agent, self.work = agent(), agent("work", port=8643)
        self.wait_until = wait_until

    def ops(self, command: str, status: int = 0) -> str:
        """Run ``hermes-ops`` *command* and return its output."""
        said, _, rc = self.shell(f"hermes-ops {command} 2>&1 && rc=0 || rc=$?; echo; echo $rc").strip().rpartition("\n")
        assert int(rc) == status, said
        return said

    def backup(self) -> str:
        """Back up the agent default; returns the archive's path."""
        (made,) = json.loads(self.ops("backup --agent default --output /root/backups --json"))
        return made["path"]

    def holds(self, archive: str, text: str) -> bool:
        """Whether any file in *archive* has *text* in it."""
        script = 'tar --to-stdout -xzf "$1" | grep --text --fixed-strings --count -e "$2" || true'
        return int(self.shell(script, archive, text)) > 0

    def memory(self) -> str:
        return self.agent.read("memories/MEMORY.md")

    def remember(self, text: str) -> None:
        self.shell(
            'printf "%s\\n" "$1" >"$2"; chown hermes-default:hermes-default "$2"',
            text,
            f"{HOME}/memories/MEMORY.md",
        )

    def knows(self, text: str) -> bool:
        """Whether a conversation of the agent has *text* in it."""
        return bool(json.loads(self.ops(f"memory --agent default --json '{text}'"))["default"])

    def well(self) -> None:
        """Both agents answer, and a restore has left nothing behind."""
        for each in (self.agent, self.work):
            self.wait_until(each.is_healthy, f"{each.name} answers")
            assert each.reply("well?") == "The model heard: well?"
        left = f"{OPS}/agents/*/restore.json {HOME}/.hermes-ops-* /etc/systemd/system/hermes-restore-recovery.service"
        assert not self.shell(f"ls --directory {left} 2>/dev/null || true")


@pytest.fixture
def box(controller: Any, agent: Any, wait_until: Any) -> Iterator[Host]:
    host = Host(controller, agent, wait_until)
    host.shell(f"systemctl stop {TIMERS}; while systemctl is-active -q hermes-heartbeat.service; do sleep 0.1; done")
    yield host
    host.shell(f"rm -rf /root/backups; systemctl start {TIMERS}")


@contextmanager
def settings(box: Host, **values: Any) -> Iterator[None]:
    """Other settings for the job backup during the block."""
    before = box.read(SETTINGS)
    box.write(SETTINGS, json.dumps({**json.loads(before), **values}))
    try:
        yield
    finally:
        box.write(SETTINGS, before)


# Making backups


WATCHED = r"""
import os, subprocess
words, found = os.environ["WORDS"].encode(), set()
job = subprocess.Popen(["systemctl", "start", "hermes-backup.service"])
while job.poll() is None:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                line = stream.read()
        except OSError:
            continue
        if words in line:
            found.add(line)
print(job.returncode, found)
"""


def test_the_timer_s_backup_under_load(box, agent, model):
    """The agents answer throughout, the archives are complete, and no secret appears in command lines or archives."""
    box.remember("remembered before the backup")
    key = box.agent.key
    box.shell(
        "systemd-run --quiet --unit=load sh -c 'while :; do curl --silent --output /dev/null --max-time 20 "
        f'--header "Authorization: Bearer {key}" --header "Content-Type: application/json" --data-raw "$0" '
        f"{box.agent.url}/v1/chat/completions; done' "
        '\'{"model": "m", "messages": [{"role": "user", "content": "said under load"}]}\''
    )
    try:
        box.wait_until(lambda: len(model.requests()) > 3, "there is load")
        box.write("/root/words", PASSWORD)
        assert box.shell('WORDS=$(cat /root/words) python3 -c "$1"', WATCHED) == "0 set()\n"
        asked = len(model.requests())
        box.wait_until(lambda: len(model.requests()) > asked, "there still is")
    finally:
        box.shell("systemctl stop load")
    status = json.loads(box.read(f"{OPS}/status/backup.json"))
    assert status["status"] == "success", status
    assert {each["agent"] for each in status["archives"]} == {"default", "work"}
    assert "whole" in box.ops("verify")
    modes = box.shell(f"stat --format '%a %U' {ARCHIVES}/* {ARCHIVES} {SETTINGS}").split("\n")[:-1]
    assert set(modes) == {"600 root", "700 root"}
    log = box.shell("journalctl --unit hermes-backup.service --output cat")
    for secret in (PASSWORD, key, "the-model-s-key"):
        assert secret not in log
    (archive,) = [each["path"] for each in status["archives"] if each["agent"] == "default"]
    for text in ("remembered before the backup", "said under load"):
        assert box.holds(archive, text)
    for text in (key, "the-model-s-key"):
        assert not box.holds(archive, text)


def test_env_goes_in_encrypted_and_comes_out_with_the_identity(box):
    box.shell("command -v age || apt-get install --yes --no-install-recommends age >/dev/null")
    said = box.shell("rm -f /root/identity; age-keygen -o /root/identity 2>&1")
    recipient = re.search(r"age1\w+", said)[0]
    key = box.agent.key
    with settings(box, age_recipient=recipient):
        box.ops("backup --agent default --output /root/backups --env encrypt")
    archive = box.shell("ls /root/backups/*").strip()
    assert "env.age" in box.shell(f"tar -tzf {archive}")
    assert not box.holds(archive, key)
    box.shell(f"printf 'API_SERVER_KEY=%s\\nNEWER=1\\n' {key} >{HOME}/.env")
    # Without the identity, the host keeps its own .env.
    box.ops(f"restore --force {archive}")
    assert "NEWER" in box.agent.read(".env")
    box.ops(f"restore --force {archive} --env-identity /root/identity")
    assert "NEWER" not in box.agent.read(".env")
    assert "the-model-s-key" in box.agent.read(".env")
    box.well()


# Restoring


def test_a_home_that_knows_more_is_left_alone_unless_one_insists(box):
    box.remember("the first")
    before, after = secrets.token_hex(8), secrets.token_hex(8)
    box.agent.reply(before)
    archive = box.backup()
    other = box.work.pid
    box.agent.reply(after)
    box.remember("the second")
    said = box.ops(f"restore {archive}", status=2)
    assert "somebody spoke to the agent" in said
    assert "memories/MEMORY.md was changed" in said
    assert box.memory() == "the second\n"
    said = box.ops(f"restore {archive} --force")
    assert box.memory() == "the first\n"
    assert box.knows(before)
    assert not box.knows(after)
    # Nothing is lost, and the other agent is not affected.
    aside = said.rpartition(" is in ")[2].strip()
    assert box.shell(f"cat {aside}/memories/MEMORY.md") == "the second\n"
    assert box.work.pid == other
    box.well()


def test_an_archive_that_is_damaged_touches_nothing(box):
    archive = box.backup()
    box.remember("after the damage")
    pid = box.agent.pid
    box.shell(f"truncate --size -20 {archive}")
    assert "damaged" in box.ops(f"restore --force {archive}", status=2)
    assert "damaged" in box.ops(f"verify {archive}", status=1)
    assert box.memory() == "after the damage\n"
    assert box.agent.pid == pid
    box.well()


# The actions of a restore, in order, before which it is killed.
POINTS = {
    "stops the gateway": ("subprocess.Popen", "'stop', 'hermes-gateway@default.service'"),
    "starts the gateway": ("subprocess.Popen", "'start', 'hermes-gateway@default.service'"),
    "forgets the journal": ("os.remove", "restore.json"),
}


# The same for actions of its workers, which run as the agent's user.
POINTS_OF_WORKERS = {
    "puts the home together": ("os.mkdir", ".hermes-ops-restore-"),
    "sets aside": ("os.rename", "('memories', 'memories'"),
    "puts in place": ("os.rename", "('only-in-the-backup', 'only-in-the-backup'"),
}


@pytest.mark.parametrize("point", POINTS_OF_WORKERS)
def test_a_worker_that_is_killed(box, killer, point):
    box.remember("in the backup")
    box.shell(f"runuser -u hermes-default -- touch {HOME}/only-in-the-backup")
    archive = box.backup()
    box.shell(f"rm {HOME}/only-in-the-backup")
    box.remember("now")
    killer.order(*POINTS_OF_WORKERS[point])
    assert "was killed by SIGKILL" in box.ops(f"restore --force {archive}", status=2)
    killer.obeyed()
    assert box.memory() == "now\n"
    assert box.shell(f"ls {HOME}/only-in-the-backup || true") == ""
    box.well()


@pytest.mark.parametrize("point", POINTS)
def test_killed(box, killer, point):
    box.remember("in the backup")
    box.shell(f"runuser -u hermes-default -- touch {HOME}/only-in-the-backup")
    archive = box.backup()
    box.shell(f"rm {HOME}/only-in-the-backup")
    box.remember("now")
    killer.order(*POINTS[point])
    box.ops(f"restore --force {archive}", status=128 + 9)
    killer.obeyed()
    # A home that may be a mixture is not backed up.
    assert "was interrupted" in box.ops("backup --agent default --output /root/backups", status=2)
    box.ops("restore --recover")
    # A restore that was found healthy is finished, not undone.
    counts = point == "forgets the journal"
    assert box.memory() == ("in the backup\n" if counts else "now\n")
    assert box.shell(f"ls {HOME}/only-in-the-backup || true") == (f"{HOME}/only-in-the-backup\n" if counts else "")
    box.well()


def test_power_cut_in_the_middle_of_it(box, killer, reboot):
    box.remember("in the backup")
    archive = box.backup()
    box.remember("before the power cut")
    killer.order(*POINTS["starts the gateway"])
    box.ops(f"restore --force {archive}", status=128 + 9)
    killer.obeyed()
    reboot()
    box.wait_until(box.agent.is_healthy, "the gateway, started after what was undone")
    assert box.memory() == "before the power cut\n"
    box.well()


def test_two_at_once(box):
    archive = box.backup()
    said = box.shell(
        f"hermes-ops restore --force {archive} >/root/first 2>&1 & first=$!; "
        f"until [ -e {OPS}/agents/default/restore.json ]; do sleep 0.02; done; "
        f"hermes-ops restore --force {archive} 2>&1 && exit 1; wait $first"
    )
    assert "is held by another process" in said
    box.well()


def test_full_disk(box):
    large, small = f"{WORK}/workspace/large", "backup --agent work --output /mnt/small"
    backup = "backup --agent work --output /root/backups --json"
    (fits,) = json.loads(box.ops(backup))
    box.shell(
        f"mkdir -p /mnt/small && mount -t tmpfs -o size=70m,mode=0700 tmpfs /mnt/small && cp -a {WORK} /root/work"
    )
    box.shell(f"head -c 20M /dev/urandom >{large} && chown hermes-work:hermes-work {large}")
    try:
        (too_large,) = json.loads(box.ops(backup))
        assert "no room" in box.ops(small, status=2)
        assert box.shell("ls -A /mnt/small") == ""
        # A home on a disk of its own, which has no room for both the old home and the restored one.
        box.shell(
            "systemctl stop hermes-gateway@work; "
            f'mount -t tmpfs -o "size=116m,mode=0700,uid=$(id -u hermes-work),gid=$(id -g hermes-work)" tmpfs {WORK}; '
            f"cp -a /root/work/. {WORK}/; head -c 25M /dev/urandom >{WORK}/workspace/other; "
            "systemctl start hermes-gateway@work"
        )
        box.wait_until(box.work.is_healthy, "work on its small disk")
        assert "no room" in box.ops(f"restore --force {too_large['path']}", status=2)
        assert box.shell(f"ls {WORK}/workspace").split() == ["other"]
        assert box.work.reply("well?") == "The model heard: well?"
        # The replaced home is set aside on the same disk.
        said = box.ops(f"restore --force {fits['path']}")
        assert f"is in {WORK}/.hermes-ops-set-aside-" in said
        assert box.shell(f"ls {WORK}/workspace") == ""
    finally:
        box.shell(
            f"systemctl stop hermes-gateway@work; umount {WORK}; umount /mnt/small; "
            f"rm -rf /mnt/small /root/work {large}; systemctl start hermes-gateway@work",
            check=False,
        )
    box.well()


def test_interrupted_on_a_full_disk_it_goes_back_by_what_was_reserved(box, killer):
    # The watch over the disks would keep the gateway from starting there.
    box.shell("systemctl stop hermes-disks")
    (made,) = json.loads(box.ops("backup --agent work --output /root/backups --json"))
    box.shell(
        f"cp -a {WORK} /root/work; systemctl stop hermes-gateway@work; "
        f'mount -t tmpfs -o "size=160m,mode=0700,uid=$(id -u hermes-work),gid=$(id -g hermes-work)" tmpfs {WORK}; '
        f"cp -a /root/work/. {WORK}/; systemctl start hermes-gateway@work"
    )
    try:
        box.wait_until(box.work.is_healthy, "work on its small disk")
        killer.order("subprocess.Popen", "'start', 'hermes-gateway@work.service'")
        box.ops(f"restore --force {made['path']}", status=128 + 9)
        killer.obeyed()
        box.shell(f"dd if=/dev/zero of={WORK}/logs/filler bs=4k 2>/dev/null || true")
        box.ops("restore --recover")
        box.wait_until(box.work.is_healthy, "work, after its restore was undone")
        assert box.work.reply("well?") == "The model heard: well?"
    finally:
        box.shell(
            f"systemctl stop hermes-gateway@work; umount {WORK}; rm -rf /root/work; "
            "systemctl start hermes-disks hermes-gateway@work",
            check=False,
        )
    box.well()


# Off the host


def test_restic_restores_what_the_host_has_lost(box):
    box.remember("off the host")
    box.ops("backup")
    box.shell(f"rm -rf {ARCHIVES}")
    box.remember("lost")
    listed = box.ops("backups --agent default")
    assert re.search(r"default +\S+ +restic:[0-9a-f]{8}$", listed, re.M)
    box.ops("restore restic:latest --force")
    assert box.memory() == "off the host\n"
    box.well()


def test_restic_over_sftp(box):
    """Another back end of restic, run from the timer's own unit."""
    box.shell(
        "mkdir -p -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519; "
        "cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys; ssh-keyscan localhost >/root/.ssh/known_hosts"
    )
    box.remember("over sftp")
    with settings(box, restic_repository="sftp:root@localhost:/srv/backups"):
        box.shell(f"systemctl start hermes-backup.service; rm -rf {ARCHIVES}")
        assert len(box.shell("ls /srv/backups/snapshots").split()) == 2
        box.remember("lost")
        box.ops("restore restic:latest --agent default --force")
    assert box.memory() == "over sftp\n"
    box.well()


def test_restic_with_a_wrong_password_or_without_its_repository(box):
    box.ops("backup")
    before = box.shell(f"ls {REPOSITORY}/snapshots | wc -l")
    with settings(box, restic_password="wrong"):
        said = box.ops("backup", status=2)
        assert "the password does not open the repository" in said
        status = json.loads(box.read(f"{OPS}/status/backup.json"))
        assert status["status"] == "failed"
        assert "password" in status["message"]
    box.shell(f"mv {REPOSITORY} {REPOSITORY}.away")
    try:
        # The repository is not created again: an empty one would pass for a backup.
        assert "is gone" in box.ops("backup", status=2)
        assert box.shell(f"ls -A {REPOSITORY} 2>/dev/null || true") == ""
    finally:
        box.shell(f"rm -rf {REPOSITORY} && mv {REPOSITORY}.away {REPOSITORY}")
    box.ops("backup")
    assert int(box.shell(f"ls {REPOSITORY}/snapshots | wc -l")) >= int(before)
    assert json.loads(box.read(f"{OPS}/status/backup.json"))["status"] == "success"


def test_the_password_of_restic_changes_with_its_declaration(box, controller):
    """In the repository as well: an older snapshot is restored with the new one."""
    new = {"backup_restic_password": "another-password-of-the-repository"}
    box.remember("before the change")
    box.ops("backup")
    try:
        assert "another-password" not in controller.converge(new).output
        assert controller.converge(new).changed == 0
        box.remember("lost")
        box.ops("restore restic:latest --agent default --force")
        assert box.memory() == "before the change\n"
        box.ops("backup")
    finally:
        controller.converge()
        box.shell(f"systemctl stop {TIMERS}")
    box.ops("backup")
    # The first password's key is the only one.
    assert len(box.shell(f"ls {REPOSITORY}/keys").split()) == 1


def test_a_relative_repository_is_refused(box, controller):
    run = controller.run({"backup_restic_repository": "backups"})
    assert run.rc != 0
    assert "backup_restic_repository: is a relative path" in run.text
    assert json.loads(box.read(SETTINGS))["restic_repository"] == REPOSITORY


def test_restic_killed_leaves_no_half_snapshot(box, killer):
    box.ops("backup")
    before = box.ops("backups")
    killer.order("os.rename", ".tar.gz.partial")
    box.ops("backup --agent default --output /root/backups", status=128 + 9)
    killer.obeyed()
    assert box.shell("ls -A /root/backups").endswith(".partial\n")
    # Killed after the first agent's archive was piped to restic, before the snapshot is tagged.
    killer.order("subprocess.Popen", "'tag'")
    box.ops("backup", status=128 + 9)
    killer.obeyed()
    assert len([line for line in box.ops("backups").splitlines() if "restic:" in line]) == len(
        [line for line in before.splitlines() if "restic:" in line]
    )
    box.ops("backup")
    assert box.ops("backups --json").count('"id"') >= 2


# The rehearsal


def test_the_rehearsal_proves_a_good_backup_and_tells_of_a_broken_one(box, model):
    box.remember("rehearsed")
    box.ops("backup")
    asked = len(model.requests())
    box.shell("systemctl start hermes-rehearsal.service")
    status = json.loads(box.read(f"{OPS}/status/rehearsal.json"))
    assert status["status"] == "success", status
    assert "answers on the snapshot" in status["message"]
    assert len(model.requests()) > asked
    box.shell(f"mv {REPOSITORY}/data {REPOSITORY}/data.away && mkdir {REPOSITORY}/data")
    try:
        # Without restic's cache, which would hide the damage.
        box.shell("rm -rf /var/cache/hermes-ops; systemctl start hermes-rehearsal.service && exit 1; true")
    finally:
        box.shell(f"rm -rf {REPOSITORY}/data && mv {REPOSITORY}/data.away {REPOSITORY}/data")
    status = json.loads(box.read(f"{OPS}/status/rehearsal.json"))
    assert status["status"] == "failed"
    # The message has restic's own words.
    assert "restic: " in status["message"]
    # A check of the host reports it, too.
    assert "the last rehearsal" in box.ops("check", status=1)
    assert box.shell("ls -A /var/lib/hermes/agents/* | grep rehearsal || true") == ""
    with settings(box, restic_repository=""):
        # This time with the local archive.
        box.ops("rehearsal")
    box.well()
