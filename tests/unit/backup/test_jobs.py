# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nightly backup, its copies off the host, and the rehearsal: a bad home affects only its own agent."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import (
    archives,
    extracting,
    making,
    offsite,
    order,
    rehearsal,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup.offsite import Repository
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup.settings import Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import backup
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import rehearsal as command_rehearsal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import restore as command_restore
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.canary import CanaryFailed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import process
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.worker import WorkerDied

PASSWORD = "the-password-of-the-repository"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root acts for an agent")

# Plays restic: logs its arguments and environment, one JSON for each line; snapshots are files.
RESTIC = """\
#!{python} -I
import json, os, sys, time
top = os.path.dirname(os.path.abspath(__file__))
words = sys.argv[2:]
with open(os.environ["RESTIC_PASSWORD_FILE"]) as stream:
    password = stream.read()
with open(top + "/calls", "a") as stream:
    json.dump({{"words": words, "environment": dict(os.environ), "password": password}}, stream)
    stream.write("\\n")
if words[0] == "backup":
    data = sys.stdin.buffer.read()
    name = words[words.index("--stdin-filename") + 1]
    with open(top + "/" + name, "wb") as stream:
        stream.write(data)
    tags = words[words.index("--tag") + 1].split(",")
    with open(top + "/snapshots.json", "w") as stream:
        made = {{"id": "abcdef0123", "tags": tags, "hostname": words[words.index("--host") + 1]}}
        left = json.load(open(top + "/left.json")) if os.path.exists(top + "/left.json") else []
        json.dump([*left, {{**made, "time": "2026-01-01T00:00:00Z"}}], stream)
# A lock that is empty is that of a dead process.
if words == ["unlock"] and os.path.exists(top + "/locked") and not os.path.getsize(top + "/locked"):
    os.unlink(top + "/locked")
if words[0] == "snapshots" and os.path.exists(top + "/locked"):
    sys.exit("unable to create lock in backend: repository is already locked exclusively by PID 7 on here by root")
if words[0] == "snapshots":
    print(open(top + "/snapshots.json").read())
"""


@pytest.fixture
def host(tmp_path):
    names = {name: str(tmp_path) for name in ("data_dir", "root", "managed_root")}
    return Installation({**names, "scope": "system", "ops_dir": str(tmp_path / "ops")})


@pytest.fixture
def agents(host, tmp_path):
    made = []
    for name in ("first", "second"):
        home = tmp_path / name
        (home / "memories").mkdir(parents=True)
        (home / "memories/MEMORY.md").write_text(name)
        made.append(described.agent(name, home=str(home), unit=f"{name}.service", drain=0, directory=str(tmp_path)))
        host.records(name).write_agent(made[-1])
    return made


@pytest.fixture
def restic(tmp_path, monkeypatch):
    directory = tmp_path / "restic"
    directory.mkdir()
    (directory / "restic").write_text(RESTIC.format(python=sys.executable))
    (directory / "restic").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def calls():
        # A restic that was killed at once has logged nothing.
        (directory / "calls").touch()
        return [json.loads(line) for line in (directory / "calls").read_text().splitlines()]

    return calls


def save(repository, host, agent):
    return repository.save(agent.name, lambda out: making.stream(host, agent, out, env="include"))


SETTINGS = Settings(restic_repository="/somewhere", restic_password=PASSWORD)


def test_the_password_is_in_no_environment(host, agents, restic, tmp_path):
    repository = Repository(host.ops_dir, SETTINGS)
    repository.prepare()
    manifest = save(repository, host, agents[0])
    assert manifest.agent == "first"
    assert {call["password"] for call in restic()} == {PASSWORD}
    assert PASSWORD not in json.dumps([(call["words"], call["environment"]) for call in restic()])
    assert extracting.verify(str(tmp_path / "restic/first.tar")).members == manifest.members


