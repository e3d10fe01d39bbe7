# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a home says of its agent's work, the answer is small, plain and limited in time."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import work
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.work import Work
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from hypothesis import given
from hypothesis import strategies as st

OWNER = Account.current()
# 2026-11-22 16:00 UTC, and when the gateway was started.
NOW = 1_795_363_200.0
SINCE = NOW - 7200
MINUTE = 60.0
FILES = ("gateway_state.json", "processes.json", "cron/jobs.json", "state.db", "cron/executions.db")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "cron").mkdir()
    return tmp_path


def iso(when: float) -> str:
    return work.datetime.fromtimestamp(when, work.timezone.utc).isoformat()


def seen(home: Path, since: float = SINCE) -> Work:
    """What root gets of a worker's look."""
    return Work.of(work.worker.parse(json.dumps(work.look(str(home), since, NOW)).encode()))


def write(home: Path, name: str, value: object) -> None:
    (home / name).write_text(json.dumps(value))


def put_messages(home: Path, *messages: tuple[object, ...], ended: float | None = None) -> None:
    """Each is session, role, time, calls of tools; the sessions are of the API, and *ended* then."""
    with sqlite3.connect(home / "state.db") as database:
        database.execute("CREATE TABLE sessions (id TEXT PRIMARY KEY, source TEXT, ended_at REAL)")
        database.execute(
            "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, timestamp REAL, "
            "tool_calls TEXT, observed INTEGER DEFAULT 0, active INTEGER DEFAULT 1, compacted INTEGER DEFAULT 0)"
        )
        for session in {message[0] for message in messages}:
            database.execute("INSERT INTO sessions VALUES (?, 'api_server', ?)", (session, ended))
        database.executemany(
            "INSERT INTO messages (session_id, role, timestamp, tool_calls) VALUES (?, ?, ?, ?)", messages
        )
    database.close()


def put_executions(home: Path, *rows: tuple[object, ...]) -> None:
    with sqlite3.connect(home / "cron/executions.db") as database:
        database.execute("CREATE TABLE executions (job_id TEXT, status TEXT, claimed_at TEXT)")
        database.executemany("INSERT INTO executions VALUES (?, ?, ?)", rows)
    database.close()


def test_an_empty_home_is_at_rest(home):
    assert seen(home) == Work()
    assert seen(home / "nowhere") == Work()


@pytest.mark.parametrize(
    ("messages", "busy"),
    [
        ([("a", "user", NOW - 5, None)], True),
        ([("a", "user", NOW - 5, None), ("a", "assistant", NOW - 4, None)], False),
        ([("a", "user", NOW - 5, None), ("a", "assistant", NOW - 4, "[]")], False),
        ([("a", "user", NOW - 5, None), ("a", "assistant", NOW - 4, '[{"id": 1}]')], True),
        ([("a", "assistant", NOW - 4, '[{"id": 1}]'), ("a", "tool", NOW - 3, None)], True),
        ([("a", "user", NOW - 5, None), ("a", "session_meta", NOW - 4, None)], True),
        # Another conversation that was answered does not end it.
        ([("a", "user", NOW - 5, None), ("b", "user", NOW - 4, None), ("b", "assistant", NOW - 3, None)], True),
        ([("a", "user", NOW - 29 * MINUTE, None)], True),
        ([("a", "user", NOW - 31 * MINUTE, None)], False),
        ([("a", "user", NOW + 3600, None)], False),
        ([("a", "user", "soon", None), ("b", "user", float("inf"), None), ("c", "user", None, None)], False),
    ],
)
def test_a_turn_lasts_until_it_is_answered_or_shows_nothing_for_half_an_hour(home, messages, busy):
    put_messages(home, *messages)
    assert seen(home).busy == (["a turn of api_server"] if busy else [])


def test_a_conversation_that_ended_has_no_turn(home):
    put_messages(home, ("a", "user", NOW - 5, None), ended=NOW - 4)
    assert seen(home).busy == []


def test_a_message_that_was_only_overheard_or_taken_back_is_no_turn(home):
    put_messages(home, ("a", "user", NOW - 5, None), ("b", "user", NOW - 5, None))
    with sqlite3.connect(home / "state.db") as database:
        database.execute("UPDATE messages SET observed = 1 WHERE session_id = 'a'")
        database.execute("UPDATE messages SET active = 0 WHERE session_id = 'b'")
    database.close()
    assert seen(home).busy == []


@pytest.mark.parametrize(
    ("count", "updated", "busy"),
    [
        (1, iso(NOW - 5), True),
        (0, iso(NOW - 5), False),
        (1, iso(NOW - 31 * MINUTE), False),
        (1, iso(NOW - 5).replace("+00:00", "Z"), True),
        (1, iso(NOW - 5).replace("+00:00", ""), True),
        (1, "9999-12-31T23:59:59-23:59", False),
        (1, "0001-01-01T00:00:00+23:59", False),
        (1, 17, False),
        (True, iso(NOW - 5), False),
        ("1", iso(NOW - 5), False),
    ],
)
def test_the_gateway_s_own_count_holds_for_half_an_hour(home, count, updated, busy):
    """0.19.0 may leave it too high: it is written only when a chat's turn begins or ends."""
    write(home, "gateway_state.json", {"active_agents": count, "updated_at": updated})
    assert seen(home).busy == (["a turn of the gateway"] if busy else [])


