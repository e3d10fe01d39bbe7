# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository off the host: where it may be, and how its password is changed without losing it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import offsite
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup.offsite import Repository
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup.settings import Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules import timer
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules.call import Call
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import Difference, Plan

OLD, NEW, OTHER = "the-old-password", "the-new-password", "another-password"

# --- where the repository is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "repository",
    [
        "/srv/backups",
        "local:/srv/backups",
        "s3:https://s3.eu-west-1.amazonaws.com/bucket/hermes",
        "s3:bucket.example/hermes",
        "sftp:user@host:backups",
        "sftp://user@host:2222//srv/backups",
        "rest:https://user:secret@host:8000/",
        "rclone:remote:backups",
        "b2:bucket:hermes",
        "azure:container:/",
        "gs:bucket:/",
        "swift:container:/hermes",
    ],
)
def test_a_repository_that_is_the_same_place_from_everywhere_is_accepted(repository):
    assert Settings(restic_repository=repository, restic_password=OLD).restic_repository == repository


@pytest.mark.parametrize(
    "repository", ["backups", "./backups", "../backups", "~/backups", "local:backups", "srv:/backups"]
)
def test_a_relative_repository_is_refused_without_showing_it(repository):
    with pytest.raises(OpsError, match="backup_restic_repository: is a relative path") as refused:
        Settings(restic_repository=repository, restic_password=OLD)
    assert repository not in refused.value.what
    assert "write an absolute path, or begin with a back end of restic: azure:, b2:" in refused.value.fix


# --- its password ---------------------------------------------------------------------------------------------------

# Plays restic's keys: a file for each key, with its password. It can be ordered to be killed before a step.
RESTIC = """\
#!{python} -I
import json, os, signal, sys
top = os.path.dirname(os.path.abspath(__file__))
words = sys.argv[2:]
read = lambda path: open(path).read().strip()
keys = top + "/keys"
password = read(os.environ["RESTIC_PASSWORD_FILE"])
mine = [name for name in sorted(os.listdir(keys)) if read(keys + "/" + name) == password]
with open(top + "/calls", "a") as stream:
    json.dump({{"words": words, "environment": dict(os.environ)}}, stream)
    stream.write("\\n")
def step(name):
    if os.path.exists(top + "/killed") and read(top + "/killed") == name:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
if not os.path.exists(top + "/config"):
    sys.exit("Fatal: unable to open config file\\nIs there a repository at the following location?\\n/somewhere")
if os.path.exists(top + "/replacing"):
    os.unlink(top + "/replacing")
    sys.exit("open /somewhere/keys/1: no such file or directory")
if not mine:
    sys.exit("Fatal: wrong password or no key found")
holder = read(top + "/holder") if os.path.exists(top + "/holder") else None
if words == ["unlock"] and holder == "dead":
    os.unlink(top + "/holder")
if words[0] == "key":
    if holder:
        with open(top + "/holder", "w") as stream:
            stream.write("dead")
    left = int(read(top + "/locked")) if os.path.exists(top + "/locked") else 0
    if left or holder:
        with open(top + "/locked", "w") as stream:
            stream.write(str(max(left - 1, 0)))
        sys.exit("unable to create lock in backend: repository is already locked by PID 7 on other by root")
if words == ["key", "list", "--json"]:
    print(json.dumps([{{"id": name, "current": name == mine[0]}} for name in sorted(os.listdir(keys))]))
if words[:2] == ["key", "remove"]:
    assert words[2] != mine[0]
    os.unlink(keys + "/" + words[2])
if words[:2] == ["key", "passwd"]:
    step("add")
    with open(keys + "/key" + str(os.getpid()), "w") as stream:
        stream.write(read(words[words.index("--new-password-file") + 1]))
    step("remove")
    os.unlink(keys + "/" + mine[0])
    step("end")
"""


class Keys:
    """A repository that a stand-in for restic serves."""

    def __init__(self, directory, host):
        self.directory, self.host = directory, host
        (directory / "keys").mkdir(parents=True)
        (directory / "restic").write_text(RESTIC.format(python=sys.executable))
        (directory / "restic").chmod(0o755)

    def make(self, *passwords):
        (self.directory / "config").touch()
        for number, password in enumerate(passwords):
            (self.directory / f"keys/{number}").write_text(password)

    def open(self):
        return sorted(path.read_text() for path in (self.directory / "keys").iterdir())

    def calls(self):
        return [json.loads(line) for line in (self.directory / "calls").read_text().splitlines()]