def test_the_rest_of_a_killed_run_with_a_fast_clock_is_not_taken_for_the_backup(host, agents, restic, tmp_path):
    rest = {"id": "half", "tags": ["hermes", "agent:first", "hermes-unfinished"], "hostname": socket.gethostname()}
    (tmp_path / "restic/left.json").write_text(json.dumps([{**rest, "time": "2030-01-01T00:00:00Z"}]))
    save(Repository(host.ops_dir, SETTINGS), host, agents[0])
    changes = {call["words"][0]: call["words"] for call in restic() if call["words"][0] in ("tag", "forget")}
    assert changes["tag"][-1] == "abcdef0123"
    assert changes["forget"] == ["forget", "half"]


def test_a_lock_that_a_killed_prune_left_keeps_nobody_from_a_restore(host, restic, tmp_path):
    (tmp_path / "restic/snapshots.json").write_text("[]")
    (tmp_path / "restic/locked").touch()
    assert Repository(host.ops_dir, SETTINGS).snapshots() == []
    assert [call["words"][0] for call in restic()] == ["snapshots", "unlock", "snapshots"]


def test_a_repository_that_somebody_uses_is_named_as_that(host, restic, tmp_path):
    (tmp_path / "restic/locked").write_text("by somebody who lives")
    with pytest.raises(OpsError, match="the repository is in use") as refused:
        Repository(host.ops_dir, SETTINGS).snapshots()
    assert "half an hour" in refused.value.fix


def test_a_snapshot_that_was_refused_on_its_way_stays_unfinished(host, agents, restic, monkeypatch):
    def refuse(self):
        raise OpsError("is refused")

    monkeypatch.setattr(extracting.Checking, "result", refuse)
    with pytest.raises(OpsError, match="is refused"):
        save(Repository(host.ops_dir, SETTINGS), host, agents[0])
    assert not [call for call in restic() if "tag" in call["words"]]


@pytest.mark.skipif(not shutil.which("restic"), reason="SKIPPED, NOT PROVED: the real restic is not installed")
def test_an_agent_that_ends_its_own_keeps_no_other_from_a_complete_snapshot(host, agents, tmp_path, monkeypatch):
    """It kills the worker that reads its home, whenever it likes; restic leaves a lock then."""
    monkeypatch.setattr(offsite, "CACHE", str(tmp_path / "cache"))
    repository = Repository(host.ops_dir, replace(SETTINGS, restic_repository=str(tmp_path / "repository")))
    repository.prepare()
    stream = making.stream

    def end(given, agent, out, **options):
        if agent.name == "first":
            while not os.listdir(tmp_path / "repository/locks"):
                time.sleep(0.01)
            raise WorkerDied("was killed by SIGKILL")
        return stream(given, agent, out, **options)

    monkeypatch.setattr(making, "stream", end)
    with pytest.raises(WorkerDied):
        save(repository, host, agents[0])
    save(repository, host, agents[1])
    assert [each.agent for each in repository.snapshots()] == ["second"]


@pytest.fixture
def job(host, monkeypatch):
    monkeypatch.setattr(backup, "installation", lambda: host)
    monkeypatch.setattr(backup, "declared", lambda: SETTINGS)
    monkeypatch.setattr(backup.heartbeat, "report", lambda *_arguments: None)
    before = signal.getsignal(signal.SIGTERM)
    ended = []
    monkeypatch.setattr(backup.heartbeat, "conclude", lambda _host, _job, failed, said, **_more: ended.append(said))

    def run(**options):
        given = {"agent": None, "output": None, "env": None, "check": False, "json": False, **options}
        backup.work(argparse.Namespace(**given))
        return ended

    run.ended = ended
    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_home_that_cannot_be_read_keeps_no_other_agent_from_its_backup(host, agents, restic, job, tmp_path):
    (tmp_path / "first").rename(tmp_path / "gone")
    with pytest.raises(OpsError, match=r"first: .*cannot be read"):
        job()
    assert [each.agent for each in archives.listed(archives.directory_of(host))] == ["second"]
    saved = [call["words"] for call in restic() if call["words"][0] == "backup"]
    assert [words[words.index("--stdin-filename") + 1] for words in saved][-1] == "second.tar"
    assert "first: " in job.ended[0]


