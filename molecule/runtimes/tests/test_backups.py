# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A user's home is backed up, rehearsed and restored, here and on another host; a look at the host sees who runs."""

from __future__ import annotations

import copy
import json
import secrets

import pytest
from control import Controller
from users import User

testinfra_hosts = ["ansible://hermes"]

MEMORY = "/opt/data/.hermes/memories/MEMORY.md"


@pytest.fixture
def other_host(controller: Controller) -> Controller:
    """The other host with runtimes, which has another Debian."""
    other = copy.copy(controller)
    (other.box,) = {"users-bookworm", "users-trixie"} - {controller.box}
    return other


def remember(user: User, text: str) -> None:
    user.python("import sys; open(sys.argv[1], 'w').write(sys.argv[2])", MEMORY, text)


def memory(user: User) -> str:
    return user.inside("cat", MEMORY)


def backup(user: User) -> str:
    """The path of a new archive."""
    (made,) = json.loads(user.command("backup", "--json"))
    assert made["agent"] == f"user-{user.id}"
    return made["path"]


def test_a_user_s_home_is_restored_from_a_backup_made_while_it_slept(user, asleep):
    hank = user("hank@example.org")
    hank.command("ensure")
    token = secrets.token_hex(4)
    remember(hank, token)
    session = hank.call("/api/sessions", {"title": token}).json["session"]["id"]
    asleep(hank)
    archive = backup(hank)
    assert hank.asleep
    assert "can be read" in hank.shell(f"hermes-ops rehearsal --agent user-{hank.id} 2>&1")
    remember(hank, "something else")

    hank.command("restore", "--force")
    assert memory(hank) == token
    assert hank.call(f"/api/sessions/{session}").status == 200
    assert hank.reply("hello") == "The model heard: hello"
    # What was there is kept.
    aside = f"cat /var/lib/hermes/ops/set-aside/user-{hank.id}-*/memories/MEMORY.md"
    assert hank.shell(aside) == "something else"
    hank.command("remove")
    assert hank.shell(f"ls {archive}").strip() == archive
    hank.command("remove", "--purge")
    left = f"ls -d /var/lib/hermes/ops/backups/user-{hank.id}-* /var/lib/hermes/ops/set-aside/user-{hank.id}-*"
    assert hank.shell(f"{left} 2>/dev/null || true") == ""


def test_a_user_is_restored_on_another_host(user, controller, other_host):
    name = f"from-{controller.box}@example.org"
    here, there = user(name), User(other_host, name)
    made = json.loads(here.command("ensure", "--json"))
    token = secrets.token_hex(4)
    remember(here, token)
    archive = backup(here)
    there.shell("hermes-ops runtime ensure before-them@example.org")
    uid = json.loads(there.command("ensure", "--json"))["uid"]
    there.shell(f"mkdir -p -m 700 {archive.rpartition('/')[0]}")
    other_host.write(archive, controller.read(archive))
    there.shell(f"hermes-ops runtime restore --force {name} {archive}")
    assert memory(there) == token
    assert there.reply("hello") == "The model heard: hello"
    owners = set(there.shell(f"find {there.data} -printf '%U:%G\\n' | sort -u").split())
    assert owners == {f"{uid}:{uid}"}, made
    # Nobody gets what another user knows.
    said = there.shell(f"hermes-ops runtime restore --force before-them@example.org {archive} 2>&1 || echo status $?")
    assert "and not of this user" in said
    for each in (here, there):
        each.command("remove", "--purge")
    there.shell("hermes-ops runtime remove --purge before-them@example.org")


def test_a_look_at_the_host_finds_who_runs_and_is_ill(ada, bob, asleep):
    def seen():
        return json.loads(ada.shell("hermes-ops check --json || true"))

    asleep(bob)
    assert ada.answers()
    healthy = seen()
    assert healthy["figures"]["users"]["running"] == 1
    assert [each for each in healthy["findings"] if each["agent"]] == []
    gateway = f"$(pgrep --parent $(podman inspect --format '{{{{.State.Pid}}}}' {ada.container}))"
    ada.shell(f"kill -STOP {gateway}")
    try:
        ill = [each for each in seen()["findings"] if each["agent"]]
    finally:
        ada.shell(f"kill -CONT {gateway}")
    assert {each["agent"] for each in ill} == {f"user-{ada.id}"}
    assert bob.asleep
    assert [each for each in seen()["findings"] if each["agent"]] == []