def test_background_processes_and_cron_jobs_count_for_a_day(home):
    day = 24 * 3600
    write(home, "processes.json", [{"started_at": NOW - 5}, {"started_at": NOW - 6}])
    claim = {"id": "once", "run_claim": {"at": iso(NOW - 5)}}
    write(home, "cron/jobs.json", {"jobs": [claim, {"id": "other", "run_claim": None}]})
    put_executions(home, ("one", "claimed", iso(NOW - 5)), ("two", "completed", iso(NOW - 5)))
    assert seen(home).busy == ["a background process", "cron job one", "cron job once"]
    assert seen(home, since=NOW - 4).busy == []
    write(home, "processes.json", [{"started_at": NOW - day - 1}])
    write(home, "cron/jobs.json", [{"id": "once", "run_claim": {"at": iso(NOW - day - 1)}}])
    (home / "cron/executions.db").unlink()
    put_executions(home, ("one", "running", iso(NOW - day - 1)))
    assert seen(home, since=0).busy == []


def test_what_began_before_the_gateway_has_ended(home):
    put_messages(home, ("a", "user", NOW - 20, None))
    write(home, "gateway_state.json", {"active_agents": 2, "updated_at": iso(NOW - 20)})
    assert len(seen(home).busy) == 2
    assert seen(home, since=NOW - 10).busy == []


def test_when_jobs_are_due_and_when_they_ended(home):
    jobs = [
        {"id": "daily", "next_run_at": iso(NOW + 900), "last_run_at": iso(NOW - 300), "enabled": True},
        {"id": "soon", "next_run_at": "2026-11-22T18:05:00+02:00", "last_run_at": None},
        {"id": "off", "next_run_at": iso(NOW + 1), "enabled": False},
        {"id": "odd", "next_run_at": "tomorrow"},
        {"id": "none", "next_run_at": None},
        {"id": "last", "next_run_at": "9999-12-31T00:00:00+00:00", "last_run_at": {}},
        "nothing",
    ]
    write(home, "cron/jobs.json", {"jobs": jobs})
    found = seen(home)
    assert found.jobs == {
        "soon": (NOW + 300, 0.0),
        "daily": (NOW + 900, NOW - 300),
        "last": (253_402_214_400.0, 0.0),
    }
    assert (found.busy, found.unread) == ([], [])


def test_very_many_jobs_and_reasons_are_cut_off(home):
    jobs = [{"id": f"{'x' * 10_000}{number}", "next_run_at": iso(NOW)} for number in range(50)]
    jobs += [{"id": str(number), "next_run_at": iso(NOW + 60 + number)} for number in range(10_000)]
    jobs += [{"id": f"c{number}", "run_claim": {"at": iso(NOW)}} for number in range(1000)]
    write(home, "cron/jobs.json", {"jobs": jobs})
    put_executions(home, *(("\x1b[2J" * 100, "running", iso(NOW)) for _number in range(1000)))
    found = work.look(str(home), SINCE, NOW)
    # More would not pass.
    assert len(json.dumps(found)) < 2**16
    assert max(due for due, _ended in found["jobs"].values()) == NOW + 60 + 198
    root = seen(home)
    assert len(root.jobs) == 200
    assert min(due for due, _ended in root.jobs.values()) == NOW
    assert len(root.busy) == 20
    assert "\x1b" not in "".join(root.busy)
    assert len(str(root)) < 20_000


def test_a_worker_that_lies_is_cut_off():
    lie = {"busy": ["\x1b" * 10**4] * 1000, "jobs": {f"\x1b{'x' * 1000}{n}": [1.0, 1.0] for n in range(1000)}}
    found = Work.of({**lie, "unread": ["\x1b"] * 1000})
    assert "\x1b" not in "".join([*found.busy, *found.jobs, *found.unread])
    assert len(str(found)) < 30_000


def test_a_file_that_is_too_large_is_not_read(home):
    write(home, "processes.json", [{"started_at": NOW - 5}, "x" * 5 * 2**20])
    found = seen(home)
    assert (found.busy, found.unread) == ([], ["processes.json"])


def spoil(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/proc/self/environ")
    elif kind == "hole":
        path.touch()
        os.truncate(path, 600 * 2**20)
    else:
        path.write_text({"deep": "[" * 10**5, "none": '[{"started_at": NaN}]', "word": "hello"}[kind])


@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "hole", "deep", "none", "word"])
def test_a_hostile_home_is_at_rest_and_says_what_could_not_be_read(kind, home):
    for name in FILES:
        spoil(home / name, kind)
    found = work.read_work(str(home), OWNER, SINCE)
    assert (found.busy, found.jobs) == ([], {})
    # gateway_state.json is no news: a stopped gateway may leave an empty one.
    assert set(found.unread) == set(FILES) - {"gateway_state.json"}


def test_a_worker_that_dies_is_an_agent_at_rest(home, monkeypatch):
    monkeypatch.setattr(work, "_LIMITS", work.Limits(seconds=0.0))
    found = work.read_work(str(home), OWNER, SINCE)
    assert (found.busy, found.jobs, len(found.unread)) == ([], {}, 1)


@given(JSON)
def test_the_answer_may_be_anything(value):
    assert isinstance(Work.of(value), Work)
    lines = {"busy": [], "jobs": {"x": value}, "unread": value}
    assert isinstance(Work.of(lines), Work)


@given(JSON, JSON)
def test_a_file_may_say_anything(tmp_path_factory, value, other):
    home = tmp_path_factory.getbasetemp() / "any"
    (home / "cron").mkdir(parents=True, exist_ok=True)
    job = {"id": other, "next_run_at": value, "last_run_at": other, "run_claim": {"at": value}, "enabled": other}
    for content in (value, [value], {"jobs": value}, {"jobs": [job, value]}):
        for name in FILES[:3]:
            write(home, name, content)
        assert seen(home).busy == []