def test_a_defect_that_one_agent_found_keeps_no_other_from_its_backup(host, agents, restic, job, monkeypatch):
    create = backup.making.create

    def defective(host, agent, *arguments, **options):
        if agent.name == "first":
            raise TypeError("no mapping")
        return create(host, agent, *arguments, **options)

    monkeypatch.setattr(backup.making, "create", defective)
    with pytest.raises(OpsError, match=r"first: failed with TypeError \(test_jobs\.py:"):
        job()
    assert [each.agent for each in archives.listed(archives.directory_of(host))] == ["second"]
    assert "first: " in job.ended[0]


def test_the_name_of_a_file_cannot_pass_for_a_line_about_another_agent(host, agents, restic, job, tmp_path):
    (tmp_path / "first/memories/x\nagent second: is lost\x1b[31m").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    said = job()[0]
    assert said.startswith("first: memories/x\\nagent second: is lost\\x1b[31m is damaged")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("where", ["here", "away"])
def test_an_agent_whose_backup_used_up_the_time_comes_last_from_then_on(host, agents, restic, job, monkeypatch, where):
    done = []
    holder, name = {"here": (making, "create"), "away": (Repository, "save")}[where]
    original, record = getattr(holder, name), order._record
    with monkeypatch.context() as patch:
        # As killed in the middle of the first agent's: nothing runs after it.
        patch.setattr(holder, name, lambda *_arguments, **_options: (_ for _ in ()).throw(KeyboardInterrupt))
        began = order._NEVER_ENDED
        patch.setattr(order, "_record", lambda *said: record(*said) if where != said[2] or said[3] == began else None)
        with pytest.raises(KeyboardInterrupt):
            job()

    def noted(*arguments, **options):
        done.append(next((each.name for each in arguments if hasattr(each, "unit")), arguments[1]))
        return original(*arguments, **options)

    monkeypatch.setattr(holder, name, noted)
    # Being quick once does not make up for it.
    for _night in range(3):
        job()
    assert done == 3 * ["second", "first"]


def test_an_agent_whose_backup_here_used_up_the_time_keeps_no_other_from_its_copy_away(
    host, agents, restic, job, monkeypatch
):
    order._record(host, agents[0], "here", order._NEVER_ENDED)
    saved = []
    monkeypatch.setattr(Repository, "save", lambda _self, name, _write: saved.append(name))

    def endless(host, agent, *_arguments, **_options):
        if agent.name == "first":
            raise KeyboardInterrupt

    monkeypatch.setattr(backup.making, "create", endless)
    monkeypatch.setattr(backup, "_said", lambda *_arguments: {"agent": "second", "problems": {}})
    with pytest.raises(KeyboardInterrupt):
        job()
    assert saved == ["second", "first"]


def test_a_backup_that_runs_out_of_time_is_a_failure_that_names_the_agent(host, agents, restic, job, monkeypatch):
    create = backup.making.create

    def endless(host, agent, *arguments, **options):
        if agent.name == "second":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        return create(host, agent, *arguments, **options)

    monkeypatch.setattr(backup.making, "create", endless)
    with pytest.raises(OpsError, match="was ended by SIGTERM at agent second"):
        job()
    assert "at agent second" in job.ended[0]
    assert order._durations(host)["here"]["second"] == order._NEVER_ENDED


