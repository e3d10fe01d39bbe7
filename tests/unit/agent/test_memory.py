# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent knows, searched: its files, and its conversations as Hermes itself wrote them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from pathlib import Path

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import memory, sessions
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import text
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account

HERMES = [path for path in os.environ.get("TEST_HERMES_VENVS", "").split(":") if path]
OWNER = Account.current()
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS id FROM n"
# Conversations: id, source, chat, ended; and what was said in them.
CONVERSATIONS = [
    ("one", "cli", None, False),
    ("two", "webhook", "webhook:claude-context:42", True),
    ("three", "webhook", "webhook:claude-context:43", True),
]
MESSAGES = [
    ("one", "user", "The zebra lives in hall 7.", 100.0, ""),
    ("one", "assistant", "A zebra! 大别山项目 and 100% of it_all.", 200.0, ""),
    ("one", "user", "Forget this zebra.", 300.0, "taken back"),
    ("one", "user", "An older zebra, summed up since.", 50.0, "compacted"),
    ("two", "user", "Incoming", 400.0, ""),
    ("two", "assistant", "First I look.", 401.0, ""),
    ("two", "assistant", "Landed\x1b[31m.", 402.0, ""),
    ("three", "user", "Incoming", 403.0, ""),
]
WRITER = """
import json, pathlib, sys
from hermes_state import SessionDB
conversations, messages = json.loads(sys.argv[2])
database = SessionDB(pathlib.Path(sys.argv[1]))
for name, source, chat, ended in conversations:
    database.create_session(name, source, chat_id=chat)
    if ended:
        database.end_session(name, "webhook_complete")
for name, role, content, when, state in messages:
    number = database.append_message(name, role, content)
    values = {"": (1, 0), "taken back": (0, 0), "compacted": (0, 1)}[state]
    database._conn.execute("UPDATE messages SET timestamp=?, active=?, compacted=? WHERE id=?", (when, *values, number))
    database._conn.commit()
"""
# The columns that the kit reads (0.18.2 and 0.19.0 hermes_state.py), for machines without a real Hermes.
TABLES = """
CREATE TABLE sessions (id TEXT PRIMARY KEY, source TEXT NOT NULL, chat_id TEXT, ended_at REAL);
CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT, timestamp REAL,
    active INTEGER NOT NULL DEFAULT 1, compacted INTEGER NOT NULL DEFAULT 0);
"""


@pytest.fixture(params=["without index", *HERMES])
def home(request, tmp_path):
    """A home with the conversations above, by SQLite alone or written by a real Hermes."""
    path = tmp_path / sessions.FILE_NAME
    if request.param == "without index":
        database = sqlite3.connect(path)
        database.executescript(TABLES)
        for name, source, chat, ended in CONVERSATIONS:
            database.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", (name, source, chat, 500.0 if ended else None))
        for name, role, content, when, state in MESSAGES:
            values = {"": (1, 0), "taken back": (0, 0), "compacted": (0, 1)}[state]
            database.execute(
                "INSERT INTO messages (session_id, role, content, timestamp, active, compacted)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (name, role, content, when, *values),
            )
        database.commit()
        database.close()
    else:
        subprocess.run(
            [f"{request.param}/bin/python", "-c", WRITER, str(path), json.dumps([CONVERSATIONS, MESSAGES])],
            check=True,
            env={"HERMES_HOME": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        )
    return str(tmp_path)


def said(home, *words, limit=10):
    return [message.text for message in sessions.search(home, words, limit)]


def test_the_newest_first_and_nothing_that_was_taken_back(home):
    assert said(home, "ZEBRA") == [
        "A zebra! 大别山项目 and 100% of it_all.",
        "The zebra lives in hall 7.",
        "An older zebra, summed up since.",
    ]
    assert said(home, "zebra", limit=1) == ["A zebra! 大别山项目 and 100% of it_all."]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["hall", "zebra"], 1),
        (["lives in hall"], 1),
        (["hall lives"], 0),
        # Parts of words, scripts without spaces, characters that are special in LIKE and FTS5.
        (["ebra"], 3),
        (["别山"], 1),
        (["100%"], 1),
        (["it_all"], 1),
        (["i%all"], 0),
        (["i__all"], 0),
        (['ze"bra'], 0),
        (["zebra", "OR", "Incoming"], 0),
        (["NEAR(zebra"], 0),
        (["content:zebra"], 0),
    ],
)
def test_words(home, words, found):
    assert len(said(home, *words)) == found


