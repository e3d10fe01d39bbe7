# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of users' agents: they are in the job of all others, under names of their own, and nobody has to be awake."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import archives, extracting
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup.settings import Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import backup, runtime
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes as places
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.observe import STAMP
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import runtime_agents, runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

DECLARED = {"image": "localhost/hermes-agent:1", "secret": "0123456789abcdef" * 2, "agent": {}}


@pytest.fixture
def host(tmp_path, monkeypatch, inline):
    """A host with a declared agent and two users, of whom only the first was ever woken."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/runtimes.json").write_text(json.dumps(DECLARED), encoding="utf-8")
    monkeypatch.setattr(settings, "DIRECTORY", str(tmp_path / "etc"))
    (described.release(str(tmp_path)) / STAMP).write_text('{"version": "0.19.0"}', encoding="utf-8")
    names = {name: str(tmp_path) for name in ("data_dir", "root", "managed_root")}
    host = Installation({**names, "scope": "system", "ops_dir": str(tmp_path / "ops")})
    make_home(tmp_path / "home", "declared")
    host.records("default").write_agent(described.agent(home=str(tmp_path / "home"), directory=str(tmp_path)))
    users = places.Users(host.ops_dir)
    with users.lock():
        ada, _bob = users.enrol(["ada", "bob"])
    make_home(tmp_path / "users" / ada.id / ".hermes", "ada")
    monkeypatch.setattr(backup, "installation", lambda: host)
    monkeypatch.setattr(backup, "declared", lambda: Settings(keep=1))
    monkeypatch.setattr(runtimes.Installation, "load", lambda: host)
    return host


def make_home(home, text):
    (home / "memories").mkdir(parents=True)
    (home / "memories/MEMORY.md").write_text(text, encoding="utf-8")
    with sqlite3.connect(home / "state.db") as database:
        database.execute("CREATE TABLE said (text)")
        database.execute("INSERT INTO said VALUES (?)", (text,))
    database.close()


@pytest.fixture
def ada(host):
    return places.Users(host.ops_dir).get("ada")


@pytest.fixture
def job(monkeypatch):
    ended = []
    monkeypatch.setattr(backup.heartbeat, "report", lambda *_arguments: None)
    monkeypatch.setattr(backup.heartbeat, "conclude", lambda _host, _job, failed, said, **_more: ended.append(said))
    monkeypatch.setattr(backup.signal, "signal", lambda *_arguments: None)

    def run(*words):
        parser = argparse.ArgumentParser()
        backup.arguments(parser)
        backup.work(parser.parse_args(words))
        return ended

    run.ended = ended
    return run


def kept(host):
    return [each.agent for each in archives.listed(archives.directory_of(host))]


def test_a_user_s_agent_is_where_and_whom_the_host_sees(host, ada, tmp_path):
    (agent,) = runtime_agents.with_homes(host)
    assert (agent.name, agent.user) == (f"user-{ada.id}", "700000")
    assert agent.home == f"{agent.directory}/.hermes" == str(tmp_path / "users" / ada.id / ".hermes")
    assert agent.unit == f"hermes-user-agent@{ada.id}.service"
    assert (agent.api.host, agent.api.port) == ("10.210.0.2", 8642)
    assert not agent.adopted
    account = host.account_of(agent)
    assert (account.uid, account.gid) == (700_000, 700_000)


def test_the_nightly_job_backs_up_users_and_skips_homes_that_were_never_made(host, ada, job):
    assert job() == ["backed up: default, the agent of a user"]
    assert kept(host) == ["default", ada.agent]
    made = {each.agent: extracting.verify(each.path) for each in archives.listed(archives.directory_of(host))}
    # What a user's agent runs is in its image.
    versions = {name: manifest.version for name, manifest in made.items()}
    assert versions == {"default": "0.19.0", ada.agent: None}


def test_hundreds_of_users_are_a_number_in_the_message():
    users = [f"user-{number:032x}" for number in range(300)]
    assert backup.named([*users, "default", "user-friendly"]) == "default, user-friendly, agents of 300 users"
    assert backup.named([]) == ""


def test_users_keep_as_many_archives_as_the_others(host, ada, job):
    job()
    (first,) = archives.listed(archives.directory_of(host), ada.agent)
    old = first.path.replace("-20", "-19")
    os.rename(first.path, old)
    job()
    assert kept(host).count(ada.agent) == 1
    assert not os.path.exists(old)


def test_what_would_be_made_says_so_of_users_too(host, ada, job, capsys):
    job("--check")
    assert f"agent {ada.agent}: would write an archive" in capsys.readouterr().out
    assert not os.path.exists(archives.directory_of(host))


def test_records_that_cannot_be_read_keep_no_declared_agent_from_its_backup(host, ada, job):
    with open(os.path.join(host.ops_dir, "runtimes", f"{ada.id}.json"), "w", encoding="utf-8") as stream:
        stream.write("{")
    with pytest.raises(OpsError, match="the agents of users: "):
        job()
    assert kept(host) == ["default"]


def test_one_user_s_backup_is_made_by_their_id(host, ada, job, monkeypatch):
    monkeypatch.setattr(runtime.os, "geteuid", lambda: 0)
    parser = argparse.ArgumentParser()
    runtime.arguments(parser)
    assert runtime.work(parser.parse_args(["backup", "ada"])) == 0
    assert kept(host) == [ada.agent]
    # Not the nightly one.
    assert job.ended == []


def test_a_user_whom_nobody_knows_is_no_agent(host):
    with pytest.raises(OpsError, match="there is no agent"):
        runtime_agents.one(host, f"user-{'0' * 32}")


def test_a_host_without_runtimes_has_no_users(host, tmp_path, job):
    (tmp_path / "etc/runtimes.json").unlink()
    assert job() == ["backed up: default"]