def test_an_agent_that_was_slow_here_comes_last_in_both_places(host, agents, restic, job, monkeypatch):
    order._record(host, agents[0], "here", order._NEVER_ENDED)
    order._record(host, agents[1], "away", 5.0)
    backups = [(agent.name, where) for agent, where in order.quickest_first(host, agents, away=True)]
    assert backups == [("second", "here"), ("second", "away"), ("first", "away"), ("first", "here")]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {"databases": []},
        {"databases": ["state.db"], "model": True},
        {"databases": {"state.db": 7}, "model": True},
        {"databases": {}},
    ],
)
def test_a_look_at_a_backup_that_has_no_form_is_a_finding(host, agents, monkeypatch, tmp_path, answer):
    monkeypatch.setattr(rehearsal.gateway, "current_release", lambda root: "0.19.0")
    monkeypatch.setattr(rehearsal.canary, "scratch", lambda *_arguments: contextlib.nullcontext(str(tmp_path)))
    manifest = SimpleNamespace(created=0.0, env_inside=True)
    monkeypatch.setattr(rehearsal, "_extract", lambda *_arguments: ("first.tar.gz", manifest))
    monkeypatch.setattr(rehearsal, "work", lambda *_arguments, **_options: answer)
    with pytest.raises(WorkerDied, match=r"first\.tar\.gz: .*answer has the wrong form"):
        rehearsal.rehearse(host, agents[0], rehearsal.Settings(), SETTINGS, lambda text: None)


def test_the_log_of_an_agent_is_no_part_of_the_message(host, agents, monkeypatch, capsys):
    """It may have thousands of characters, and the failures of the others come after it."""

    def fail(_host, agent, *_more):
        lines = ["x" * 500] * 40
        what = "does not start " + "y" * 5000 if agent.name == "first" else "is damaged"
        raise CanaryFailed(what, where=f"agent {agent.name}", fix="see the log", log=lines)

    monkeypatch.setattr(command_rehearsal.command_backup, "installation", lambda: host)
    monkeypatch.setattr(command_rehearsal.command_backup, "declared", lambda: SETTINGS)
    monkeypatch.setattr(command_rehearsal.rehearsal, "rehearse", fail)
    assert command_rehearsal.work(argparse.Namespace(agent=None)) == 1
    message = host.read_status("rehearsal")["message"]
    assert "second: agent second: is damaged. Fix: see the log" in message
    assert len(message) < 2 * command_rehearsal.CAUSE
    assert "x" * 500 in capsys.readouterr().out


@pytest.mark.parametrize("number", [1, 3, 1000])
def test_the_problems_of_an_agent_leave_room_for_the_others(number):
    problems = {f"memories/{each}{'x' * 200}": "cannot be read" for each in range(number)}
    made = [
        {"agent": "first", "problems": {**problems, "evil\nagent second: well": "y" * 5000}},
        {"agent": "second", "problems": {"state.db": "is damaged"}},
    ]
    said = backup.summed_up(made)
    assert said[-1] == "second: state.db is damaged"
    assert len("; ".join(said)) < 2000
    assert "\n" not in "".join(said)
    assert number < 3 or said[-2] == f"first: {number - 2} more files with a problem"


def test_a_backup_that_fails_removes_no_older_one(host, agents, restic, job, tmp_path):
    directory = tmp_path / "ops/backups"
    directory.mkdir(parents=True)
    for day in range(10):
        (directory / f"first-2026011{day}T000000Z.tar.gz").write_text("x")
    (directory / "first-20260132T000000Z.tar.gz").write_text("no such day")
    (tmp_path / "first").rename(tmp_path / "gone")
    with pytest.raises(OpsError):
        job()
    assert len(archives.listed(str(directory), "first")) == 10


@needs_root
def test_nothing_of_root_s_environment_reaches_what_runs_as_the_agent(monkeypatch):
    monkeypatch.setenv("RESTIC_PASSWORD", PASSWORD)
    said = process.run(["env"], timeout=20, user=Account.named("nobody"), env={"GIVEN": "yes"}).stdout
    assert PASSWORD not in said
    assert "GIVEN=yes" in said.splitlines()
    assert "HOME=" + Account.named("nobody").home in said.splitlines()


NEST = """
import os, sys
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
for _each in range(1300):
    os.mkdir("d")
    os.chdir("d")
"""