@pytest.fixture
def host(tmp_path):
    (tmp_path / "ops").mkdir()
    names = {name: str(tmp_path) for name in ("data_dir", "root", "managed_root")}
    return Installation({**names, "scope": "system", "ops_dir": str(tmp_path / "ops")})


@pytest.fixture
def keys(tmp_path, host, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}/restic:{os.environ['PATH']}")
    monkeypatch.setattr(offsite, "_PAUSE", 0.01)
    return Keys(tmp_path / "restic", host)


WANTED = Settings(restic_repository="/somewhere", restic_password=NEW)


def change(host, old=OLD, wanted=WANTED):
    Repository(host.ops_dir, wanted).change_password(old)


def test_the_new_password_replaces_the_old_one_and_no_other(host, keys):
    keys.make(OTHER, OLD)
    change(host)
    assert keys.open() == sorted([NEW, OTHER])
    said = json.dumps(keys.calls())
    assert OLD not in said
    assert NEW not in said
    change(host)
    assert keys.open() == sorted([NEW, OTHER])


@pytest.mark.parametrize("where", ["add", "remove", "end"])
def test_killed_anywhere_one_of_both_opens_it_and_the_next_run_finishes(host, keys, tmp_path, where):
    keys.make(OLD)
    (tmp_path / "restic/killed").write_text(where)
    pid = os.fork()
    if not pid:
        change(host)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert set(keys.open()) == {"add": {OLD}, "remove": {OLD, NEW}, "end": {NEW}}[where]
    (tmp_path / "restic/killed").unlink()
    change(host)
    assert set(keys.open()) == {NEW}
    # Finished, so a later change is a new one.
    assert not json.loads((tmp_path / "ops/restic.json").read_text())["password_change"]


def test_after_two_that_were_killed_no_key_of_the_old_password_is_left(host, keys, tmp_path):
    """Killed before the old key is removed, one ends with two keys of the new password; the next takes both away."""
    keys.make(OLD, OLD)
    (tmp_path / "restic/killed").write_text("remove")
    pid = os.fork()
    if not pid:
        change(host)
        os._exit(0)
    os.waitpid(pid, 0)
    assert keys.open() == sorted([OLD, OLD, NEW])
    (tmp_path / "restic/killed").unlink()
    change(host)
    assert keys.open() == [NEW]


def test_a_restic_that_survives_a_kill_is_waited_for(host, keys, tmp_path):
    """Only ours was killed: that one goes on, and holds the lock while it removes a key."""
    test_after_two_that_were_killed_no_key_of_the_old_password_is_left(host, keys, tmp_path)
    (tmp_path / "restic/killed").write_text("remove")
    pid = os.fork()
    if not pid:
        change(host, NEW, replace(WANTED, restic_password=OLD))
        os._exit(0)
    os.waitpid(pid, 0)
    (tmp_path / "restic/killed").unlink()
    (tmp_path / "restic/locked").write_text("3")
    change(host, NEW, replace(WANTED, restic_password=OLD))
    assert keys.open() == [OLD]


def test_a_key_that_somebody_has_added_is_used_and_the_old_one_stays(host, keys):
    keys.make(OLD, NEW)
    change(host)
    assert keys.open() == sorted([NEW, OLD])


def test_a_host_that_shares_the_repository_finds_it_changed(host, keys):
    keys.make(NEW)
    change(host)
    assert keys.open() == [NEW]


def test_before_the_first_backup_there_is_nothing_to_change(host, keys):
    change(host)
    assert keys.open() == []


def test_neither_password_is_refused_and_nothing_changed(host, keys):
    keys.make(OTHER)
    with pytest.raises(OpsError, match="neither the declared password nor the one before opens the repository"):
        change(host)
    assert keys.open() == [OTHER]


def test_a_lock_of_somebody_else_is_waited_for_but_not_for_ever(host, keys, tmp_path, monkeypatch):
    keys.make(OLD)
    (tmp_path / "restic/locked").write_text("2")
    change(host)
    assert keys.open() == [NEW]
    monkeypatch.setattr(offsite, "_LOCKED", 0.1)
    (tmp_path / "restic/locked").write_text("99")
    with pytest.raises(OpsError, match="the repository is in use") as error:
        change(host, NEW, replace(WANTED, restic_password=OLD))
    assert "try again" in error.value.fix
    assert keys.open() == [NEW]


def test_the_lock_of_a_holder_that_is_killed_meanwhile_is_removed(host, keys, tmp_path, monkeypatch):
    monkeypatch.setattr(offsite, "_LOCKED", 5.0)
    keys.make(OLD)
    (tmp_path / "restic/holder").write_text("alive")
    change(host)
    assert keys.open() == [NEW]


