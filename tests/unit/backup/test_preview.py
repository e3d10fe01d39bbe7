# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops backup --check``: all that a backup would make and remove."""

from __future__ import annotations

import datetime
import json
import os
import socket
import time

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import archives, offsite
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup.retention import superfluous
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup.settings import Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import backup
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed

# Snapshots, and which of them restic 0.14.0 and 0.18.0 forgot with these numbers of days, weeks and months.
MADE = ["06-02 12", "07-05 12", "09-21 12", "10-11 12", "10-22 12", "11-01 12", "11-19 20", "11-20 10", "11-21 11"]
FORGOTTEN = {
    (7, 4, 6): [],
    (1, 1, 1): MADE[:-1],
    (3, 2, 0): MADE[:5],
    (0, 2, 0): [*MADE[:5], *MADE[6:8]],
    (0, 0, 3): ["06-02 12", "07-05 12", "10-11 12", "11-01 12", "11-19 20", "11-20 10"],
    (2, 3, 40): ["10-11 12", "11-19 20"],
}


def times(said: list[str]) -> list[datetime.datetime]:
    return [datetime.datetime.strptime(f"2026-{each} +0000", "%Y-%m-%d %H %z") for each in said]


@pytest.mark.parametrize("keep", FORGOTTEN)
@pytest.mark.parametrize("version", [(0, 14), (0, 18)])
def test_the_rule_is_that_of_restic(keep, version):
    found = superfluous(times(MADE), dict(zip(("daily", "weekly", "monthly"), keep)), version)
    assert [MADE[index] for index in found] == FORGOTTEN[keep]


@pytest.mark.parametrize(("version", "gone"), [((0, 14), [0, 1]), ((0, 18), [1])])
def test_the_oldest_stays_since_restic_0_16(version, gone):
    keep = {"daily": 7, "weekly": 0, "monthly": 0}
    assert superfluous(times(["11-20 09", "11-20 12", "11-20 15"]), keep, version) == gone


@pytest.fixture
def host(tmp_path, monkeypatch):
    names = {name: str(tmp_path) for name in ("data_dir", "root", "managed_root")}
    host = Installation({**names, "scope": "system", "ops_dir": str(tmp_path / "ops")})
    for name in ("first", "second"):
        agent = described.agent(
            name, home=str(tmp_path / name), unit=f"{name}.service", drain=0, directory=str(tmp_path)
        )
        host.records(name).write_agent(agent)
    monkeypatch.setattr(backup, "installation", lambda: host)
    return host


@pytest.fixture
def declare(monkeypatch):
    def declare(**settings):
        monkeypatch.setattr(backup, "declared", lambda: Settings(**settings))

    declare()
    return declare


@pytest.fixture
def restic(host, declare, monkeypatch):
    """A repository with snapshots of ``first``, as restic lists them; the calls of restic."""
    numbers = {"restic_keep_daily": 2, "restic_keep_weekly": 0, "restic_keep_monthly": 0}
    declare(keep=2, restic_repository="/somewhere", restic_password="x", **numbers)
    calls: list[str] = []
    tags = [offsite.TAG, "agent:first"]

    def snapshot(name: str, days: float, more: str | None = None, on: str = socket.gethostname()) -> dict[str, object]:
        when = datetime.datetime.now().astimezone() - datetime.timedelta(days=days)
        return {"id": name * 2, "tags": [*tags, *filter(None, [more])], "hostname": on, "time": when.isoformat()}

    found = [
        snapshot("aaaaaaaa", 800),
        snapshot("bbbbbbbb", 801),
        snapshot("cccccccc", 5, offsite._UNFINISHED),
        snapshot("dddddddd", 802, on="another"),
    ]

    def run(_self, *words, **_options):
        calls.append(words[0])
        agent = words[-1].rpartition("agent:")[2]
        said = {
            "version": "restic 0.14.0 compiled with go1.19.8",
            "snapshots": json.dumps(found if agent == "first" else []),
        }
        return Completed(words, 0, said.get(words[0], ""), "")

    monkeypatch.setattr(offsite.Repository, "_run", run)
    return calls


def archive(host, agent, days_ago):
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - days_ago * 86400))
    path = os.path.join(archives.directory_of(host), f"{agent}-{stamp}{archives.SUFFIX}")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write("an archive")
    return path


def test_everything_is_listed_and_nothing_done(host, restic, capsys):
    oldest, old, _newer = (archive(host, "first", days) for days in (3, 2, 1))
    other = archive(host, "second", 1)
    directory = archives.directory_of(host)
    before = sorted(os.listdir(directory))
    assert cli.main(["backup", "--check"]) == 0
    said = capsys.readouterr().out.splitlines()
    long_ago = [line for line in said if "forget" in line]
    assert [line for line in said if line not in long_ago] == [
        f"agent first: would write an archive to {directory}, without .env",
        f"agent first: would then remove {oldest}",
        f"agent first: would then remove {old}",
        "agent first: would write a snapshot to the restic repository",
        f"agent second: would write an archive to {directory}, without .env",
        "agent second: would write a snapshot to the restic repository",
        "would check the restic repository, and remove data from it that no snapshot uses",
    ]
    # Of two days, today's snapshot is the newest.
    assert [line.split()[5] for line in long_ago] == ["restic:bbbbbbbb", "restic:cccccccc"]
    assert sorted(os.listdir(directory)) == before
    assert other
    assert set(restic) <= {"cat", "snapshots", "version"}


def test_it_is_there_for_programs(host, restic, capsys):
    old = [archive(host, "first", days) for days in (3, 2)]
    assert cli.main(["backup", "--check", "--json", "--agent", "first"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["agents"] == {"first": {"remove": old[:1], "forget": ["bbbbbbbb", "cccccccc"]}}
    assert (said["snapshots"], said["create_repository"], said["failures"]) == (True, False, [])


def test_the_first_backup_makes_the_repository(host, restic, monkeypatch, capsys):
    monkeypatch.setattr(offsite.Repository, "exists", lambda _self: False)
    assert cli.main(["backup", "--check"]) == 0
    assert capsys.readouterr().out.startswith("would create the restic repository\n")


def test_a_repository_out_of_reach_hides_nothing_of_this_host(host, restic, monkeypatch, capsys):
    def gone(_self):
        raise OpsError("the repository, which was there before, is gone")

    monkeypatch.setattr(offsite.Repository, "exists", gone)
    assert cli.main(["backup", "--check"]) == 2
    captured = capsys.readouterr()
    assert "agent second: would write an archive" in captured.out
    assert "snapshot" not in captured.out
    assert "is gone" in captured.err


def test_what_would_be_refused_is_said(host, declare, capsys):
    os.makedirs(host.records("first").directory, exist_ok=True)
    with open(os.path.join(host.records("first").directory, "restore.json"), "w", encoding="utf-8") as stream:
        stream.write("{}")
    assert cli.main(["backup", "--check"]) == 2
    captured = capsys.readouterr()
    assert "agent first" not in captured.out
    assert "first: a restore is under way or was interrupted" in captured.err
    assert "agent second: would write" in captured.out


@pytest.mark.usefixtures("host")
def test_archives_elsewhere_remove_nothing(declare, ground, capsys):
    declare(restic_repository="/somewhere", restic_password="x")
    assert cli.main(["backup", "--check", "--output", str(ground), "--env", "include"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"agent {name}: would write an archive to {ground}, with .env" for name in ("first", "second")
    ]