def test_where_and_when(home):
    (message,) = sessions.search(home, ["hall"], 10)
    assert (message.session, message.source, message.role, message.when) == ("one", "cli", "user", 100.0)


def test_the_last_words_of_a_conversation(home):
    assert sessions.last_words(home, "webhook:claude-context:42") == "Landed\x1b[31m."
    assert sessions.last_words(home, "webhook:claude-context:43") == ""
    assert sessions.last_words(home, "webhook:claude-context:44") is None
    database = sqlite3.connect(os.path.join(home, sessions.FILE_NAME))
    with database:
        database.execute("UPDATE sessions SET ended_at = NULL")
    database.close()
    assert sessions.last_words(home, "webhook:claude-context:42") is None


def test_reading_writes_nothing(home):
    path = Path(home, sessions.FILE_NAME)
    before = path.read_bytes()
    with pytest.raises(OpsError, match=r"readonly|not authorized"), sessions.reading(home) as database:
        database.execute("DELETE FROM messages")
    assert said(home, "zebra")
    assert path.read_bytes() == before


def test_no_database(tmp_path):
    assert sessions.search(str(tmp_path), ["x"], 1) == []
    assert sessions.last_words(str(tmp_path), "x") is None


@pytest.mark.parametrize("spoil", ["garbage", "other", "pipe", "endless"])
def test_a_hostile_database(tmp_path, monkeypatch, spoil):
    path = tmp_path / sessions.FILE_NAME
    if spoil == "pipe":
        os.mkfifo(path)
    elif spoil == "garbage":
        path.write_bytes(b"no database" * 1000)
    else:
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE sessions (id, source)")
        if spoil == "endless":
            database.execute(
                "CREATE VIEW messages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
                " SELECT i AS id, 'one' AS session_id, 'user' AS role, 'x' AS content, i AS timestamp, 1 AS active,"
                " 0 AS compacted FROM n"
            )
            monkeypatch.setattr(sessions, "QUERY_SECONDS", 0.2)
        database.commit()
        database.close()
    with pytest.raises(OpsError, match=str(path)):
        sessions.search(str(tmp_path), ["x"], 1)


# Files


@pytest.fixture
def files(tmp_path):
    (tmp_path / "memories").mkdir()
    (tmp_path / "context" / "openclaw").mkdir(parents=True)
    (tmp_path / "memories" / "MEMORY.md").write_text("The cat is called Miro.\n§\nThe zebra eats\nhay.\n§\nNo cat.\n")
    (tmp_path / "context" / "2026-11-20-zebras.md").write_text("# Zebras\n\nOne zebra.\n\n\nTwo zebras eat hay.\n")
    (tmp_path / "context" / "openclaw" / "USER.md").write_text("Likes the Zebra.")
    (tmp_path / "context" / "other.txt").write_text("zebra")
    os.utime(tmp_path / "memories" / "MEMORY.md", (1000, 1000))
    os.utime(tmp_path / "context" / "2026-11-20-zebras.md", (2000, 2000))
    os.utime(tmp_path / "context" / "openclaw" / "USER.md", (500, 500))
    return str(tmp_path)


def places(home, query, limit=10):
    found = memory.search_files(home, memory.words_of(query), limit)
    return [(place.where, place.text) for place in found]


def test_paragraphs_with_all_words(files):
    assert places(files, "zebra hay") == [
        ("context/2026-11-20-zebras.md:6", "Two zebras eat hay."),
        ("memories/MEMORY.md:3", "The zebra eats hay."),
    ]
    assert [where for where, _text in places(files, "zebra")] == [
        "context/2026-11-20-zebras.md:1",
        "context/2026-11-20-zebras.md:3",
        "context/2026-11-20-zebras.md:6",
        "memories/MEMORY.md:3",
        "context/openclaw/USER.md:1",
    ]
    assert len(places(files, "zebra", limit=2)) == 2
    # A phrase may go over a line's end.
    assert places(files, '"eats hay"') == [("memories/MEMORY.md:3", "The zebra eats hay.")]


def test_files_that_are_none(files):
    os.mkfifo(os.path.join(files, "memories", "pipe.md"))
    os.symlink("/nowhere", os.path.join(files, "memories", "dangling.md"))
    os.mkdir(os.path.join(files, "memories", "directory.md"))
    assert len(places(files, "miro")) == 1


def test_an_excerpt_is_short():
    shown = memory.excerpt("a " * 1000 + "needle " + "b " * 1000, ["needle"])
    assert len(shown) < 2 * memory.AROUND + 10
    assert "needle" in shown
    assert shown[0] == shown[-1] == "…"


