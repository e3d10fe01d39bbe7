# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages of a soak in Hermes' databases: what counts as kept, as set aside, and as neither."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import load
import pytest
import sessions

TEXT = load.text_of(0).replace("0", r"(\d+)")
PATTERNS = {"user": TEXT, "assistant": load.HEARD + TEXT}


def database(directory: Path, messages: Iterable[tuple[str, str]]) -> sqlite3.Connection:
    directory.mkdir(parents=True, exist_ok=True)
    made = sqlite3.connect(directory / "state.db")
    made.execute("PRAGMA journal_mode = WAL")
    made.execute("CREATE TABLE messages (role TEXT, content TEXT)")
    made.executemany("INSERT INTO messages VALUES (?, ?)", messages)
    made.commit()
    return made


def turn(number: int) -> list[tuple[str, str]]:
    return [("user", load.text_of(number)), ("assistant", f"{load.HEARD}{load.text_of(number)}")]


def test_a_message_counts_with_its_reply_only(tmp_path):
    (question, answer), (_other, lonely) = turn(1), turn(2)
    said = [question, answer, lonely, ("user", load.text_of(3)), ("tool", "x"), ("assistant", None), *turn(12)]
    # Open, as that of a running gateway: the latest messages are in the file beside it.
    with database(tmp_path, said):
        before = sorted(path.name for path in tmp_path.iterdir())
        assert sessions.numbers(str(tmp_path), PATTERNS) == {1, 12}
        assert sorted(path.name for path in tmp_path.iterdir()) == before


PLACES = {
    "agents/default/.hermes": "kept",
    "ops/set-aside/default-20260102T030405Z": "aside",
    "ops/set-aside/update-20260102T030405Z/default": "aside",
    "ops/set-aside/update-20260102T030405Z/default/before-the-switch": "aside",
    "agents/small/.hermes/.hermes-ops-set-aside-20260102T030405Z": "aside",
    "agents/small/.hermes/.hermes-ops-undone-20260102T030405Z": "aside",
    # Nobody finds a message there.
    "ops/update/frozen/update-20260102T030405Z/default": None,
    "scratch/canary/.hermes": None,
    "agents/small/.hermes/.hermes-ops-restore-abc": None,
}


@pytest.mark.parametrize("place", PLACES)
def test_where_a_message_may_be(tmp_path, place):
    database(tmp_path / place, turn(5)).close()
    expected = {"kept": [], "aside": [], PLACES[place]: [5]}
    found = sessions.search(str(tmp_path), PATTERNS)
    assert found == {"kept": expected["kept"], "aside": expected["aside"]}


def test_a_damaged_database_holds_nothing(tmp_path):
    """It is called from the box's own Python."""
    home = tmp_path / "agents/default/.hermes"
    home.mkdir(parents=True)
    (home / "state.db").write_text("no database at all, but long enough to be read as one" * 20)
    program = [sys.executable, sessions.__file__, str(tmp_path), PATTERNS["user"], PATTERNS["assistant"]]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"kept": [], "aside": []}
    assert "not a database" in done.stderr