@needs_root
def test_scratch_homes_that_were_left_are_removed_whatever_is_in_them(host, ground):
    host.data_dir = str(ground / "data")
    place = Path(rehearsal.canary.scratch_directory(host))
    place.mkdir(parents=True)
    for path in (place.parent, place):
        path.chmod(0o711)
    agent = described.agent(user="nobody")
    for name in ("one", "two"):
        path = place / f"{rehearsal.SCRATCH}.default.{name}"
        path.mkdir()
        shutil.chown(path, "nobody")
        subprocess.run(["/usr/bin/python3", "-c", NEST, f"{path}/{name}"], user="nobody", check=True)
    # Left by a run that was killed before it changed the owner.
    (place / f"{rehearsal.SCRATCH}.default.three").mkdir()
    said = []
    with rehearsal.canary.scratch(host, agent, rehearsal.SCRATCH, said.append) as scratch:
        assert os.listdir(place) == [os.path.basename(scratch)]
    assert os.listdir(place) == []
    assert said == []


@pytest.mark.parametrize("damage", [b"SQLite format 3\0" + b"\xff" * 5000, None])
def test_a_damaged_database_in_a_backup_is_named(tmp_path, damage):
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("CREATE TABLE a (b)")
    if damage:
        (tmp_path / "state.db").write_bytes(damage)
    (tmp_path / "config.yaml").write_text("model: {default: m}\n")
    found = rehearsal.look(str(tmp_path))
    assert (list(found["databases"]), found["model"]) == (["state.db"] if damage else [], True)
    if damage:
        with pytest.raises(OpsError, match=r"state\.db is damaged"):
            rehearsal._refuse_damaged(found["databases"])


@needs_root
def test_no_backup_is_written_where_others_can_replace_it(host, agents, restic, job, ground):
    shared, link = ground / "shared", ground / "link"
    shared.mkdir()
    shared.chmod(0o1777)
    link.symlink_to(shared)
    for output in (shared, link, shared / "below"):
        with pytest.raises(OpsError, match=r"not a directory that only root can change.*--output"):
            job(output=str(output))
    assert list(shared.iterdir()) == []


@pytest.fixture
def opened(host, agents, tmp_path, monkeypatch):
    """The agent whose home ``hermes-ops restore WORDS`` would replace with the archive *path*."""
    monkeypatch.setattr(command_restore.command_backup, "installation", lambda: host)
    parser = argparse.ArgumentParser()
    command_restore.arguments(parser)

    def call(path, *words):
        with command_restore._opened(host, parser.parse_args([str(path), *words])) as (agent, source, _finish):
            assert source == os.path.realpath(path)
            return agent.name

    return call


def test_whose_home_an_archive_replaces_is_said_by_its_name_and_not_by_what_is_in_it(host, agents, opened, tmp_path):
    made = making.create(host, agents[0], str(tmp_path / "made")).path
    assert opened(made) == "first"
    # A hostile agent's archive of its own home claims to be of another agent.
    lying = making.create(host, replace(agents[0], name="second"), str(tmp_path / "made")).path
    renamed = os.path.join(os.path.dirname(made), "first-20260101T000000Z.tar.gz")
    os.rename(lying, renamed)
    unnamed = shutil.copy(renamed, tmp_path / "backup.tar.gz")
    for path in (renamed, unnamed):
        with pytest.raises(OpsError, match=r"says that it is of second, its name does not\. Fix: .*--agent"):
            opened(path)
        assert opened(path, "--agent", "first") == "first"


@needs_root
def test_the_name_of_an_archive_counts_where_only_root_gives_names(host, agents, opened, ground):
    made = making.create(host, agents[0], str(ground / "made")).path
    shutil.chown(ground / "made", "nobody")
    (ground / os.path.basename(made)).symlink_to(made)
    for path in (made, ground / os.path.basename(made)):
        with pytest.raises(OpsError, match=r"not a directory that only root can change.*--agent first"):
            opened(path)
        assert opened(path, "--agent", "second") == "second"