def test_a_query_has_words():
    assert memory.words_of(' a  "b  c" d"e') == ["a", "b c", "d", "e"]
    for nothing in ("", "  ", '" "'):
        with pytest.raises(OpsError, match="nothing to search"):
            memory.words_of(nothing)


# The command


@pytest.fixture
def host(files, tmp_path, monkeypatch):
    """An installation with one agent that has files, and one that has none."""
    installed = Installation(
        {
            "scope": "system",
            "data_dir": files,
            "ops_dir": str(tmp_path / "ops"),
            "root": "/opt/hermes",
            "managed_root": "/m",
        }
    )
    installed.__dict__["agents"] = [
        described.agent(home=files),
        described.agent("work", home=f"{files}/none"),
    ]
    monkeypatch.setattr(Installation, "load", lambda: installed)
    return installed


def test_the_command_for_people_and_programs(host, files, capsys):
    assert cli.main(["memory", "miro"]) == cli.EXIT_OK
    printed = capsys.readouterr().out
    assert "agent default: 1 found\n  memories/MEMORY.md:1  1970-01-01 00:16 UTC\n      The cat is" in printed
    assert "agent work: nothing found" in printed
    assert cli.main(["memory", "miro", "--json", "--agent", "default"]) == cli.EXIT_OK
    assert json.loads(capsys.readouterr().out) == {
        "default": [{"where": "memories/MEMORY.md:1", "when": 1000.0, "text": "The cat is called Miro."}]
    }


def test_conversations_that_cannot_be_read_hide_no_file(host, files, capsys):
    with open(os.path.join(files, sessions.FILE_NAME), "w") as stream:
        stream.write("no database" * 1000)
    assert cli.main(["memory", "miro"]) == cli.EXIT_UNHEALTHY
    printed = capsys.readouterr()
    assert "Miro" in printed.out
    assert "state.db" in printed.err


def test_a_home_that_is_searched_for_ever_hides_no_other(host, files, capsys, monkeypatch):
    database = sqlite3.connect(os.path.join(files, sessions.FILE_NAME))
    database.execute(f"CREATE VIEW messages AS {ENDLESS}")
    database.execute("CREATE TABLE sessions (id, source)")
    database.commit()
    database.close()
    directory = os.open(os.path.join(files, "memories"), os.O_RDONLY)
    for _number in range(1300):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    os.mkfifo(os.path.join(files, "memories", "pipe.md"))
    try:
        assert cli.main(["memory", "miro"]) == cli.EXIT_UNHEALTHY
    finally:
        subprocess.run(["rm", "-rf", os.path.join(files, "memories", "d")], check=True)
    printed = capsys.readouterr()
    assert "agent default: 1 found" in printed.out
    assert "agent work: nothing found" in printed.out
    assert "state.db" in printed.err


@pytest.mark.parametrize(
    "answer", [None, [], {"found": 1}, {"found": [1, {"when": "x"}, {"where": 1, "when": 1e300, "text": []}]}]
)
def test_a_worker_may_answer_anything(answer):
    for place in memory.checked(answer)[0]:
        assert isinstance(place.where, str)
        assert place.when == 0.0


def test_nothing_hostile_reaches_the_terminal(host, files, capsys):
    with open(os.path.join(files, "memories", "evil\x1b[2J.md"), "w") as stream:
        stream.write("needle \x1b]0;title\x07 \x9b31m \u202egnp.exe\u2066 \u2028 \ud7ff \r rewritten")
    assert cli.main(["memory", "needle"]) == cli.EXIT_OK
    printed = capsys.readouterr().out
    assert "\\x1b]0;title\\x07" in printed
    assert "evil\\x1b[2J.md" in printed
    assert not set(printed) & set("\x1b\x07\x9b\u202e\u2066\u2028\r")


def test_the_name_of_a_file_is_no_line_of_ours(host, files, capsys):
    with open(os.path.join(files, "memories", "x\nagent work: 1 found\n.md"), "w") as stream:
        stream.write("needle")
    assert cli.main(["memory", "needle"]) == cli.EXIT_OK
    assert "agent work: 1 found" not in capsys.readouterr().out.splitlines()


def test_what_is_written_stays_readable():
    shown = "Grüße, 大别山 👩\u200d💻\tend"
    assert text.printable(shown) == shown
    assert text.printable("\udcff\x00\ufeff") == "\\udcff\\x00\\ufeff"


def test_a_time_that_is_none():
    assert text.moment(0) == "1970-01-01 00:00 UTC"
    for odd in (1e300, float("nan"), float("inf")):
        assert text.moment(odd) == str(odd)