def test_a_key_that_another_host_replaces_while_this_one_reads_it(host, keys, tmp_path):
    keys.make(OLD)
    (tmp_path / "restic/replacing").touch()
    change(host)
    assert keys.open() == [NEW]


@pytest.fixture
def converge(tmp_path, host, monkeypatch):
    """A function that runs the module timer for the job backup, with its settings in a file of the test."""
    path = tmp_path / "backup.json"
    monkeypatch.setattr(timer.settings, "path_of", lambda job: str(path))
    monkeypatch.setattr(offsite.Installation, "load", lambda: host)

    def planned(job, schedule, values, data_dir):
        job.check(values)
        plan = Plan()
        plan.add_file(str(path), json.dumps(values), mode=0o600, shown=False)
        return plan

    monkeypatch.setattr(timer.jobs, "plan_present", planned)

    def run(check=False, **values):
        given = {"restic_repository": "/somewhere", "restic_password": OLD, **values}
        params = {"name": "backup", "state": "present", "every": None, "calendar": "daily", "randomized_delay": 0,
                  "timeout": 9, "settings": given, "data_dir": "/var/lib/hermes"}  # fmt: skip
        return timer.work(Call(params, check_mode=check))

    return run


def test_converging_changes_the_password_before_the_settings_that_name_the_old_one(converge, keys, tmp_path):
    keys.make(OLD)
    assert converge()["changed"]
    assert not converge()["changed"]
    foreseen = converge(check=True, restic_password=NEW)
    assert (foreseen["changed"], keys.open()) == (True, [OLD])
    done = converge(restic_password=NEW)
    assert "password of the restic repository: (secret)" in done["diff"]["after"]
    assert OLD not in str(done)
    assert NEW not in str(done)
    assert keys.open() == [NEW]
    # With a password that opens nothing, both stay as they are.
    (tmp_path / "restic/keys").rename(tmp_path / "restic/away")
    (tmp_path / "restic/keys").mkdir()
    with pytest.raises(OpsError, match="neither"):
        converge(restic_password=OTHER)
    assert json.loads((tmp_path / "backup.json").read_text())["restic_password"] == NEW


def test_damaged_settings_are_replaced(converge, keys, tmp_path):
    (tmp_path / "backup.json").write_text("{")
    assert converge()["changed"]
    assert json.loads((tmp_path / "backup.json").read_text())["restic_password"] == OLD


def test_another_repository_is_not_touched_and_gets_the_declared_password(keys):
    keys.make(OLD)
    before = {"restic_repository": "/somewhere", "restic_password": OLD}
    for wanted in (replace(WANTED, restic_repository="/elsewhere"), Settings(), replace(WANTED, restic_password=OLD)):
        assert not offsite.plan_password(before, wanted).changed
    for nothing in (None, [], {}, {"restic_repository": "/somewhere"}, {**before, "restic_password": 7}):
        assert not offsite.plan_password(nothing, WANTED).changed
    plan = offsite.plan_password(before, WANTED)
    assert plan.differences == [Difference("password of the restic repository", "(secret)", "(secret)")]


# --- the real one ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("restic"), reason="SKIPPED, NOT PROVED: the real restic is not installed")
def test_the_real_restic_killed_at_any_moment_is_always_open_to_one_of_both(host, tmp_path, monkeypatch):
    monkeypatch.setattr(offsite, "CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(offsite, "_PAUSE", 0.1)
    old = replace(WANTED, restic_repository=str(tmp_path / "repository"), restic_password=OLD)
    new = replace(old, restic_password=NEW)
    Repository(host.ops_dir, old).prepare()

    def opens():
        # In this order: a restic that survives makes the other key before it removes this one.
        return [each.restic_password for each in (new, old) if Repository(host.ops_dir, each)._opens()]

    began = time.monotonic()
    change(host, OLD, new)
    took = time.monotonic() - began
    assert opens() == [NEW]
    for part, survivors in ((1, False), (2, True), (3, False)):
        pid = os.fork()
        if not pid:
            change(host, new.restic_password, old)
            os._exit(0)
        time.sleep(took * part / 4)
        with open(f"/proc/{pid}/task/{pid}/children") as stream:
            children = list(map(int, stream.read().split()))
        # In a power cut restic dies as well; if only the module is killed, restic goes on.
        for each in (pid, *(() if survivors else children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert opens()
        change(host, new.restic_password, old)
        assert opens() == [old.restic_password]
        old, new = new, old
    # Backups go on.
    Repository(host.ops_dir, new).prepare()
