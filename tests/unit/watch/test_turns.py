# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Failed turns are counted, whatever is in the place of the database."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import (
    turns,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.findings import Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.turns import Turns
from hypothesis import example, given
from hypothesis import strategies as st

NOW = 1_795_000_000.0
HOUR, DAY = 3600, 86400


def causes(findings):
    return [(finding.cause, "failure" if finding.failure else "warning") for finding in findings]


AGO = NOW - 600


def numbers(counted):
    return counted.total, counted.failed


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], (0, 0)),
        ([("a", "user"), ("a", "assistant")], (1, 0)),
        ([("a", "user")], (1, 1)),
        ([("a", "user"), ("a", "assistant"), ("a", "tool")], (1, 1)),
        ([("a", "user"), ("a", "assistant"), ("a", "tool"), ("a", "assistant")], (1, 0)),
        # Said again, and answered then.
        ([("a", "user"), ("a", "user"), ("a", "assistant")], (2, 1)),
        # Two conversations at the same time.
        ([("a", "user"), ("b", "user"), ("b", "assistant"), ("a", "assistant")], (2, 0)),
        # The message itself was said long before.
        ([("a", "assistant")], (0, 0)),
    ],
)
def test_turns(rows, expected):
    newest_first = [(session, role, AGO) for session, role in reversed(rows)]
    assert numbers(turns.count_turns(newest_first, NOW)) == expected


def test_only_the_last_hour_counts_and_not_what_may_still_be_answered():
    rows = [
        ("now", "user", NOW - 5),
        ("working", "tool", NOW - 5),
        ("working", "user", NOW - 900),
        ("answered", "assistant", NOW - 5),
        ("answered", "user", NOW - 6),
        ("given up", "user", NOW - turns.PENDING - 1),
        ("long ago", "user", NOW - HOUR - 1),
    ]
    assert turns.count_turns(rows, NOW) == Turns(2, 1, True, NOW - 5)


@pytest.mark.parametrize(
    ("ends", "recovered"),
    [
        ("", False),
        ("+++", False),
        ("-", False),
        ("+++--", False),
        # One answer ends an outage.
        ("+++---+", True),
        ("-+", True),
        # It answers now and then: an answer proves nothing, two in a row do.
        ("-+-+", False),
        ("-+-++", True),
        ("-+++--++", False),
        ("-+++--++++", True),
    ],
)
def test_the_model_answers_again(ends, recovered):
    rows = []
    for number, end in enumerate(ends):
        rows += [(number, "user", AGO + number), *([(number, "assistant", AGO + number)] if end == "+" else [])]
    counted = turns.count_turns(reversed(rows), NOW)
    assert (counted.recovered, counted.failed) == (recovered, ends.count("-"))
    assert counted.answered == (AGO + ends.rindex("+") if "+" in ends else 0.0)
    found = turns.turn_findings(counted, Settings(provider_error_percent=0), "default")
    assert bool(found) is ("-" in ends and not recovered)


def test_turns_are_in_the_order_of_their_ends():
    rows = [("late", "assistant", AGO + 9), ("dead", "user", AGO + 5), ("late", "user", AGO)]
    assert turns.count_turns(rows, NOW).recovered
    rows = [("dead", "user", AGO + 5), ("late", "assistant", AGO + 4), ("late", "user", AGO)]
    assert not turns.count_turns(rows, NOW).recovered


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        ((0, 0), []),
        ((5, 0), []),
        ((1, 1), [("provider_errors", "warning")]),
        ((20, 2), []),
        ((19, 2), [("provider_errors", "failure")]),
    ],
)
def test_turns_become_findings(counted, expected):
    assert causes(turns.turn_findings(Turns(*counted), Settings(), "default")) == expected


SCHEMA = "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, timestamp REAL, observed INTEGER)"
INSERT = "INSERT INTO messages (session_id, role, timestamp, observed) VALUES (?, ?, ?, ?)"


