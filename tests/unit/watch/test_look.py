# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A check of a host and its agents: its history, and faults that must not harm it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Moved
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health, journal, servers
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Health, Problem
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager, Unit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import look, process, runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.findings import Finding, Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.process import Process

NOW = 1_795_000_000.0
PROBLEM = Problem("no_answer", "the api server does not answer", "see the log")
CONNECTED = {"state": "connected"}


def causes(report):
    return [(finding.cause, "failure" if finding.failure else "warning") for finding in report.findings]


def unit(restarts=0):
    entered = time.clock_gettime(time.CLOCK_MONOTONIC) - 1000
    name = "hermes-gateway@default.service"
    return Unit(name, "loaded", "active", "running", True, os.getpid(), restarts, "", 0, entered, False)


SCHEMA = "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id, role, timestamp, observed)"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with one agent whose gateway is this very process."""
    if os.geteuid() != 0:
        pytest.skip("records are root's")
    home = tmp_path / "home"
    home.mkdir()
    ops = tmp_path / "ops"
    host = Installation(
        {
            **{"scope": "system", "data_dir": str(tmp_path)},
            **{"ops_dir": str(ops), "root": str(tmp_path / "root"), "managed_root": str(tmp_path / "managed")},
        }
    )
    ops.mkdir(mode=0o700)
    described.release(host.root)
    host.records("default").write_agent(
        described.agent(
            home=str(home),
            directory=str(tmp_path),
            managed_dir=str(tmp_path / "managed"),
            api={"enabled": True, "port": 1},
        )
    )
    host.state = unit()
    monkeypatch.setattr(Manager, "units", lambda _self, names: dict.fromkeys(names, host.state))
    host.failed = {}
    monkeypatch.setattr(look, "_failed_units", lambda: host.failed)
    monkeypatch.setattr(look, "settings_path", lambda job: str(tmp_path / job))
    host.problems = []
    monkeypatch.setattr(health, "judge", lambda *_arguments: Health("default", list(host.problems)))
    monkeypatch.setattr(journal, "explain", lambda _agent, _manager, found: found.log.append("its last words"))
    (home / "gateway_state.json").write_text(json.dumps({"pid": os.getpid(), "platforms": {}}))
    return host


@pytest.fixture
def see(host):
    def take(**settings):
        return look.look(host, Settings(disk_percent=0, **settings))

    return take


def test_a_host_that_is_well(see, host):
    report = see()
    assert report.findings == []
    assert report.message == "1 agent healthy"
    assert host.read_status("check")["status"] == "success"
    figures = report.figures["agents"]["default"]
    assert figures["turns"] == figures["turns_failed"] == figures["restarts"] == 0
    assert figures["memory_bytes"] > 0


def test_users_agents_are_looked_at_where_there_may_be_some(see, host, tmp_path, monkeypatch):
    gone = Finding("proxy_down", "nobody reaches them", "converge the host")
    monkeypatch.setattr(runtimes, "look", lambda _directory: [gone])
    seen = []

    def look_at_agents(_host, known, now):
        seen.append(known)
        return [], {"user-1": now}, {"known": 1}

    monkeypatch.setattr(runtimes, "look_at_agents", look_at_agents)
    assert see().findings == seen == []
    (tmp_path / "runtimes").touch()
    assert see().findings == see().findings == [gone]
    assert [list(known) for known in seen] == [[], ["user-1"]]


def test_an_agent_that_is_down_is_explained(see, host):
    host.problems = [PROBLEM]
    report = see()
    assert causes(report) == [("no_answer", "failure")]
    assert report.agents[0].log == ["its last words"]
    assert report.message == "1 failure: the api server does not answer"
    assert host.read_status("check")["status"] == "failed"


@pytest.mark.parametrize(
    ("done", "what", "fix"),
    [(True, "has moved to user-1", "runtime move USER --to AGENT"), (False, "not finished", "the same hermes-ops")],
)
def test_nobody_is_told_to_start_an_agent_that_has_moved(see, host, done, what, fix):
    host.records("default").write_moved(Moved("user-1", done))
    assert causes(see()) == []
    host.state = replace(host.state, active="inactive", sub="dead", pid=0)
    host.problems = [Problem("not_running", "the unit is inactive", "systemctl start it")]
    (found,) = see().findings
    assert found.cause == "moved"
    assert what in found.what
    assert fix in found.fix


def test_an_agent_that_left_the_list_is_reported_until_it_is_declared(see, host):
    host.records("default").mark_undeclared(True)
    report = see()
    assert causes(report) == [("undeclared", "warning")]
    assert "state: absent}, with purge: true" in report.findings[0].fix
    assert report.healthy
    host.records("default").mark_undeclared(False)
    assert see().findings == []


def test_an_adopted_home_with_old_sessions_is_reported(see, host):
    home = Path(host.agents[0].home)
    with sqlite3.connect(home / "state.db") as database:
        database.execute(SCHEMA)
        database.execute("CREATE TABLE sessions (id, started_at, ended_at)")
        database.execute("INSERT INTO sessions VALUES ('old', 1, 2)")
    database.close()
    report = see()
    assert causes(report) == [("unlimited", "warning")]
    assert "would remove 1 session that ended" in report.findings[0].what
    (home / "config.yaml").write_text("sessions: {auto_prune: false}\n")
    assert see().findings == []


def test_while_an_update_runs_it_may_be_down_for_a_while(see, host, monkeypatch):
    clock = [time.time()]
    monkeypatch.setattr(look.time, "time", lambda: clock[0])
    host.problems = [PROBLEM]
    with host.lock("update"):
        for seconds, severity in [(0, "warning"), (500, "warning"), (200, "failure")]:
            clock[0] += seconds
            assert causes(see()) == [("no_answer", severity)]
        host.problems = []
        assert see().findings == []
        host.problems = [PROBLEM]
        assert causes(see()) == [("no_answer", "warning")]
    assert causes(see()) == [("no_answer", "failure")]


@pytest.mark.parametrize(
    ("journal", "job", "agent"),
    [
        ("update/journal.json", "update", None),
        ("separate.json", "separate", None),
        ("agents/default/restore.json", "restore", "default"),
    ],
)
def test_a_job_that_was_interrupted_is_named_with_its_remedy(see, host, journal, job, agent):
    path = Path(host.ops_dir, journal)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    (finding,) = see().findings
    assert (finding.cause, finding.failure, finding.agent) == ("interrupted", True, agent)
    assert (finding.what, finding.fix) == (
        f"{job} was interrupted on this host",
        f"undo it: hermes-ops {job} --recover",
    )
    # While it is under way it is none.
    with host.lock(job, timeout=1):
        assert see().findings == []
    path.unlink()
    assert see().findings == []


def test_failures_come_first(see, host):
    host.problems = [PROBLEM]
    report = see(certificates=["/no/such/file"])
    assert causes(report) == [("no_answer", "failure"), ("expiry_unknown", "warning")]
    assert report.message == "1 failure, 1 warning: the api server does not answer"


def test_a_current_release_that_is_gone_is_a_failure_of_the_host_and_of_every_agent(see, host, tmp_path):
    shutil.rmtree(tmp_path / "root/releases")
    report = see()
    assert causes(report) == [("release_gone", "failure")]
    assert not report.healthy
    assert not report.about("default").healthy
    assert report.findings[0].fix == "converge the host, which builds it: site.yml"


def test_restarts_are_seen_from_one_look_to_the_next(see, host):
    for count in (0, 2, 4):
        host.state = unit(restarts=count)
        report = see()
    assert causes(report) == [("restarts", "failure")]


def test_a_deaf_platform_has_to_be_deaf_twice(see, host, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "look_at_process", lambda *_arguments: Process(9, False, 1))
    state = {"pid": os.getpid(), "platforms": {"discord": CONNECTED, "telegram": CONNECTED}}
    (tmp_path / "home/gateway_state.json").write_text(json.dumps(state))
    (tmp_path / "home/.env").write_text("TELEGRAM_WEBHOOK_URL=https://me.example/\n")
    assert see().findings == []
    (finding,) = see().findings
    assert finding.cause == "deaf"
    assert finding.what.startswith("discord: connected according to Hermes")


def test_an_event_loop_that_froze(see, tmp_path):
    (tmp_path / "home/state").mkdir()
    beat = {"pid": os.getpid(), "monotonic": time.monotonic() - 200}
    (tmp_path / "home/state/gateway.heartbeat").write_text(json.dumps(beat))
    assert causes(see()) == [("frozen", "failure")]


def test_no_agent_at_all_is_no_good_sign(see, host):
    shutil.rmtree(host.ops_dir)
    report = see()
    assert causes(report) == [("no_agent", "failure")]
    # Nothing is created at the mount point of the volume.
    assert not os.path.exists(host.ops_dir)


def test_a_host_may_have_the_agents_of_users_only(see, host, tmp_path, monkeypatch):
    shutil.rmtree(host.ops_dir)
    (tmp_path / "runtimes").touch()
    monkeypatch.setattr(runtimes, "look", lambda _directory: [])
    monkeypatch.setattr(runtimes, "look_at_agents", lambda *_arguments: ([], {}, {"known": 1}))
    assert causes(see()) == []


def test_what_is_remembered_may_be_damaged(see, host):
    os.makedirs(os.path.dirname(host.status_path("check")))
    for content in ("{", "[]", '{"memory": []}', '{"memory": {"agents": {"default": [1]}, "sqlite": 7}}'):
        with open(host.status_path("check"), "w") as stream:
            stream.write(content)
        assert {finding.cause for finding in see().findings} <= {"status_unknown"}
    assert see().findings == []


def test_a_disk_that_takes_nothing(see, host, monkeypatch):
    def full(*_arguments, **_more):
        raise OpsError("cannot be written (No space left on device)", where="/x", fix="free space")

    monkeypatch.setattr(Installation, "write_status", full)
    assert causes(see()) == [("not_remembered", "failure")]


def test_an_sqlite_with_the_fault_is_asked_once_a_release(see, host, tmp_path):
    release = described.release(host.root, "1.0")
    python = release / "bin/python"
    python.write_text(f"#!/bin/sh\necho asked >>{tmp_path}/asked\necho 3.40.1\n")
    python.chmod(0o755)
    # No database is in WAL mode, so the release is not asked.
    assert see().findings == []
    with contextlib.closing(sqlite3.connect(tmp_path / "home/state.db")) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(SCHEMA)
    for _twice in range(2):
        (finding,) = see().findings
        assert (finding.cause, finding.failure) == ("sqlite_wal", False)
        assert "3.40.1" in finding.what
    assert (tmp_path / "asked").read_text() == "asked\n"
    python.write_text("#!/bin/sh\necho 3.51.3\n")
    release.rename(tmp_path / "root/releases/1.1")
    (tmp_path / "root/current").unlink()
    (tmp_path / "root/current").symlink_to(tmp_path / "root/releases/1.1")
    assert see().findings == []


def test_a_reply_is_asked_for_when_it_is_due(see, host, tmp_path, monkeypatch):
    asked = []

    def ask(_server, _account, _prompt, *, key_in, key, timeout):
        assert key is None
        asked.append((key_in, timeout))
        if host.dead:
            raise OpsError("the agent answered with an error instead of a reply", fix="check the model")
        return "fine"

    monkeypatch.setattr(servers, "ask", ask)
    monkeypatch.setattr(look.time, "time", lambda: host.now)
    host.now, host.dead = NOW, False
    assert see().findings == []
    assert asked == []
    every = {"reply_minutes": 30, "reply_seconds": 9}
    for minutes, count in [(0, 1), (2, 1), (29, 1), (30, 2)]:
        host.now = NOW + 60 * minutes
        assert see(**every).findings == []
        assert asked == [([str(tmp_path / "home"), str(tmp_path / "managed")], 9)] * count
    host.now, host.dead = NOW + 3600, True
    assert causes(see(**every)) == [("no_reply", "failure")]
    # After a failure the agent is asked again sooner, and the finding stays until it answers.
    host.now += 120
    assert causes(see(**every)) == [("no_reply", "failure")]
    assert len(asked) == 3
    host.now, host.dead = host.now + 60 * look.ASK_AGAIN_MINUTES, False
    assert see(**every).findings == []
    # The clock was set back by a year.
    host.now -= 365 * 86400
    see(**every)
    assert len(asked) == 5


def test_one_agent_at_a_time_is_asked(see, host, monkeypatch):
    asked = []
    monkeypatch.setattr(servers, "ask", lambda server, *_arguments, **_more: asked.append(server.port))
    monkeypatch.setattr(health, "judge", lambda agent, *_arguments: Health(agent.name))
    (agent,) = host.agents
    host.agents.append(replace(agent, name="work", api=replace(agent.api, port=2)))
    for expected in ([1], [1, 2], [1, 2]):
        see(reply_minutes=30)
        assert asked == expected


def test_what_failed_and_is_not_done_any_more_is_forgotten(see, host, tmp_path):
    host.write_status("update", "failed", "no network")
    host.write_status("rehearsal", "failed", "damaged")
    (tmp_path / "rehearsal").touch()
    assert causes(see()) == [("rehearsal_failed", "failure")]


def test_text_that_no_encoding_has_ends_no_look(see, host):
    host.problems = [Problem("platform_not_connected", "half of a smile: \ud83d", "see the log")]
    assert causes(see()) == [("platform_not_connected", "failure")]
    assert "\ud83d" in host.read_status("check")["message"]


def test_what_else_has_failed_is_named_once(see, host, tmp_path):
    units = ("update", "update-by-hand", "dashboard", "heartbeat", "gateway@default")
    host.failed = dict.fromkeys([*(f"hermes-{unit}.service" for unit in units), "systemd-journal-upload.service"], NOW)
    host.write_status("update", "failed", "no network")
    (tmp_path / "update").touch()
    found = {finding.what.split()[0]: finding.failure for finding in see().findings if finding.cause == "unit_failed"}
    assert found == {"hermes-dashboard.service": False, "systemd-journal-upload.service": False}
    assert ("update_failed", "failure") in causes(see())


@pytest.mark.parametrize("unit", ["hermes-backup.service", "hermes-backup-by-hand.service"])
def test_a_unit_that_failed_is_forgotten_once_its_job_went_well(see, host, unit):
    now = time.time()
    host.failed = {unit: now - 60}
    assert causes(see()) == [("unit_failed", "warning")]
    host.write_status("backup", "success", "backed up: default")
    assert see().findings == []
    # It failed again, before it could say so; and a timer does nothing that could go well.
    host.failed = {unit: now + 60}
    assert causes(see()) == [("unit_failed", "warning")]
    host.failed = {"hermes-backup.timer": now - 60}
    assert causes(see()) == [("unit_failed", "warning")]
    host.failed = {unit: now - 60}
    host.write_status("backup", "failed", "no space")
    assert causes(see()) == [("unit_failed", "warning")]


def test_when_a_unit_failed(monkeypatch):
    answers = {
        "list-units": "hermes-a.service loaded failed failed A\nhermes-b.timer loaded failed failed B\n",
        "show": "InactiveEnterTimestampMonotonic=1000000\n\nInactiveEnterTimestampMonotonic=2500000\n",
    }
    monkeypatch.setattr(look, "run", lambda argv, **_options: Completed(tuple(argv), 0, answers[argv[1]], ""))
    monkeypatch.setattr(look.time, "time", lambda: NOW)
    monkeypatch.setattr(look.time, "clock_gettime", lambda _clock: 10.0)
    assert look._failed_units() == {"hermes-a.service": NOW - 9, "hermes-b.timer": NOW - 7.5}
    answers["show"] = ""
    assert look._failed_units() == {"hermes-a.service": math.inf, "hermes-b.timer": math.inf}
    answers["list-units"] = ""
    assert look._failed_units() == {}


def messages(home, *rows):
    with contextlib.closing(sqlite3.connect(Path(home) / "state.db")) as database, database:
        database.execute(SCHEMA.replace("TABLE", "TABLE IF NOT EXISTS"))
        insert = "INSERT INTO messages (session_id, role, timestamp, observed) VALUES (?, ?, ?, 0)"
        database.executemany(insert, rows)


def test_a_provider_is_repaired_when_it_answers(see, host):
    home, now = host.agents[0].home, time.time()
    messages(home, ("a", "user", now - 900), ("b", "user", now - 800))
    assert causes(see()) == [("provider_errors", "failure")]
    messages(home, ("c", "user", now - 20), ("c", "assistant", now - 10))
    assert see().findings == []


def test_an_answer_to_somebody_else_lets_the_agent_be_asked_again_at_once(see, host, monkeypatch):
    def ask(*_arguments, **_more):
        asked.append(1)
        if host.dead:
            raise OpsError("the agent answered with an error instead of a reply", fix="check the model")

    asked, host.dead = [], True
    monkeypatch.setattr(servers, "ask", ask)
    for _twice in range(2):
        assert causes(see(reply_minutes=30)) == [("no_reply", "failure")]
    assert len(asked) == 1
    host.dead = False
    messages(host.agents[0].home, ("a", "user", time.time()), ("a", "assistant", time.time()))
    assert see(reply_minutes=30).findings == []
    assert len(asked) == 2


def test_what_is_acknowledged_is_no_warning_but_remains_for_programs(see, host):
    host.records("default").mark_undeclared(True)
    host.failed = {"hermes-dashboard.service": NOW}
    report = see()
    ids = [finding.id for finding in report.findings]
    assert ids == ["unit_failed:hermes-dashboard.service", "default/undeclared"]
    assert report.message == "1 agent healthy, 2 warnings"
    host.acknowledged = [{"finding": ids[1], "reason": "it is decided on Monday", "until": "9999-12-31"}]
    report = see()
    assert report.message == "1 agent healthy, 1 warning"
    assert [finding.cause for finding in report.unacknowledged] == ["unit_failed"]
    said = {finding["cause"]: finding["acknowledged"] for finding in report.as_dict()["findings"]}
    assert said == {
        "unit_failed": None,
        "undeclared": {"reason": "it is decided on Monday", "until": "9999-12-31"},
    }
    assert report.as_dict()["acknowledged"] == [{**host.acknowledged[0], "state": "holds"}]


def test_the_clock_is_remembered(see, host):
    see()
    look.remember_clock(host, -200.0)
    assert causes(see()) == [("clock_off", "failure")]
    assert see().figures["clock_offset"] == -200.0
    look.remember_clock(host, 0.3)
    assert see().findings == []


def test_what_concerns_one_agent(see, host):
    host.problems = [PROBLEM]
    host.data_volume = True
    report = see()
    assert {finding.cause for finding in report.findings} == {"no_answer", "volume_missing"}
    assert [finding.cause for finding in report.about("default").findings] == ["no_answer"]
    assert report.about("other").findings == []


@pytest.mark.parametrize(("version", "found"), [("0.21.3", []), ("0.21.4", [("shared_home", "warning")])])
def test_a_home_of_several_agents_is_named_once_one_gateway_serves_them_all(see, host, tmp_path, version, found):
    outer = host.select("default")[0]
    inner = replace(outer, name="work", home=f"{outer.home}/profiles/work", unit="hermes-gateway@work.service")
    os.makedirs(inner.home)
    host.records("work").write_agent(inner)
    del host.agents
    release = described.release(host.root, version)
    (release / "release.json").write_text(json.dumps({"version": version}))
    report = see()
    assert causes(report) == found
    assert all("holds the homes of default and work" in finding.what for finding in report.findings)
