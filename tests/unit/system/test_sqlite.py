# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database that somebody hostile made is read in bounded time, or is one error."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import sqlite
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS version FROM n"


def make(path: Path, *statements: str) -> str:
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    return str(path)


def read(path: str, query: str, seconds: float = 60.0) -> list[tuple]:
    with sqlite.reading(path, seconds=seconds) as database:
        return database.execute(query).fetchall()


def test_rows_are_read(tmp_path):
    path = make(tmp_path / "a?b#c%20.db", "CREATE TABLE t (x)", "INSERT INTO t VALUES ('one'), (CAST(x'ff' AS TEXT))")
    assert read(path, "SELECT x FROM t") == [("one",), ("\ufffd",)]


def test_one_that_is_not_there_is_none_and_is_not_made(tmp_path):
    with sqlite.reading(str(tmp_path / "state.db"), seconds=1) as database:
        assert database is None
    assert list(tmp_path.iterdir()) == []


def test_it_cannot_be_written(tmp_path):
    path = make(tmp_path / "state.db", "CREATE TABLE t (x)")
    with pytest.raises(OpsError, match="readonly"):
        read(path, "INSERT INTO t VALUES (1)")


@pytest.mark.parametrize("suffix", ["", "-journal", "-wal", "-shm"])
def test_a_pipe_is_refused_before_sqlite_waits_for_it(tmp_path, suffix):
    path = str(tmp_path / "state.db")
    if suffix:
        make(tmp_path / "state.db", "CREATE TABLE t (x)")
    os.mkfifo(path + suffix)
    with pytest.raises(OpsError, match="not a regular file") as caught:
        read(path, "SELECT x FROM t")
    assert caught.value.where == path + suffix


@pytest.mark.parametrize("view", [ENDLESS, "SELECT 1 AS version", "SELECT version FROM real"])
def test_a_view_in_the_place_of_a_table_is_refused_at_once(tmp_path, view):
    path = make(tmp_path / "state.db", "CREATE TABLE real (version)", f"CREATE VIEW schema_version AS {view}")
    for query in ("SELECT version FROM schema_version", "SELECT count(*) FROM schema_version"):
        with pytest.raises(OpsError, match=r"prohibited|not authorized"):
            read(path, query)


def test_a_query_that_takes_too_long_is_interrupted(tmp_path):
    path = make(
        tmp_path / "state.db",
        "CREATE TABLE t (x)",
        "INSERT INTO t WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1000) SELECT x FROM n",
    )
    with pytest.raises(OpsError, match=r"took longer than 0\.01 s"):
        read(path, "SELECT count(*) FROM t a, t b, t c, t d, t e", seconds=0.01)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_what_is_no_database_is_one_error(tmp_path, content):
    (tmp_path / "state.db").write_bytes(content)
    with pytest.raises(OpsError, match="cannot be read"):
        read(str(tmp_path / "state.db"), "SELECT name FROM sqlite_master")


def test_an_index_for_words_is_searched_all_the_same(tmp_path):
    try:
        path = make(
            tmp_path / "state.db",
            "CREATE VIRTUAL TABLE words USING fts5(text)",
            "INSERT INTO words VALUES ('the word'), ('another')",
        )
    except sqlite3.OperationalError:
        pytest.skip("SKIPPED, NOT PROVED: this SQLite has no FTS5")
    assert read(path, "SELECT rowid FROM words WHERE words MATCH 'word'") == [(1,)]
