# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What limits would remove from an adopted home, as long as nobody has declared them."""

from __future__ import annotations

import os
import sqlite3
import time

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import growth

NOW = time.time()
DAY = 86400


@pytest.fixture
def home(tmp_path):
    """A home with two sessions that have ended and are old, and others."""
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("CREATE TABLE sessions (id TEXT PRIMARY KEY, started_at REAL, ended_at REAL)")
        rows = [("old", 91, 1), ("older", 400, 380), ("goes on", 400, None), ("new", 89, 80)]
        for name, began, ended in rows:
            values = (name, NOW - began * DAY, ended and NOW - ended * DAY)
            database.execute("INSERT INTO sessions VALUES (?, ?, ?)", values)
    database.close()
    return tmp_path


def test_sessions_are_counted_that_the_limit_would_remove(home):
    assert growth.old_sessions(str(home), str(home / "managed"), NOW) == 2


@pytest.mark.parametrize("place", [".", "managed"])
@pytest.mark.parametrize("prunes", ["true", "false"])
def test_a_limit_that_is_decided_is_no_finding(home, place, prunes):
    (home / place).mkdir(exist_ok=True)
    (home / place / "config.yaml").write_text(f"sessions: {{auto_prune: {prunes}}}\n")
    assert growth.old_sessions(str(home), str(home / "managed"), NOW) == 0


def test_what_cannot_be_read_is_left_to_other_checks(home):
    (home / "config.yaml").write_text("a: [\n")
    assert growth.old_sessions(str(home), "", NOW) == 0
    (home / "config.yaml").unlink()
    (home / "state.db").write_text("no database, but long enough to be taken for one: " + "x" * 4096)
    assert growth.old_sessions(str(home), "", NOW) == 0
    (home / "state.db").unlink()
    assert growth.old_sessions(str(home), "", NOW) == 0


def test_logs_are_counted_that_the_rotation_would_remove(home):
    assert growth.old_logs(str(home), NOW) == 0
    for name, days in (("logs/subagent-timeout-a.log", 15), ("sessions/request_dump_b.json", 13), ("logs/my.log", 99)):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).touch()
        os.utime(home / name, (NOW, NOW - days * DAY))
    (home / "sessions/request_dump_link.json").symlink_to(home / "logs/subagent-timeout-a.log")
    assert growth.old_logs(str(home), NOW) == 1


def test_the_finding_says_what_they_would_remove():
    assert growth.growth_findings((0, 0), "hers") == []
    (finding,) = growth.growth_findings((2, 1), "hers")
    assert not finding.failure
    assert "2 sessions that ended and began more than 90 days ago (sessions.auto_prune)" in finding.what
    assert "1 log older than 14 days (logrotate_days)" in finding.what
    (finding,) = growth.growth_findings((0, 3), "hers")
    assert "session" not in finding.what