@pytest.fixture
def database(tmp_path):
    """A function that makes a state.db and fills it."""

    def make(rows, schema=SCHEMA):
        path = tmp_path / "state.db"
        path.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(schema)
            if rows:
                connection.executemany(INSERT, rows)
        return path

    return make


def turns_in(tmp_path, now=NOW):
    return turns.read_turns(str(tmp_path), now)


def test_the_database_is_counted(database, tmp_path):
    assert turns_in(tmp_path) == Turns(0, 0)
    database(
        [
            ("old", "user", NOW - 3 * HOUR, 0),
            ("a", "user", AGO, 0),
            ("a", "session_meta", AGO, 0),
            ("b", "user", AGO, None),
            ("b", "assistant", AGO, 0),
            # Said in a group, to others.
            ("c", "user", AGO, 1),
        ]
    )
    assert turns_in(tmp_path) == Turns(2, 1, True, AGO)


def test_a_writer_and_a_reader_do_not_disturb_each_other(database, tmp_path):
    with contextlib.closing(sqlite3.connect(database([("a", "user", AGO, 0)]), timeout=0)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute(INSERT, ("b", "user", AGO, 0))
        assert turns_in(tmp_path) == Turns(1, 1)
        writer.execute("COMMIT")
    assert turns_in(tmp_path) == Turns(2, 2)


def test_a_database_that_somebody_locked_says_so_soon(database, tmp_path):
    with contextlib.closing(sqlite3.connect(database([]))) as writer:
        writer.execute("PRAGMA journal_mode=DELETE")
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OpsError, match=r"state\.db: cannot be read \(database is locked\)"):
            turns_in(tmp_path)


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE messages (id INTEGER PRIMARY KEY)",
        # A hostile view that never ends.
        "CREATE VIEW messages AS WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n) SELECT i AS id, "
        "'a' AS session_id, 'user' AS role, 0.0 AS timestamp, 0 AS observed FROM n",
    ],
)
def test_a_database_of_another_kind(database, tmp_path, monkeypatch, schema):
    monkeypatch.setattr(turns, "DATABASE_SECONDS", 0.2)
    database([], schema)
    with pytest.raises(OpsError, match="cannot be read") as caught:
        turns_in(tmp_path)
    assert caught.value.fix


def test_what_lies_in_the_place_of_the_database(tmp_path):
    path = tmp_path / "state.db"
    os.mkfifo(path)
    with pytest.raises(OpsError, match="not a regular file"):
        turns_in(tmp_path)
    path.unlink()
    path.write_bytes(b"SQLite format 3\0 and then nothing of the kind" * 100)
    with pytest.raises(OpsError, match="cannot be read"):
        turns_in(tmp_path)


VALUE = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
ROLES = VALUE | st.sampled_from(["user", "assistant", "tool", b"user"])
TIMES = VALUE | st.floats(NOW - 3 * HOUR, NOW)


@given(rows=st.lists(st.tuples(VALUE, ROLES, TIMES, VALUE), max_size=20))
def test_rows_may_hold_anything(tmp_path_factory, rows):
    directory = tmp_path_factory.mktemp("home")
    with contextlib.closing(sqlite3.connect(directory / "state.db")) as connection, connection:
        # No types: SQLite keeps what it is given.
        connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id, role, timestamp, observed)")
        connection.executemany(INSERT, rows)
    counted = turns_in(directory)
    assert 0 <= counted.failed <= counted.total <= len(rows)


@example(flips=[(3990, 128)])
@given(flips=st.lists(st.tuples(st.integers(0, 8191), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_database_that_was_damaged(tmp_path_factory, flips):
    path = tmp_path_factory.mktemp("home") / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(SCHEMA)
        connection.executemany(INSERT, [("a", "user", AGO, 0)] * 20)
    data = bytearray(path.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(OpsError):
        turns_in(path.parent)
